"""`everlong worker --processes N`: all cores of a machine, and what comes of it when some die."""

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from everlong import Client
from tests.support.command_line import begin, everlong, worker_ready
from tests.support.hosting import until
from tests.support.postgres_server import fresh_database

CODE = """
from everlong import activity, workflow

@activity(timeout=5.0)
async def double(number: int) -> int:
    return number * 2

@workflow
async def doubled(number: int) -> int:
    return await double(number)
"""


def pids(found: dict[str, Any]) -> set[int]:
    return {one["pid"] for one in found["processes"]}


async def test_children_that_die_are_followed_by_others_and_all_end_with_their_parent(
    tmp_path: Path,
) -> None:
    url = await fresh_database()
    (tmp_path / "flows.py").write_text(CODE)
    line = ["worker", "flows.py", "--processes", "2", "--name", "w", "--json", "--db", url]
    async with Client.connect(url) as client:

        async def here() -> set[int]:
            return {one.pid for one in await client.workers() if one.is_there}

        def are_here(condition: Callable[[set[int]], bool]) -> Callable[[], Awaitable[bool]]:
            async def look() -> bool:
                return condition(await here())

            return look

        parent = begin(*line, folder=tmp_path)
        first = pids(worker_ready(parent))
        assert len(first) == 2
        assert await here() == first
        assert {one.name for one in await client.workers()} == {"w-1", "w-2"}
        killed = min(first)
        os.kill(killed, signal.SIGKILL)
        await until(are_here(lambda found: len(found - first) == 1))
        handle = await client.start("doubled", number=4)
        assert await handle.result() == 8
        parent.terminate()
        parent.communicate(timeout=60)
        assert parent.returncode == 0
        assert await here() - {killed} == set()
        # Without a word of the parent: they hear that it is gone.
        parent = begin(*line, folder=tmp_path)
        second = pids(worker_ready(parent))
        assert len(second) == 2
        os.kill(parent.pid, signal.SIGKILL)
        parent.communicate(timeout=60)
        await until(are_here(lambda found: not found & second))
        there = {one.pid: one.dead for one in await client.workers()}
        assert all(there[pid] for pid in second)


async def test_code_that_cannot_be_hosted_ends_it_with_the_reason(tmp_path: Path) -> None:
    url = await fresh_database()
    (tmp_path / "flows.py").write_text("import nothing_of_that_name")
    done = everlong("worker", "flows.py", "--processes", "2", "--db", url, folder=tmp_path)
    assert done.code == 2
    assert "nothing_of_that_name" in done.err


def test_a_file_has_one_process(tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text(CODE)
    done = everlong("worker", "flows.py", "--processes", "2", folder=tmp_path)
    assert done.code == 2
    assert "one process has a file" in done.err
