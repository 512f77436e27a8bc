"""Many workers on one database, in processes of their own, and what comes of it when some die."""

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import everlong
from everlong import Client, Worker
from everlong.exceptions import StoreError
from everlong_engine import RunFilter
from tests.support.hosting import until
from tests.support.postgres_server import Server, fresh_database
from tests.support.postgres_worker import count_slowly
from tests.support.ready_process import ready


def worker(url: str, *lease_s: str) -> AbstractAsyncContextManager[Process]:
    """A worker that has begun to claim; gone when the block ends."""
    return ready("-m", "tests.support.postgres_worker", url, *lease_s)


async def test_a_second_worker_finishes_what_the_killed_one_had() -> None:
    url = await fresh_database()
    async with Client.connect(url) as client, worker(url, "3") as one:
        handles = [await client.start(count_slowly, 40, id=f"w{number}") for number in range(20)]

        async def all_are_owned() -> bool:
            rows = await client.engine.store.list_runs(RunFilter("default"), 100, None)
            return all(row.owner is not None and row.next_seq > 5 for row in rows)

        await until(all_are_owned)
        one.kill()
        async with worker(url, "3") as two:
            results = await asyncio.gather(*(handle.result() for handle in handles))
            assert results == [40] * 20
            assert await client.verify() == []
            two.send_signal(signal.SIGTERM)
            assert await two.wait() == 0
            assert [one.is_there for one in await client.workers()] == [False, False]


async def test_two_workers_share_what_is_there() -> None:
    """And neither takes what the other has: each step of each execution is done once."""
    url = await fresh_database()
    async with Client.connect(url) as client, worker(url), worker(url):
        handles = [await client.start(count_slowly, 5) for _ in range(30)]
        assert await asyncio.gather(*(handle.result() for handle in handles)) == [5] * 30
        rows = await client.engine.store.list_runs(RunFilter("default"), 100, None)
        assert {row.lease_token for row in rows} == {1}


async def test_a_server_that_is_killed_and_comes_back_has_lost_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path / "cluster", durable=True)
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.stat().st_uid != 0:
            break
        folder.chmod(folder.stat().st_mode | 0o011)
    server.make()
    server.start()
    url = server.url()
    acknowledged: list[str] = []
    try:
        async with Client.connect(url) as client, Worker(client):
            for round_number in range(3):
                loading = asyncio.ensure_future(_load(client, round_number, acknowledged))
                before = len(acknowledged)
                await until(_is_so(lambda: len(acknowledged) >= before + 20))  # noqa: B023
                server.kill()
                server.start()
                await loading
            handles = [client.get_handle(name, count_slowly) for name in acknowledged]
            results = await asyncio.gather(*(handle.result() for handle in handles))
            assert results == [2] * len(acknowledged)
            assert await client.verify() == []
    finally:
        server.stop()


async def _load(client: Client, round_number: int, acknowledged: list[str]) -> None:
    """Sixty starts, each repeated until it is answered."""
    for number in range(60):
        name = f"w{round_number}-{number}"
        while name not in acknowledged:
            try:
                await client.start(count_slowly, 2, id=name, request_id="r")
            except StoreError:
                await asyncio.sleep(0.02)  # tidy: waits because the server is away
            else:
                acknowledged.append(name)


def _is_so(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return condition()

    return look


async def test_a_worker_whose_lease_was_lost_goes_on_as_another() -> None:
    url = await fresh_database()
    async with Client.connect(url) as client, Worker(client) as here:
        before = here.worker_id
        handle = await client.start(count_slowly, 30)
        here.lease_lost()
        assert await handle.result() == 30
        assert here.worker_id != before


async def test_a_script_runs_on_a_server() -> None:
    url = await fresh_database()
    found = await asyncio.to_thread(everlong.run, count_slowly, 3, db=url)
    assert found == 3
