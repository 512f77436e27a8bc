"""Samples as their readers start them: from the repository, in a process of their own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

Start: TypeAlias = Callable[..., AbstractAsyncContextManager[asyncio.subprocess.Process]]


@pytest.fixture
def start() -> Start:
    """`async with start("-m", "samples.crash_me", db) as process`; its output is a pipe."""

    @asynccontextmanager
    async def started(*arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):  # It has just ended, and nobody has told yet.
                    os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()

    return started


async def lines_until(process: asyncio.subprocess.Process, end: str) -> list[str]:
    """Its lines up to the first that contains `end`."""
    assert process.stdout is not None
    lines: list[str] = []
    async for line in process.stdout:
        lines.append(line.decode().rstrip())
        if end in lines[-1]:
            return lines
    raise AssertionError(f"it ended without {end!r}: {lines}")
