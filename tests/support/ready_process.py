"""A Python process that says when it is ready."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["ready"]

_ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def ready(*arguments: str | Path) -> AsyncGenerator[Process]:
    """Python with these arguments, once it has printed "ready"; gone when the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments), stdout=PIPE, env={**os.environ, "PYTHONPATH": str(_ROOT)}
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
