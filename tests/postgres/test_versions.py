"""Two versions of the code in processes of their own: what follows goes forward, and never back."""

from asyncio.subprocess import Process
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from itertools import groupby

from everlong import Client
from tests.support.hosting import until
from tests.support.postgres_server import fresh_database
from tests.support.ready_process import ready
from tests.support.versioned_worker import step, steps

STEPS = 7


def worker(url: str, version: str) -> AbstractAsyncContextManager[Process]:
    """A worker that has begun to claim; gone when the block ends."""
    return ready("-m", "tests.support.versioned_worker", url, version)


async def test_what_follows_goes_to_the_newer_version_and_never_back_whoever_is_killed() -> None:
    """An older worker that is started again is no newer version for that; and what a newer one had
    that was killed is left for those that come after it."""
    url = await fresh_database()
    async with Client.connect(url) as client, AsyncExitStack() as stack:
        old = await stack.enter_async_context(worker(url, "1"))
        flows = [
            await client.start("versioned.stepped", count=STEPS, id=f"w{number}")
            for number in range(4)
        ]

        async def taken() -> list[list[str]]:
            """Each has taken the same number of steps, on from the last one."""
            for flow in flows:
                await flow.signal(step, 0)

            async def all_have() -> bool:
                found[:] = [await flow.query(steps, timeout=60) for flow in flows]
                return min(map(len, found)) > before

            before = len(found[0]) if found else 0
            await until(all_have)
            return found

        found: list[list[str]] = []
        assert await taken() == [["1"]] * 4
        new = await stack.enter_async_context(worker(url, "2"))
        old.kill()
        await taken()
        assert [each[-1] for each in found] == ["2"] * 4
        await stack.enter_async_context(worker(url, "1"))
        await taken()
        new.kill()
        await stack.enter_async_context(worker(url, "2"))
        for _ in range(STEPS - 3):
            await taken()
        for flow in flows:
            assert [version for version, _ in groupby(await flow.result())] == ["1", "2"]
