"""One small event loop per run: deterministic, durable, and never waiting for anything.

It keeps a deque of callbacks that are ready and drives them until none is. There is no selector and
no heap: a timer is a decision of the run, and comes back as an input. Tasks and futures hash by a
number of the run instead of their address, so the sets inside `TaskGroup`, `asyncio.wait` and anyio
iterate in the same order in every process; the run's seed is added, because equal small hashes in
every run would collide in asyncio's process-wide set of tasks.

What needs a thread, a socket or a process is refused with the place where it belongs. The loop
knows nothing of histories; `everlong._replay.run` does.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from random import Random
from typing import Any, Final, NoReturn, Protocol, TypeVar

from everlong._context import source_line
from everlong._replay.anyio_adapter import is_cancel_retry
from everlong.exceptions import WorkflowFault

__all__ = [
    "Discarded",
    "EndlessLoop",
    "Fault",
    "LoopOwner",
    "WorkflowFuture",
    "WorkflowLoop",
    "WorkflowTask",
    "WorkflowTimer",
    "fault_of",
]

T = TypeVar("T")
logger = logging.getLogger("everlong")

_RETRIES_TOLERATED: Final = 64
_DELIVERIES_MAX: Final = 1_000
"""So often one cancellation is delivered anew in a drive; then it waits for the next input."""
_TASKS_BEFORE_SWEEP: Final = 64


class Discarded(BaseException):
    """Raised at every call into Everlong while a run is dropped: its code must not do anything."""


class Fault(BaseException):
    """Private: leaves workflow code at once. The run is flagged and never driven again."""


def fault_of(error: BaseException) -> BaseException:
    """What a `BaseException` out of workflow code means: a fault, unless it is one already."""
    if isinstance(error, Fault):
        return WorkflowFault(str(error))
    if isinstance(error, WorkflowFault):
        return error
    return WorkflowFault(f"{type(error).__name__} left the workflow's code: {error!r}")


class LoopOwner(Protocol):
    """What the loop asks of its run."""

    @property
    def random(self) -> Random: ...
    def start_timer(self, timer: "WorkflowTimer") -> None: ...
    def cancel_timer(self, timer: "WorkflowTimer") -> None: ...
    def forbid(self, what: str, fix: str) -> NoReturn: ...
    def forgot(self, coroutine: object) -> None: ...


class WorkflowFuture(asyncio.Future[T]):
    """A future that hashes by its number."""

    def __init__(self, loop: "WorkflowLoop") -> None:
        # Before __init__: asyncio may put it into a set at once.
        self.everlong_hash = loop.next_hash()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.everlong_hash

    def __repr__(self) -> str:
        """Without an address, for it may get into a text that the code decides by."""
        return f"<future {_state(self)}>"


class WorkflowTask(asyncio.Task[T]):
    """A task that hashes by its number."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        loop: "WorkflowLoop",
        name: str,
        context: Context | None,
    ) -> None:
        self.everlong_hash = loop.next_hash()
        super().__init__(coroutine, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.everlong_hash

    def __repr__(self) -> str:
        """Without an address: anyio writes it into the messages of its cancellations."""
        return f"<task {self.get_name()} {_state(self)}>"


def _state(future: asyncio.Future[Any]) -> str:
    if not future.done():
        return "pending"
    return "cancelled" if future.cancelled() else "finished"


class _Handle(asyncio.Handle):
    """asyncio's handle, made without the debug bookkeeping."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: "WorkflowLoop",
        context: Context | None,
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None

    def __repr__(self) -> str:
        """Without an address, and for people: whose step it is, or which function."""
        owner: object = getattr(self._callback, "__self__", None)
        if isinstance(owner, asyncio.Future):
            return f"<callback of {owner!r}>"
        return (
            f"<callback {getattr(self._callback, '__qualname__', type(self._callback).__name__)}>"
        )


class WorkflowTimer(asyncio.TimerHandle):
    """A durable timer: a decision when it is made, ready when its input comes."""

    __slots__ = ("timer_id",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: "WorkflowLoop",
        context: Context | None,
    ) -> None:
        _Handle.__init__(self, callback, args, loop, context)  # type: ignore[arg-type]
        self._when = when
        self._scheduled = True
        self.timer_id = 0

    def __repr__(self) -> str:
        return f"<timer {self.timer_id}>"


class WorkflowLoop(asyncio.AbstractEventLoop):
    """The running loop of workflow code. Made by a run, thrown away with it."""

    everlong_workflow_loop: Final = True

    def __init__(self, run: LoopOwner, callbacks_max: int) -> None:
        self.everlong_run: LoopOwner = run
        self.conceals = False
        """Payloads are encrypted: logs leave out what could quote them."""
        self.seed = 0
        self.start_us = 0
        self.now_us = 0
        self.drives = 0
        self.stopped = False
        self.discarded = False
        self.ready: deque[asyncio.Handle] = deque()
        self.tasks: list[WorkflowTask[Any]] = []
        self.at_rest: Callable[[], bool] | None = None
        """Asked when nothing is ready; True when it has made something ready."""
        self._hash_base = 0
        self._number = 0
        self._callbacks_max = callbacks_max
        self._sweep_at = _TASKS_BEFORE_SWEEP

    def begin(self, seed: int, start_us: int) -> None:
        """The run has started: from now on tasks and futures may be made."""
        self.seed = seed
        self._hash_base = seed & 0xFFFF_FFFF_FFFF
        self.start_us = self.now_us = start_us

    # ------------------------------------------------------------------------- for the guards

    @property
    def guard_time_ns(self) -> int:
        """What `time.time_ns()` answers in workflow code: the time of the last input."""
        return self.now_us * 1000

    @property
    def random(self) -> Random:
        return self.everlong_run.random

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def next_hash(self) -> int:
        self._number += 1
        return self._hash_base + self._number

    def forbid(self, what: str, fix: str) -> NoReturn:
        self.everlong_run.forbid(what, fix)

    def forgot(self, coroutine: object) -> None:
        """A coroutine of the run's was dropped before it began."""
        self.everlong_run.forgot(coroutine)

    # ----------------------------------------------------------------------------- the drive

    def run_ready(self) -> None:
        """Run callbacks until none is ready or the run has stopped. Exceptions pass through."""
        ready = self.ready
        self.drives += 1
        count = 0
        retries = 0
        deliveries: dict[object, int] = {}
        parked: list[asyncio.Handle] = []
        while (ready or (self.at_rest is not None and self.at_rest())) and not self.stopped:
            handle = ready.popleft()
            if handle._cancelled:
                continue
            count += 1
            if count > _RETRIES_TOLERATED and is_cancel_retry(handle):
                # anyio calls itself again for as long as a task waits in spite of a cancellation.
                if retries > len(ready):
                    ready.appendleft(handle)
                    break
                retries += 1
                scope: object = handle._callback.__self__  # type: ignore[attr-defined]
                deliveries[scope] = deliveries.get(scope, 0) + 1
                if deliveries[scope] > _DELIVERIES_MAX:
                    # The task takes it, and waits again: a TaskGroup does until its own tasks end.
                    parked.append(handle)
                    continue
            else:
                retries = 0
            if count > self._callbacks_max:
                ready.appendleft(handle)
                self.endless(handle)
            try:
                handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
            except Exception as error:
                # A task keeps its exception; this is a bare callback's, logged as asyncio does.
                self.call_exception_handler(
                    {"message": f"exception in {handle!r}", "exception": error}
                )
        if parked:
            ready.extend(parked)

    def endless(self, handle: asyncio.Handle) -> NoReturn:
        """More callbacks in one drive than any sane program needs."""
        task: object = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
        where = _stack(task) if isinstance(task, WorkflowTask) else ""
        raise EndlessLoop(f"{handle!r}{where}")

    # ----------------------------------------------------------- what asyncio asks of a loop

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self.discarded:
            raise Discarded
        handle = _Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if self.discarded:
            raise Discarded
        if math.isnan(when):
            raise ValueError("a timer's time is not a number (NaN)")
        timer = WorkflowTimer(when, callback, args, self, context)
        if when <= self.time():
            self.ready.append(timer)
        elif when != math.inf:  # One that never fires needs no record.
            self.everlong_run.start_timer(timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if self.discarded:
            raise Discarded
        if isinstance(handle, WorkflowTimer) and handle.timer_id:
            self.everlong_run.cancel_timer(handle)

    def time(self) -> float:
        """Seconds since the run began: small, so that a float holds microseconds for centuries."""
        return (self.now_us - self.start_us) / 1_000_000

    def create_future(self) -> asyncio.Future[Any]:
        if self.discarded:
            raise Discarded
        return WorkflowFuture(self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: object = None,
        context: Context | None = None,
        **_later: Any,
    ) -> asyncio.Task[T]:
        """`eager_start` and whatever later versions add is passed over: tasks start in turn."""
        if self.discarded:
            coro.close()
            raise Discarded
        text = f"task-{self._number + 1}" if name is None else str(name)
        task = WorkflowTask(coro, loop=self, name=text, context=context)
        tasks = self.tasks
        tasks.append(task)
        if len(tasks) > self._sweep_at:
            self.tasks = [one for one in tasks if not one.done()]
            self._sweep_at = 2 * len(self.tasks) + _TASKS_BEFORE_SWEEP
        return task

    def get_task_factory(self) -> None:
        return None

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Accepted and ignored: it would change nothing that is recorded."""

    def is_running(self) -> bool:
        return not self.stopped

    def is_closed(self) -> bool:
        return self.discarded

    def get_exception_handler(self) -> None:
        return None

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An exception that nobody will see otherwise: logged, as asyncio does."""
        if self.discarded:
            return
        error = context.get("exception")
        if self.conceals:
            logger.error("in a workflow: nobody saw a %s (encrypted)", type(error).__name__)
            return
        logger.error(
            "in a workflow: %s", context.get("message", "unhandled exception"), exc_info=error
        )

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do: async generators are never left to this loop."""

    # --------------------------------------------------------------------------- what it refuses

    def call_soon_threadsafe(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> NoReturn:
        self.forbid("call_soon_threadsafe", "threads belong in an activity")

    def run_in_executor(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> NoReturn:
        self.forbid(
            "run_in_executor (asyncio.to_thread)", "make the function an @activity and await it"
        )

    async def create_connection(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.forbid("opening a connection", "talk to the network in an @activity")

    async def create_server(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.forbid("opening a server", "talk to the network in an @activity")

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.forbid("opening a socket", "talk to the network in an @activity")

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.forbid("looking up a host name", "talk to the network in an @activity")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.forbid("starting a process", "start processes in an @activity")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.forbid("starting a process", "start processes in an @activity")

    def add_signal_handler(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> NoReturn:
        self.forbid("add_signal_handler", "handle signals in the program that hosts the worker")

    def run_forever(self) -> NoReturn:
        self.forbid("run_forever", "a workflow is driven by its worker")

    def run_until_complete(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.forbid("run_until_complete", "use await")

    def stop(self) -> NoReturn:
        self.forbid("stopping the loop", "return from the workflow")

    def close(self) -> NoReturn:
        self.forbid("closing the loop", "return from the workflow")


# What is not written here raises NotImplementedError, as `AbstractEventLoop` has it.
WorkflowLoop.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


def _stack(task: WorkflowTask[Any]) -> str:
    """Where a suspended task stands, outermost line first."""
    lines: list[str] = []
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        lines.append(f" in {awaited.__qualname__} at {source_line(frame)}")
        awaited = awaited.cr_await
    return "".join(lines)


class EndlessLoop(BaseException):
    """Ends a drive that does not come to rest."""
