"""Which workflow run, or which activity, the calling code belongs to.

A workflow is recognised by its event loop: while a run is driven, the thread's running loop is the
run's own. That question costs a system call on Python 3.11 (it asks for the process id), so a list
that is empty while nothing is driven is looked at first. An activity is recognised by a context
variable, which follows it into tasks and threads.
"""

from asyncio import events
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from random import Random
from sys import _getframe  # pyright: ignore[reportPrivateUsage]
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple, NoReturn, Protocol

__all__ = [
    "ActivityContext",
    "CompletedElsewhere",
    "QueryHandler",
    "RunPort",
    "UpdateHandler",
    "activity_context",
    "calling_frame",
    "current_run",
    "driving",
    "source_line",
    "taking_cancellations",
    "user_line",
]


class QueryHandler(NamedTuple):
    """A function that answers a query, with its types."""

    function: Callable[..., Any]
    parameters: Any
    result: Any


class UpdateHandler(NamedTuple):
    """A function that performs an update, with its types, and what judges one beforehand."""

    function: Callable[..., Any]
    parameters: Any
    result: Any
    validator: Callable[..., Any] | None = None


class RunPort(Protocol):
    """What workflow code can ask of the run that it belongs to."""

    now_us: int
    outputs: Any
    approvals: Any
    loop: Any
    cursors: dict[str, bytes] | None
    reading: frozenset[str]
    in_hand: Any
    done_once: str | None
    started: Any

    @property
    def labels(self) -> Any:
        """Tags and memo, as `everlong.labels` uses them."""
        ...

    @property
    def rolling(self) -> Any:
        """Where it begins anew, and its savepoints."""
        ...

    @property
    def random(self) -> Random: ...
    @property
    def others(self) -> Any:
        """Other executions, as `everlong.children` uses them."""
        ...

    def call_activity(
        self, definition: Any, options: Any, arguments: bytes, where: str
    ) -> Awaitable[Any]: ...
    def receive_signal(self, name: str) -> Awaitable[Any]: ...
    @property
    def signals(self) -> Any: ...
    def wait_condition(self, predicate: Callable[[], object]) -> Awaitable[None]: ...
    def handle_query(self, name: str, handler: "QueryHandler") -> None: ...
    def handle_update(self, name: str, handler: "UpdateHandler") -> None: ...
    def validate_update(self, name: str, validator: Callable[..., Any]) -> None: ...
    def all_handlers_finished(self) -> bool: ...
    def side_effect(self, function: Callable[[], Any], where: str) -> Awaitable[Any]: ...
    def patched(self, name: str, *, deprecated: bool = False) -> bool: ...
    def checkpoint(self, changed: dict[str, Any]) -> Awaitable[None]: ...
    def continue_as_new(self, changed: dict[str, Any]) -> NoReturn: ...
    def info(self) -> Any: ...
    def stop_with(self, error: Any) -> NoReturn: ...


class CompletedElsewhere(BaseException):
    """Leaves an activity whose outcome will come by its token. Not for anybody to catch."""


class ActivityContext(Protocol):
    """What the code of an activity can ask of its attempt."""

    def info(self) -> Any: ...
    def heartbeat(self, details: Any) -> None: ...


taking_cancellations: Final[list[object]] = []
"""Shielded scopes of anyio's that a cancellation of the run goes into all the same."""

driving: Final[list[None]] = []
"""One item per thread that drives a run now."""

activity_context: Final[ContextVar[ActivityContext | None]] = ContextVar(
    "everlong_activity", default=None
)

_running_loop: Final[Callable[[], Any]] = events._get_running_loop  # pyright: ignore[reportPrivateUsage]


def current_run() -> RunPort | None:
    """The run whose code calls, or None."""
    if not driving:
        return None
    return getattr(_running_loop(), "everlong_run", None)


def calling_frame(depth: int) -> FrameType:
    """The frame `depth` calls above the caller of this; 0 is the caller itself."""
    return _getframe(depth + 1)


_lines: Final[dict[tuple[CodeType, int], str]] = {}
_LINES_MAX: Final = 10_000


def source_line(frame: FrameType) -> str:
    """`orders.py:41`, for people: where a decision was made."""
    key = (frame.f_code, frame.f_lasti)
    line = _lines.get(key)
    if line is None:
        if len(_lines) >= _LINES_MAX:
            _lines.clear()  # Code that is made anew all the time; forget rather than grow.
        file = frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2]
        line = _lines[key] = f"{file}:{frame.f_lineno}"
    return line


_OURS: Final = ("asyncio", "anyio", "contextlib", "everlong.")


def user_line() -> str:
    """The innermost source line outside asyncio, anyio and Everlong, up from the caller."""
    frame: FrameType | None = calling_frame(1)
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(_OURS):
            return source_line(frame)
        frame = frame.f_back
    return ""
