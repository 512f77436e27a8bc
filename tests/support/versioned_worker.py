"""A worker of one version of the code, in a process of its own, on a PostgreSQL store:
`python -m tests.support.versioned_worker URL VERSION`. Says "ready" once it claims. Its lease is
short, so that nobody waits long for its runs when it is killed."""

import asyncio
import sys
from typing import Any, Final

from everlong import Client, Definitions, Query, Signal, Worker, activity, workflow
from tests.support.postgres_worker import shorten_leases

__all__ = ["made_of", "step", "steps", "worker_of"]

LEASE_S: Final = 3.0

step = Signal("versioned.step", int)
steps = Query("versioned.steps", list[str])


def made_of(version: str) -> Definitions:
    """Code that tells of each step which version took it. All versions take the same steps."""
    made = Definitions()
    with made:

        @activity(name="versioned.who")
        async def who() -> str:
            return version

        @workflow(name="versioned.stepped")
        async def stepped(count: int) -> list[str]:
            taken: list[str] = []

            @steps.handler
            def read() -> list[str]:
                return taken

            for _ in range(count):
                await step.receive()
                taken.append(await who())
            return taken

    return made


def worker_of(client: Client, version: str, **options: Any) -> Worker:
    return Worker(client, workflows=made_of(version).workflows, version=version, **options)


async def main(url: str, version: str) -> None:
    shorten_leases(LEASE_S)
    async with Client.connect(url) as client:
        worker = worker_of(client, version, name=version)
        await worker.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
