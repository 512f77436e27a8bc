"""A worker stops while runs have no code in it, for they are being loaded: it hands them back."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from everlong import Client, Signal, Worker, activity, continue_as_new, workflow
from everlong_engine.model.runs import RunRow
from everlong_engine.store.interface import RunFilter

pytestmark = pytest.mark.once
"""With the cache off each run is loaded again and again, and would not come to where they stop."""

nudge: Signal[str] = Signal("nudge one who is loaded", str)


class Loads:
    """Each load of a run waits from here on; none ever comes to its end."""

    def __init__(self, client: Client) -> None:
        self.waits = asyncio.Event()
        client.engine.store.load = self._wait  # type: ignore[method-assign, assignment]

    async def _wait(self, *_: Any) -> Any:
        self.waits.set()
        await asyncio.Event().wait()


async def row_of(client: Client) -> RunRow:
    """The newest run of the only execution."""
    return (await client.engine.store.list_runs(RunFilter("default"), 1, None))[0]


async def test_an_outcome_that_waited_to_be_fed_is_fed_by_the_next(path: Path) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    @activity(at_most_once=True)
    async def charges() -> str:
        began.set()
        await may_end.wait()
        ran.append("charged")
        return "charged"

    @workflow
    async def charged_while_loading() -> str:
        return await charges()

    async with Client.connect(path) as client:
        worker = Worker(client)
        await worker.start()
        handle = await client.start(charged_while_loading)
        await began.wait()
        await handle.pause()
        loads = Loads(client)
        await handle.resume()
        await loads.waits.wait()
        may_end.set()
        await worker.stop()
        row = await row_of(client)
        assert (row.owner, row.losses) == (None, 0)
    async with Client.connect(path) as client, Worker(client):
        assert await client.get_handle(row.workflow_id, charged_while_loading).result() == "charged"
        assert list(await client.verify()) == []
    assert ran == ["charged"]


async def test_who_begins_anew_is_not_held_to_have_been_lost(path: Path) -> None:
    @workflow
    async def begins_anew_while_stopping(heard: str = "") -> str:
        word = await nudge.receive()
        if not heard:
            continue_as_new(heard=word)
        return f"{heard} and {word}"

    async with Client.connect(path) as client:
        worker = Worker(client)
        await worker.start()
        handle = await client.start(begins_anew_while_stopping)
        loads = Loads(client)
        await handle.signal(nudge, "one")
        await loads.waits.wait()
        await worker.stop()
        row = await row_of(client)
        assert (row.owner, row.losses) == (None, 0)
    async with Client.connect(path) as client, Worker(client):
        handle = client.get_handle(row.workflow_id, begins_anew_while_stopping)
        await handle.signal(nudge, "two")
        assert await handle.result() == "one and two"
        assert list(await client.verify()) == []
