"""Where a run's code stands: the lines at which its tasks wait, found by replaying it.

The store does not know them: it keeps what has come and what was decided, and a task that waits for
a signal or a condition has decided nothing. Nothing is executed again, and nothing is stored.
"""

import asyncio
import linecache
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import CodeType, CoroutineType, FrameType
from typing import Any, Final

from everlong.client import Client
from everlong.replayer import Replayer
from everlong_engine import LoadedRun

__all__ = ["OURS", "Place", "frames_of", "places"]

OURS: Final = ("everlong", "everlong_engine", "asyncio", "anyio", "contextlib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A line of the user's code, and how many tasks wait there."""

    file: str
    line: int
    function: str
    code: str
    tasks: int

    @property
    def where(self) -> str:
        """As errors name it."""
        return f"{Path(self.file).name}:{self.line}"


def places(client: Client, loaded: LoadedRun) -> list[Place]:
    """Where an open run waits, its main task first.

    Raises:
        WorkflowNotFound: the imported code has no such workflow.
        WorkflowFault: the code does not do what is recorded.
        UndecodablePayload: a value, or a key, is missing.
    """
    replay = Replayer(codecs=client.codecs).open(loaded)
    try:
        while replay.feed_next():
            pass
        return list(_places_of(replay.tasks))
    finally:
        replay.discard()


def frames_of(task: "asyncio.Task[Any] | None") -> Iterator[FrameType]:
    """The user's frames of a task that waits, from the outside in."""
    waiting: Any = None if task is None else task.get_coro()
    while isinstance(waiting, CoroutineType):
        frame: FrameType | None = waiting.cr_frame
        if frame is not None and not _is_ours(frame):
            yield frame
        waiting = waiting.cr_await


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in OURS


def _places_of(tasks: "Iterable[asyncio.Task[Any]]") -> Iterator[Place]:
    innermost = (list(frames_of(task))[-1:] for task in tasks)
    found = Counter((frame.f_code, frame.f_lasti) for frames in innermost for frame in frames)
    for (code, instruction), count in found.items():
        first, last = _lines_of(code, instruction)
        lines = (linecache.getline(code.co_filename, line) for line in range(first, last + 1))
        yield Place(
            file=code.co_filename,
            line=first,
            function=code.co_name,
            code=" ".join(line.strip() for line in lines),
            tasks=count,
        )


def _lines_of(code: CodeType, instruction: int) -> tuple[int, int]:
    """From where to where the expression goes that an instruction belongs to."""
    first, last, *_ = next(islice(code.co_positions(), instruction // 2, None))
    first = first or code.co_firstlineno
    return first, last or first
