"""A worker in a process of its own, on a PostgreSQL store: `python -m tests.support.postgres_worker
URL`. Says "ready" once it claims."""

import asyncio
import sys

from everlong import Client, Retry, Worker, activity, workflow

__all__ = ["count_slowly"]


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


async def main(url: str) -> None:
    async with Client.connect(url) as client:
        worker = Worker(client, workflows=[count_slowly], activities=[one_more])
        await worker.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
