"""A way to the server that swallows all of it, with nobody told, as if a cable had been pulled."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import pytest

from everlong import Client
from everlong_engine.store.interface import RunFilter
from tests.support.hosting import until
from tests.support.postgres_server import lent_store, shared_server
from tests.support.postgres_worker import count_slowly
from tests.support.ready_process import ready
from tests.support.ways import Way, way_to

LEASE_S: Final = "2.0"
WORKER: Final = ("-m", "tests.support.postgres_worker")


@dataclass
class Place:
    url: str
    """The server itself."""
    way: Way

    @property
    def behind(self) -> str:
        """The same server, by the way that may swallow."""
        return f"postgresql://everlong@127.0.0.1:{self.way.port}/{self.url.rpartition('/')[2]}"


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with lent_store(1024) as url, way_to(shared_server().port) as way:
        yield Place(url, way)


async def here(client: Client) -> set[int]:
    return {one.pid for one in await client.workers() if one.is_there}


async def test_another_worker_takes_over_and_the_lost_one_comes_back_as_nobodys(
    place: Place,
) -> None:
    """Whatever it still had to say is refused; it begins anew by itself, and takes what comes."""
    async with Client.connect(place.url) as client:

        async def only(pids: set[int]) -> bool:
            return await here(client) == pids

        async with ready(*WORKER, place.behind, LEASE_S) as lost:
            handles = [await client.start(count_slowly, 100, id=f"w{n}") for n in range(10)]
            await until(lambda: _at_work(client, 10))
            place.way.swallow()
            async with ready(*WORKER, place.url, LEASE_S) as other:
                await until(lambda: only({other.pid}))
                # All of it is done while the lost one hears nothing.
                results = await asyncio.gather(*(one.result() for one in handles))
                assert results == [100] * 10
                place.way.pass_on()
                await until(lambda: only({lost.pid, other.pid}))
                assert lost.returncode is None, "it was the same process all the time"
                assert [await one.result() for one in handles] == [100] * 10
            await until(lambda: only({lost.pid}))
            assert await (await client.start(count_slowly, 5, id="after")).result() == 5
        assert await client.verify() == []


async def _at_work(client: Client, wanted: int) -> bool:
    rows = await client.engine.store.list_runs(RunFilter("default"), 100, None)
    return sum(row.owner is not None and row.next_seq > 5 for row in rows) == wanted


async def test_alone_it_waits_for_its_server_and_goes_on_with_nothing_lost(place: Place) -> None:
    """Longer than a lease: it has let go of everything by then, and takes it up again."""
    async with Client.connect(place.url) as client:
        async with ready(*WORKER, place.behind, LEASE_S) as worker:
            handles = [await client.start(count_slowly, 60, id=f"w{n}") for n in range(5)]
            await until(lambda: _at_work(client, 5))
            place.way.swallow()

            async def silent() -> bool:
                return not await here(client)

            await until(silent)
            # What is left for it meanwhile is acknowledged by the server, and waits there.
            handles.append(await client.start(count_slowly, 3, id="meanwhile"))
            place.way.pass_on()
            results = await asyncio.gather(*(one.result() for one in handles))
            assert results == [60] * 5 + [3]
            assert worker.returncode is None
        assert await client.verify() == []
        rows = await client.engine.store.list_runs(RunFilter("default"), 100, None)
        # Each attempt was recorded once: 60 activities, scheduled and completed, and both ends.
        lengths = {row.workflow_id: row.next_seq - 1 for row in rows}
        assert {lengths[f"w{n}"] for n in range(5)} == {122}
