"""A worker in a process of its own, on a PostgreSQL store: `python -m tests.support.postgres_worker
URL [LEASE_S [QUEUE…]]`. Says "ready" once it claims. With a short lease nobody waits long for what
it had when it is killed."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, Final

from everlong import Client, Retry, Worker, WorkflowPool, activity, workflow
from everlong_engine.store.postgres.store import PostgresStore

__all__ = ["AT_ONCE", "count_apart", "count_in_turn", "count_slowly", "shorten_leases"]

AT_ONCE: Final = 3


def shorten_leases(seconds: float) -> None:
    """Of this process's workers."""
    opened: Any = PostgresStore.open
    opened.__func__.__kwdefaults__["lease_us"] = int(seconds * 1_000_000)


@activity(retry=Retry(delay=0.01, jitter=0.0))
async def one_more(number: int) -> int:
    await asyncio.sleep(0.01)  # tidy: waits because a kill must find it at work
    return number + 1


@workflow
async def count_slowly(times: int) -> int:
    number = 0
    for _ in range(times):
        number = await one_more(number)
    return number


@workflow(pool=WorkflowPool("counters", concurrency=AT_ONCE))
async def count_in_turn(times: int) -> int:
    """The same, and no more of them are under way than their pool lets through."""
    number = 0
    for _ in range(times):
        number = await one_more(number)
    return number


@workflow
async def count_apart(times: int) -> int:
    """The same, all at once, by the workers of another queue."""
    numbers = (one_more.options(queue="apart")(number) for number in range(times))
    return sum(await asyncio.gather(*numbers))


async def main(url: str, queues: Sequence[str]) -> None:
    async with Client.connect(url) as client:
        worker = Worker(
            client,
            workflows=[count_slowly, count_in_turn, count_apart],
            activities=[one_more],
            activity_slots=20,
            queues=queues or None,
        )
        await worker.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    for _seconds in sys.argv[2:3]:
        shorten_leases(float(_seconds))
    asyncio.run(main(sys.argv[1], sys.argv[3:]))
