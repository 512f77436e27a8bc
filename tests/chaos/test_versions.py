"""Two versions of a workflow on one file that goes from process to process, also by kill -9.

The versions make other decisions: a step that the wrong one took would block the run. Handed over
in order, no attempt is lost; killed at random moments, every run ends all the same, and each that
is pinned in the version with which it began.
"""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from everlong import Client, WorkflowHandle
from tests.chaos.arena import FULL
from tests.proof.record import record
from tests.support.command_line import begin, worker_ready

HAND_OVERS: Final = 40 if FULL else 3
STARTS: Final = 6
"""Of each kind between two hand-overs."""
CODE: Final = """
import asyncio
from everlong import Retry, Signal, activity, workflow

word = Signal("chaos_versions_word", str)

@activity(name="chaos_step_{version}", timeout=10, retry=Retry(delay=0.01))
async def step(number: int) -> str:
    await asyncio.sleep(0.01)
    return "{version}"

@activity(name="chaos_any_step", timeout=10, retry=Retry(delay=0.01))
async def any_step(number: int) -> str:
    await asyncio.sleep(0.01)
    return "{version}"

@workflow(name="chaos_pinned", versioning="pinned")
async def pinned() -> list[str]:
    done = [await step(number) for number in range(3)]
    done.append(await word.receive())
    return [*done, *await asyncio.gather(step(3), step(4))]

@workflow(name="chaos_follows")
async def follows() -> list[str]:
    done = []
    for number in range(4):
        done.append(await any_step(number))
        await asyncio.sleep(0.05)
    return done
"""
SETS: Final = (
    ("v2.py", "--version-name", "2", "--also", "1=v1.py"),
    ("v1.py", "--version-name", "1"),
    ("v2.py", "--version-name", "2"),
)


class Site:
    """A file, whoever has it now, and what has been started."""

    def __init__(self, folder: Path, client: Client) -> None:
        self._folder = folder
        self._client = client
        self._chance = random.Random()
        self.owner: subprocess.Popen[str] | None = None
        self.started: list[WorkflowHandle[list[str]]] = []
        self.kills = 0
        for version in "12":
            (folder / f"v{version}.py").write_text(CODE.replace("{version}", version))

    def host(self, which: int) -> None:
        """The next process begins while the one before is still there, and then has the file."""
        files = SETS[which % len(SETS)]
        following = begin("worker", *files, "--wait", "60", "--json", folder=self._folder)
        if self.owner is not None:
            self.owner.send_signal(signal.SIGTERM)
            self.owner.communicate(timeout=60)
            assert self.owner.returncode in (0, -signal.SIGKILL)
        worker_ready(following)
        self.owner = following

    def kill(self) -> None:
        assert self.owner is not None
        self.owner.kill()
        self.owner.wait()
        self.kills += 1

    async def load(self) -> None:
        for _ in range(STARTS):
            for kind in ("chaos_pinned", "chaos_follows"):
                name = f"{kind}-{len(self.started)}"
                handle: WorkflowHandle[list[str]] = await self._client.start(kind, id=name)
                self.started.append(handle)
                if kind == "chaos_pinned":
                    await handle.signal("chaos_versions_word", "word")
            await asyncio.sleep(self._chance.random() * 0.05)

    async def lost(self) -> int:
        """Attempts that are counted as lost."""
        histories = [await handle.history() for handle in self.started]
        attempts = [one for history in histories for event in history for one in event.attempts]
        return sum(one.state == "lost" for one in attempts)

    async def wrong(self) -> list[str]:
        """Results that no single version can have had a hand in."""
        found: list[str] = []
        for handle in self.started:
            result = await handle.result()
            steps = [one for one in result if one != "word"]
            if handle.workflow_id.startswith("chaos_pinned") and len(set(steps)) != 1:
                found.append(f"{handle.workflow_id}: {result}")
        return found

    def close(self) -> None:
        if self.owner is not None and self.owner.poll() is None:
            self.owner.terminate()
            self.owner.communicate(timeout=60)


@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("how", ["in order", "killed"])
async def test_versions_are_handed_over_under_load(tmp_path: Path, how: str) -> None:
    began = time.monotonic()
    async with Client.connect(tmp_path / "everlong.db") as client:
        site = Site(tmp_path, client)
        try:
            for number in range(HAND_OVERS):
                if number and how == "killed":
                    site.kill()
                await asyncio.to_thread(site.host, number)
                await site.load()
            await asyncio.to_thread(site.host, 0)
            wrong = await site.wrong()
            lost = await site.lost()
            versions = {one.version: one.drained for one in await client.versions()}
            problems = await client.verify()
        finally:
            await asyncio.to_thread(site.close)
    broken = len(wrong) + len(problems) + (lost if how == "in order" else 0)
    record(
        f"two versions handed over, {how}",
        invariants=[1, 4, 5, 8],
        tried="hand-overs of a file with pinned runs and runs that follow, under load",
        times=HAND_OVERS,
        broken=broken,
        seconds=time.monotonic() - began,
        figures={"runs": len(site.started), "kills": site.kills, "lost attempts": lost},
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_versions.py",
    )
    assert not wrong, "\n".join(wrong)
    assert not problems
    assert how == "killed" or lost == 0
    assert all(versions.values()), f"not drained: {versions}"
