"""An answer of the store is lost behind its commit: whoever asked goes on without a restart.

A claim then has given runs to a worker that does not know of them. SQLite always answers; but who
waits for an answer may be cancelled, and other databases are at the end of a network.
"""

import asyncio
from pathlib import Path

import pytest

from everlong import Client, Query, Signal, StoreError, Worker, WorkflowHandle, activity, workflow
from tests.support.gated_store import LossyStore
from tests.support.hosting import described

word: Signal[str] = Signal("word, in spite of a loss", str)
state: Query[str] = Query("state, in spite of a loss", str)
began = 0
at_work = asyncio.Event()
may_end = asyncio.Event()


@workflow
async def waits_for_word() -> str:
    state.handler(lambda: "waiting")
    return await word.receive()


@activity(at_most_once=True)
async def works() -> str:
    global began  # noqa: PLW0603
    began += 1
    at_work.set()
    await may_end.wait()
    return "done"


@workflow
async def works_once() -> str:
    return await works()


FLOWS = [waits_for_word, works_once]


@pytest.fixture(autouse=True)
def _anew() -> None:
    global began, at_work, may_end
    began, at_work, may_end = 0, asyncio.Event(), asyncio.Event()


async def asleep(client: Client) -> WorkflowHandle[str]:
    """A run that sleeps in the store, while a worker with no cache is there."""
    handle = await client.start(waits_for_word, id="one")
    await described(handle, lambda it: it.owner is None)
    return handle


async def test_a_run_whose_claim_was_not_answered_goes_on_in_the_same_worker(path: Path) -> None:
    async with Client.connect(path) as client:
        await client.start(waits_for_word, id="one")
        lossy = LossyStore(client)
        lossy.lose("claim", times=2)  # The second one is that of the look for what was lost.
        async with Worker(client, workflows=FLOWS):
            await goes_on(client)
        assert lossy.lost == ["claim", "claim"]
        assert await client.verify() == []


async def test_what_is_in_hand_is_left_alone_by_the_look_for_what_was_lost(path: Path) -> None:
    async with Client.connect(path) as client:
        await client.start(waits_for_word, id="one")
        lossy = LossyStore(client)
        lossy.lose("claim")
        async with Worker(client, workflows=FLOWS):
            busy = await client.start(works_once, id="busy")
            await at_work.wait()
            await goes_on(client)
            may_end.set()
            assert await busy.result() == "done"
        assert lossy.lost == ["claim"]
        assert began == 1


async def goes_on(client: Client) -> None:
    handle = client.get_handle("one", waits_for_word)
    await handle.signal(word, "go")
    async with asyncio.timeout(10):
        assert await handle.result() == "go"


@pytest.mark.file
async def test_a_query_whose_claim_was_not_answered_leaves_nothing_behind(path: Path) -> None:
    async with Client.connect(path) as client, Worker(client, workflows=FLOWS, cache_size=0):
        handle = await asleep(client)
        lossy = LossyStore(client)
        lossy.lose("claim_run")
        with pytest.raises(StoreError, match="lost"):
            await handle.query(state)
        await goes_on(client)
        assert lossy.lost == ["claim_run"]


async def test_a_query_that_is_given_up_in_its_claim_leaves_nothing_behind(path: Path) -> None:
    """No fault at all: whoever asks stops waiting while the claim is on its way."""
    async with Client.connect(path) as client, Worker(client, workflows=FLOWS, cache_size=0):
        handle = await asleep(client)
        store, on_its_way = client.engine.store, asyncio.Event()
        claim_run = store.claim_run

        async def slow(*args: object) -> object:
            on_its_way.set()
            return await claim_run(*args)  # type: ignore[arg-type]

        store.claim_run = slow  # type: ignore[method-assign, assignment]
        asking = asyncio.ensure_future(handle.query(state))
        await on_its_way.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await goes_on(client)


async def test_a_start_that_was_stored_and_never_answered_goes_on(path: Path) -> None:
    async with Client.connect(path) as client, Worker(client, workflows=FLOWS):
        lossy = LossyStore(client)
        lossy.lose("submit", times=3)  # The group, its repetition, and each alone.
        with pytest.raises(StoreError, match="lost"):
            await client.start(waits_for_word, id="one")
        await goes_on(client)
