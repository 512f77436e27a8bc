"""A store with a worker beside it, and a way to wait for what a store shows.

Most tests wait for a result, or for an event that an activity sets. What can only be seen in the
store (a run that is parked, an attempt that was written down) is waited for with `until`.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from everlong import Client, ExecutionDescription, HistoryEvent, Retry, Worker, WorkflowHandle

__all__ = ["AT_ONCE", "ONCE", "described", "hosting", "kinds", "of_kind", "until"]

T = TypeVar("T")

AT_ONCE: Final = Retry(delay=0.0, jitter=0.0)
"""Try again without a pause."""
ONCE: Final = Retry(max_attempts=1)

_LOOK_S: Final = 0.005
_PATIENCE_S: Final = 20.0


@asynccontextmanager
async def hosting(path: Path, **options: Any) -> AsyncGenerator[Client, None]:
    """A client, with a worker in the same process for as long as the block lasts."""
    async with Client.connect(path) as client, Worker(client, **options):
        yield client


async def until(look: Callable[[], Awaitable[T | None]]) -> T:
    """What `look` finds, once it finds anything that is true."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            found = await look()
            if found:
                return found
            await asyncio.sleep(_LOOK_S)  # tidy: waits because the store offers no signal for this


async def described(
    handle: WorkflowHandle[Any], is_so: Callable[[ExecutionDescription], object]
) -> ExecutionDescription:
    """The description of an execution, once it is so."""

    async def look() -> ExecutionDescription | None:
        description = await handle.describe()
        return description if is_so(description) else None

    return await until(look)


async def kinds(handle: WorkflowHandle[Any]) -> list[str]:
    """The kinds of events in a history, in order."""
    return [event.kind for event in await handle.history()]


async def of_kind(handle: WorkflowHandle[Any], kind: str) -> list[HistoryEvent]:
    return [event for event in await handle.history() if event.kind == kind]
