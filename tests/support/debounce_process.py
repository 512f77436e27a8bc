"""A process that starts debounced executions, or one that does them:

    python -m tests.support.debounce_process work PLACE
    python -m tests.support.debounce_process start PLACE NAME

PLACE is a file or a server. Both say "ready" first. The one that starts says of each start, behind
its acknowledgement, which number it had and to which execution it came.
"""

import asyncio
import sys
from itertools import count

from everlong import Client, Debounce, Worker, workflow
from tests.support.postgres_worker import shorten_leases

__all__ = ["TOGETHER", "newest"]

TOGETHER = Debounce(0.01, key="k", at_most=0.05)
"""So short that many begin in the very moment in which another start comes."""


@workflow
async def newest(sender: str, number: int) -> tuple[str, int]:
    return sender, number


async def work(place: str) -> None:
    shorten_leases(2.0)
    async with Client.connect(place) as client, Worker(client, workflows=[newest]):
        print("ready", flush=True)
        await asyncio.Event().wait()


async def start(place: str, sender: str) -> None:
    async with Client.connect(place) as client:
        print("ready", flush=True)
        for number in count():
            handle = await client.start(newest, sender, number, debounce=TOGETHER)
            print(number, handle.workflow_id, flush=True)


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    asyncio.run(work(*rest) if role == "work" else start(*rest))
