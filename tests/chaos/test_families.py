"""Parents and children whose worker is killed at any moment: each child begins once, and its end is
heard once."""

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everlong import Client, Worker, WorkflowTerminated, activity, get_handle, workflow
from tests.support.command_line import clean_environment

CHILDREN = 40
KILLS = 4


@activity(name="families-step")
async def step(number: int) -> int:
    return number


@workflow(name="families-child")
async def child(number: int) -> int:
    await asyncio.sleep(0.02 * (number % 7))
    return await step(number)


@workflow(name="families-sleeper")
async def sleeper() -> None:
    await asyncio.sleep(3600)


@workflow(name="families-parent")
async def parent() -> int:
    await sleeper.options(id="sleeper").start()
    found = 0
    for tens in range(0, CHILDREN, 10):
        calls = (child(number) for number in range(tens, tens + 10))
        found += sum(await asyncio.gather(*calls))
        handle = await child.start(tens)
        assert await get_handle(handle.workflow_id, child).result() == await handle.result()
    return found


async def host(path: str) -> None:
    async with Client.connect(path) as client, Worker(client):
        print("ready", flush=True)
        await asyncio.Event().wait()


@pytest.mark.timeout(120)
def test_families_survive_the_death_of_their_workers(tmp_path: Path) -> None:
    path, seed = tmp_path / "everlong.db", random.randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    asyncio.run(_start(path))
    for _ in range(KILLS):
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.test_families", str(path)],
            stdout=subprocess.PIPE,
            env=clean_environment({}),
            cwd=Path(__file__).parents[2],
        )
        assert worker.stdout is not None
        with worker, worker.stdout:
            assert worker.stdout.readline() == b"ready\n"
            try:
                worker.wait(moments.random() * 0.15)
            except subprocess.TimeoutExpired:
                worker.send_signal(signal.SIGKILL)
    asyncio.run(_all_is_well(path))


async def _start(path: Path) -> None:
    async with Client.connect(path) as client:
        await client.start(parent, id="parent")


async def _all_is_well(path: Path) -> None:
    async with Client.connect(path) as client, Worker(client):
        async with asyncio.timeout(60):
            handle = client.get_handle("parent", parent)
            assert await handle.result() == sum(range(CHILDREN))
            with pytest.raises(WorkflowTerminated):
                await client.get_handle("sleeper").result()
        children = (await client.list(type="families-child", limit=1000)).items
        assert len(children) == CHILDREN + CHILDREN // 10
        assert {one.status for one in children} == {"completed"}
        recorded = [event.kind for event in await handle.history()]
        assert recorded.count("ChildScheduled") == len(children) + 1
        # Each call heard of once; each of those that were started twice, as anybody waits for it.
        assert recorded.count("ChildClosed") == len(children) + CHILDREN // 10
        assert await client.verify() == []


if __name__ == "__main__":
    asyncio.run(host(sys.argv[1]))
