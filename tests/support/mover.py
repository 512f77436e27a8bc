"""Moves an execution in a process of its own, and may die on the way.

    python -m tests.support.mover HERE THERE ID STEP

kills itself with SIGKILL when STEP is done; with the STEP "-" it lives to its end.
"""

import asyncio
import os
import signal
import sys

from everlong import Client, MoveStep

__all__: list[str] = []


async def _main(here: str, there: str, workflow_id: str, deadly: str) -> None:
    def on_step(step: MoveStep) -> None:
        if step == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    async with Client.connect(here) as one, Client.connect(there) as other:
        await one.move(workflow_id, other, on_step=on_step)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
