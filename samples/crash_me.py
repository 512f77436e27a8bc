"""Twenty steps that print themselves. Kill the process at any of them and run it again: it goes on.

    python -m samples.crash_me        # in another terminal: kill -9 the process that it names

A finished step is never run again. The step that was under way when the process died is: nothing
can tell whether its effect had happened, so an activity runs at least once (decision 0003).
"""

import asyncio
import os
import sys

import everlong
from everlong import ActivityInfo, activity, workflow


@activity
async def step(number: int, seconds: float) -> None:
    again = "" if everlong.info(ActivityInfo).attempt == 1 else "   (again: it died here)"
    print(f"  step {number:2}{again}", flush=True)
    await asyncio.sleep(seconds)


@workflow
async def crash_me(steps: int = 20, seconds: float = 0.5) -> str:
    for number in range(1, steps + 1):
        await step(number, seconds)
    return f"all {steps} steps are done"


def main(db: str = "crash_me.db", *, seconds: float = 0.5) -> None:
    print(f"process {os.getpid()}: kill -9 {os.getpid()}, then run me again", flush=True)
    print(everlong.run(crash_me, seconds=seconds, db=db))


if __name__ == "__main__":
    main(*sys.argv[1:2])
