"""A call that is repeated with its request id has one effect, whatever has happened between."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    Signal,
    Update,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowHandle,
    WorkflowTerminated,
    workflow,
)
from everlong_engine import RunStatus, RunTerminated, Terminate, encode_event
from tests.support.gated_store import LossyStore
from tests.support.hosting import hosting

note: Signal[str] = Signal("a note that bears a request id", str)
put: Update[int] = Update("put, by its id", int)
ID = "one"


@workflow
async def notes_three() -> list[str]:
    notes: list[str] = []

    @put.handler
    async def putting(text: str) -> int:
        notes.append(text)
        return len(notes)

    while len(notes) < 3:
        notes.append(await note.receive())
    return notes


FLOWS = [notes_three]
Act = Callable[[WorkflowHandle[Any]], Awaitable[Any]]
ACTS: dict[str, Act] = {
    "terminate": lambda handle: handle.terminate(request_id="r"),
    "signal": lambda handle: handle.signal(note, "from the first", request_id="r"),
    "cancel": lambda handle: handle.cancel(request_id="r"),
    "pause": lambda handle: handle.pause(request_id="r"),
    "resume": lambda handle: handle.resume(request_id="r"),
    "pin": lambda handle: handle.pin("another version", request_id="r"),
    "update": lambda handle: handle.update(put, "from the first", update_id="r"),
    "reset": lambda handle: handle.reset("start", request_id="r"),
}


def named(client: Client) -> WorkflowHandle[Any]:
    """Whatever execution has the id: who repeats a call from a script knows no more."""
    return client.get_handle(ID, notes_three)


async def end(client: Client) -> None:
    """However the execution stands, it is over."""
    handle = named(client)
    with suppress(WorkflowClosed):
        await handle.terminate("the next one, please")


@pytest.mark.parametrize("name", ACTS)
async def test_what_an_earlier_execution_was_told_is_not_told_to_the_next(
    path: Path, name: str
) -> None:
    act = ACTS[name]
    async with hosting(path, workflows=FLOWS) as client:
        await client.start(notes_three, id=ID)
        first = await act(named(client))
        await end(client)
    async with hosting(path, workflows=FLOWS) as client:
        second = await client.start(notes_three, id=ID)
        again = await act(named(client))
        if name == "update":
            assert again == first
        if name == "reset":
            assert again.run_id == first.run_id
        described = await second.describe()
        assert (described.status, described.version, described.reset) == ("running", None, None)
        for number in range(3):
            await second.signal(note, str(number))
        assert await second.result() == ["0", "1", "2"]
        assert await client.verify() == []


@pytest.mark.parametrize("name", ACTS)
async def test_it_is_answered_as_the_first_when_the_execution_has_ended(
    path: Path, name: str
) -> None:
    act = ACTS[name]
    async with hosting(path, workflows=FLOWS) as client:
        await client.start(notes_three, id=ID)
        await act(named(client))
        await end(client)
        await act(named(client))
        if name not in ("reset", "update"):
            with pytest.raises(WorkflowClosed):
                await {
                    "terminate": lambda: named(client).terminate(request_id="other"),
                    "signal": lambda: named(client).signal(note, "x", request_id="other"),
                    "cancel": lambda: named(client).cancel(request_id="other"),
                    "pause": lambda: named(client).pause(request_id="other"),
                    "resume": lambda: named(client).resume(request_id="other"),
                    "pin": lambda: named(client).pin("x", request_id="other"),
                }[name]()


@pytest.mark.parametrize("name", ACTS)
async def test_it_has_one_effect_though_its_answers_are_lost(path: Path, name: str) -> None:
    act = ACTS[name]
    async with hosting(path, workflows=FLOWS) as client:
        handle = await client.start(notes_three, id=ID)
        lossy = LossyStore(client)
        lossy.lose("submit", times=2)
        await act(named(client))
        await act(named(client))
        assert lossy.lost
        if name == "terminate":
            with pytest.raises(WorkflowTerminated):
                await handle.result()
        elif name == "cancel":
            with pytest.raises(WorkflowCancelled):
                await handle.result()
        elif name == "signal":
            assert [one.kind for one in await handle.history()].count("SignalReceived") <= 1
            await handle.signal(note, "2")
            await handle.signal(note, "3")
            assert await handle.result() == ["from the first", "2", "3"]
        else:
            runs = (await client.list(workflow_id=ID)).items
            assert len(runs) == (2 if name == "reset" else 1)
        assert await client.verify() == []


async def test_who_waits_hears_of_a_termination_whose_answer_was_lost(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        handle = await client.start(notes_three, id=ID)
        waiting = asyncio.ensure_future(handle.result())
        lossy = LossyStore(client)
        lossy.lose("submit")
        await named(client).terminate("over")
        assert lossy.lost == ["submit"]
        with pytest.raises(WorkflowTerminated, match="over"):
            await waiting


async def test_a_termination_that_the_store_meets_again_spares_the_next_execution(
    path: Path,
) -> None:
    """Its group is repeated when the answer was lost, and somebody may have been quick."""
    async with hosting(path, workflows=FLOWS) as client:
        await client.start(notes_three, id=ID)
        engine = client.engine
        kind, body = encode_event(RunTerminated("over"), {})
        write = Terminate(
            engine.target("default", ID),
            kind,
            body,
            RunStatus.TERMINATED,
            engine.clock.now_us(),
            engine.new_append_id(),
            "\x01terminate \x01of this test",
        )
        await engine.commits.put(write)
        second = await client.start(notes_three, id=ID)
        await engine.commits.put(write)
        assert (await second.describe()).status == "running"
