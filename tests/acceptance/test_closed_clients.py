"""What is closed, or belongs to another event loop, says so; nobody is left waiting for it."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    EverlongError,
    Query,
    Signal,
    StoreError,
    Worker,
    WorkflowHandle,
    activity,
    workflow,
)
from tests.support.hosting import hosting
from tests.support.other_process import hosted_elsewhere, other_process, release

go_on: Signal[str] = Signal("closed-clients-go-on", str)
state = Query("closed-clients-state", str)

Use = Callable[[WorkflowHandle[Any]], Awaitable[Any]]
USES: list[Use] = [
    lambda handle: handle.result(),
    lambda handle: handle.describe(),
    lambda handle: handle.history(),
    lambda handle: handle.signal(go_on, "x"),
    lambda handle: handle.query(state),
    lambda handle: handle.cancel(),
    lambda handle: handle.terminate(),
    lambda handle: handle.resume(),
]
NAMES = ["result", "describe", "history", "signal", "query", "cancel", "terminate", "resume"]


@workflow(name="closed-clients-waits")
async def waits() -> str:
    @state.handler
    def _() -> str:
        return "waiting"

    return await go_on.receive()


@pytest.mark.parametrize("use", USES, ids=NAMES)
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "beside another client"])
async def test_a_handle_of_a_closed_client_says_so(path: Path, use: Use, shared: bool) -> None:
    async with Client.connect(path) as client:
        handle = await client.start(waits)
    with pytest.raises(EverlongError, match="this client is not open"):
        await use(handle)
    if shared:
        async with hosting(path, workflows=[waits]):
            with pytest.raises(EverlongError, match="this client is not open"):
                await use(handle)


@pytest.mark.parametrize("hosted", [True, False])
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "beside another client"])
async def test_whoever_waits_for_a_result_hears_that_the_client_is_closed(
    path: Path, hosted: bool, shared: bool
) -> None:
    async with Client.connect(path) as other:
        client = Client.connect(path)
        async with client:
            async with Worker(other, workflows=[waits] if hosted else []):
                handle = await client.start(waits)
                waiting = asyncio.ensure_future(handle.result())
                await handle.describe()  # By now it waits.
                if shared:
                    await client.__aexit__(None, None, None)
                    with pytest.raises(EverlongError, match="this client is not open"):
                        await waiting
                    return
            await other.__aexit__(None, None, None)
        with pytest.raises(EverlongError, match="this client is not open"):
            await waiting


async def test_whoever_asks_another_process_hears_that_the_client_is_closed(path: Path) -> None:
    async with Client.connect(path) as client:
        handle = await client.start(waits)
        asking = asyncio.ensure_future(handle.query(state, timeout=60.0))
        await handle.describe()
        await handle.describe()
    with pytest.raises(EverlongError, match=r"this client is not open|is closed"):
        await asking


async def test_a_client_may_be_closed_while_its_worker_runs(path: Path) -> None:
    began, finish = asyncio.Event(), asyncio.Event()

    @activity
    async def work() -> str:
        began.set()
        await finish.wait()
        return "worked"

    @workflow
    async def flow() -> str:
        return await work()

    async with Client.connect(path) as client:
        worker = Worker(client, workflows=[flow])
        await worker.start()
        handle = await client.start(flow, id="one")
        await began.wait()
    with pytest.raises(EverlongError, match="not open"):
        await handle.describe()
    finish.set()
    await worker.stop()
    async with Client.connect(path) as client:
        assert await client.get_handle("one", flow).result() == "worked"


async def test_the_file_is_free_once_a_worker_without_a_client_has_stopped(path: Path) -> None:
    async with Client.connect(path) as client:
        worker = Worker(client, workflows=[waits])
        await worker.start()
    await worker.stop()
    async with other_process(path) as other:
        await other.do("serve")
        async with Client.connect(path) as client:
            handle = await client.start(hosted_elsewhere, "ann")
            await handle.signal(release, "goes on")
            assert await handle.result() == "ann goes on"


async def test_a_client_of_another_event_loop_is_refused(path: Path) -> None:
    async with hosting(path, workflows=[waits]) as client:
        handle = await client.start(waits, id="one")

        async def elsewhere(use: Callable[[], Awaitable[Any]]) -> None:
            with pytest.raises(StoreError, match="open in this process on another event loop"):
                await use()

        others: list[Callable[[], Awaitable[Any]]] = [
            *(partial(use, handle) for use in USES),
            partial(client.start, waits),
            client.list,
            partial(client.__aexit__, None, None, None),
            Worker(client).start,
            Client.connect(path).__aenter__,
        ]
        for other in others:
            await asyncio.to_thread(asyncio.run, elsewhere(other))
        await handle.signal(go_on, "unhurt")
        assert await handle.result() == "unhurt"
