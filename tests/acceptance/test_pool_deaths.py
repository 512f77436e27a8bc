"""A process of the pool dies: that is a lost attempt of what it ran, and of nothing else."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from everlong import ActivityLost, Client, Retry, Worker, workflow
from tests.support.process_activities import dies_in_pool, held_in_pool, pid_of_pool

SOON = Retry(delay=0.01, jitter=0.0)


@workflow
async def held(folder: str, name: str, max_attempts: int) -> int:
    retry = Retry(max_attempts=max_attempts, delay=0.01)
    return await held_in_pool.options(retry=retry)(folder, name)


async def pid_of(folder: Path, mark: str) -> int:
    """The process in which an attempt is at work."""
    path = folder / mark
    for _ in range(4_000):
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        await asyncio.sleep(0.005)  # tidy: waits because the process says it in a file
    raise AssertionError(f"{mark} never began")


async def gone(pid: int) -> None:
    with suppress(ProcessLookupError):
        for _ in range(4_000):
            os.kill(pid, 0)
            await asyncio.sleep(0.005)  # tidy: waits because the system ends a process by and by
        raise AssertionError(f"{pid} is still there")


async def test_only_the_attempt_in_the_process_that_died_is_lost(
    path: Path, tmp_path: Path
) -> None:
    async with Client.connect(path) as client, Worker(client, workflows=[held], processes=3):
        names = ["hurt", "left", "right"]
        # The neighbours may not even try twice.
        handles = {
            name: await client.start(held, str(tmp_path), name, 2 if name == "hurt" else 1, id=name)
            for name in names
        }
        pids = [await pid_of(tmp_path, f"{name}-1") for name in names]
        assert len(set(pids)) == 3
        os.kill(pids[0], signal.SIGKILL)
        again = await pid_of(tmp_path, "hurt-2")
        assert again not in pids
        for name in names:
            (tmp_path / f"{name}-may-end").touch()
        assert [await handles[name].result() for name in names] == [2, 1, 1]
        history = await handles["hurt"].history()
        first = next(one for one in history if one.kind == "ActivityScheduled").attempts[0]
        assert (first.state, first.error) == (
            "lost",
            "the process that ran this attempt died (SIGKILL)",
        )


async def test_what_waits_for_a_process_gets_the_one_that_follows(
    path: Path, tmp_path: Path
) -> None:
    async with Client.connect(path) as client, Worker(client, workflows=[held], processes=1):
        hurt = await client.start(held, str(tmp_path), "hurt", 2, id="hurt")
        pid = await pid_of(tmp_path, "hurt-1")
        waiting = [
            await client.start(held, str(tmp_path), f"waiting-{number}", 1, id=f"waiting-{number}")
            for number in range(3)
        ]
        for number in range(3):
            (tmp_path / f"waiting-{number}-may-end").touch()
        os.kill(pid, signal.SIGKILL)  # Before it may end, or the next one would be hit.
        (tmp_path / "hurt-may-end").touch()
        assert await hurt.result() == 2
        assert [await handle.result() for handle in waiting] == [1, 1, 1]


@pytest.mark.file
async def test_a_process_that_dies_idle_costs_no_attempt(path: Path) -> None:
    @workflow
    async def once() -> int:
        return await pid_of_pool.options(retry=Retry(max_attempts=1))()

    async with Client.connect(path) as client, Worker(client, workflows=[once], processes=1):
        pids = [await client.run(once, id="first")]
        for number in range(5):
            os.kill(pids[-1], signal.SIGKILL)
            await gone(pids[-1])
            pids.append(await client.run(once, id=f"again {number}"))
        assert len(set(pids)) == 6


@pytest.mark.parametrize(
    ("attempts", "at_most_once"), [(1, True), (1, False), (3, False)], ids=["once", "one", "three"]
)
async def test_the_code_is_told_that_the_last_attempt_was_lost(
    path: Path, tmp_path: Path, attempts: int, at_most_once: bool
) -> None:
    @workflow
    async def careful() -> str:
        retry = Retry(max_attempts=None if at_most_once else attempts, delay=0.01)
        try:
            await dies_in_pool.options(retry=retry, at_most_once=at_most_once)(str(tmp_path))
        except ActivityLost as lost:
            return str(lost)
        return "it lives"

    async with Client.connect(path) as client, Worker(client, workflows=[careful]):
        told = await client.run(careful, id="careful")
        assert "Whether it took effect is unknown" in told
    assert len(list(tmp_path.glob("death-*"))) == attempts
