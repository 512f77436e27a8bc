"""Activities with `process=True`: plain functions in spawned processes.

A call crosses as names and bytes: the function by module and name, arguments, result and failure in
the same encoding as everywhere. Heartbeats come back through a pipe of their own.
"""

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Pipe, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, Final, Protocol, TypeVar

from everlong._context import CompletedElsewhere, activity_context
from everlong._failures import encode_exception
from everlong._info import ActivityInfo
from everlong_engine import pack

__all__ = ["ProcessDied", "ProcessPool", "perform_in_process"]

T = TypeVar("T")

_LOOK_S: Final = 1.0
_LOOK_FOR_CODE_S: Final = 0.01
_LOOKS_FOR_CODE_MAX: Final = 50


class ProcessDied(Exception):
    """The process died under its attempt. What that has done, nobody knows."""

    def __init__(self, code: int | None) -> None:
        how = "" if code is None else f" ({_how_it_ended(code)})"
        super().__init__(f"the process that ran this attempt died{how}")


def _how_it_ended(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"
    except ValueError:
        return f"signal {-code}"


class ProcessPool:
    """Processes for one attempt at a time each.

    Every process is an executor of its own, since one that dies breaks the executor that it is in
    for good, with everything that is at work there.
    """

    def __init__(self, processes_max: int) -> None:
        self._processes_max = processes_max
        self._idle: list[ProcessPoolExecutor] = []
        self._at_work: dict[ProcessPoolExecutor, Future[Any] | None] = {}
        self._waiting: deque[asyncio.Future[ProcessPoolExecutor]] = deque()

    async def run(
        self, work: Callable[..., T], *args: Any, begun: "Callable[[Future[T]], None]"
    ) -> T:
        """Run it as soon as a process is free. Cancelled, it leaves the process to end by itself.

        Raises:
            ProcessDied: its process, and nobody else's.
        """
        loop = asyncio.get_running_loop()
        executor = await self._take()
        try:
            future = executor.submit(work, *args)
        except BaseException:
            self._put(executor, whole=False)
            raise
        self._at_work[executor] = future
        process = _process_of(executor)

        def ended(_: "Future[T]") -> None:
            with suppress(RuntimeError):  # The loop is closed: so is the worker.
                loop.call_soon_threadsafe(self._ended, executor, future)

        future.add_done_callback(ended)
        begun(future)
        try:
            return await asyncio.wrap_future(future)
        except BrokenProcessPool:
            raise ProcessDied(await _exit_code(process)) from None

    async def _take(self) -> ProcessPoolExecutor:
        while self._idle:
            executor = self._idle.pop()
            if _is_whole(executor):
                self._at_work[executor] = None
                return executor
            executor.shutdown(wait=False)
        if len(self._at_work) < self._processes_max:
            return self._new()
        turn: asyncio.Future[ProcessPoolExecutor] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._put(turn.result(), whole=True)
            raise

    def _new(self) -> ProcessPoolExecutor:
        # Spawned, never forked: a forked child would share the store's descriptors.
        executor = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_belong_to_the_worker
        )
        self._at_work[executor] = None
        return executor

    def _ended(self, executor: ProcessPoolExecutor, work: "Future[Any]") -> None:
        broken = not work.cancelled() and isinstance(work.exception(), BrokenProcessPool)
        self._put(executor, whole=not broken)

    def _put(self, executor: ProcessPoolExecutor, *, whole: bool) -> None:
        self._at_work.pop(executor, None)
        if not whole:
            executor.shutdown(wait=False)
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                if whole:
                    self._at_work[executor] = None
                turn.set_result(executor if whole else self._new())
                return
        if whole:
            self._idle.append(executor)

    def end(self) -> None:
        """Let the processes go. Those at work were given up with their attempts: they are killed,
        since the interpreter would wait for them at its end."""
        for executor, work in self._at_work.items():
            process = _process_of(executor)
            executor.shutdown(wait=False, cancel_futures=True)
            if process is not None and work is not None and not work.done():
                process.kill()
        for executor in self._idle:
            executor.shutdown(wait=False)


def _process_of(executor: ProcessPoolExecutor) -> BaseProcess | None:
    """The executor has no public word for it."""
    processes: dict[int, BaseProcess] | None = getattr(executor, "_processes", None)
    return next(iter((processes or {}).values()), None)


async def _exit_code(process: BaseProcess | None) -> int | None:
    """The executor's own thread may be the one that is told; it says so a moment later."""
    for _ in range(_LOOKS_FOR_CODE_MAX):
        if process is None or process.exitcode is not None:
            break
        await asyncio.sleep(_LOOK_FOR_CODE_S)
    return None if process is None else process.exitcode


def _is_whole(executor: ProcessPoolExecutor) -> bool:
    """Whether its process has not died since it was at work."""
    process = _process_of(executor)
    return process is not None and not wait([process.sentinel], timeout=0)


def _belong_to_the_worker() -> None:
    """Ctrl-C reaches every process of a terminal; the worker's answer is to let activities end.
    A worker that was killed has no answer: then this process must not stay behind.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = parent_process()
    if worker is not None and worker.pid is not None:
        Thread(target=_die_with, args=(worker.sentinel, worker.pid), daemon=True).start()


def _die_with(sentinel: int, worker_pid: int) -> None:
    """Wait for the worker's end, and end at once.

    Its end of a pipe closes with it, on every system. Should somebody have inherited that by a
    fork, it is seen a moment later by the parent's number. (`PR_SET_PDEATHSIG` would be Linux
    alone, and follows the thread that started the pool, not its process.)
    """
    while not wait([sentinel], timeout=_LOOK_S) and os.getppid() == worker_pid:
        pass
    os.kill(os.getpid(), signal.SIGKILL)


class PooledAttempt(Protocol):
    """What the pool uses of an attempt."""

    work: "Future[Any] | None"

    def info(self) -> ActivityInfo: ...
    def heard(self, details: bytes | None) -> None: ...


async def perform_in_process(
    pool: ProcessPool,
    module: str,
    name: str,
    arguments: bytes,
    context: PooledAttempt,
) -> tuple[bool | None, bytes]:
    """(True, result) or (False, failure), or (None, nothing) for an outcome that comes later, or
    ProcessDied. See `ProcessPool.run`."""
    loop = asyncio.get_running_loop()
    ours, theirs = Pipe(duplex=False)

    def hear() -> None:
        try:
            context.heard(ours.recv_bytes() or None)
        except (EOFError, OSError):
            loop.remove_reader(ours.fileno())

    loop.add_reader(ours.fileno(), hear)

    def begun(work: "Future[tuple[bool | None, bytes]]") -> None:
        context.work = work

    try:
        info = context.info()
        info = replace(info, _token=partial(str, info.token))  # As it can be sent.
        call = (module, name, arguments, info, _Beats(theirs))
        return await pool.run(_call, *call, begun=begun)
    finally:
        loop.remove_reader(ours.fileno())
        ours.close()
        theirs.close()


def _call(
    module: str, name: str, arguments: bytes, info: ActivityInfo, beats: "_Beats"
) -> tuple[bool | None, bytes]:
    """In the pool's process."""
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    definition = found.definition
    beats.of = info
    token = activity_context.set(beats)
    try:
        args, kwargs = definition.parameters.decode(arguments)
        return True, definition.result.encode(definition.function(*args, **kwargs))
    except CompletedElsewhere:
        return None, b""
    except BaseException as error:
        return False, pack(encode_exception(error, definition.exceptions).to_wire())
    finally:
        activity_context.reset(token)


class _Pipe(Protocol):
    def send_bytes(self, buf: bytes, /) -> None: ...


class _Beats:
    """The activity's context in the pool's process."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self.of: ActivityInfo | None = None

    def info(self) -> ActivityInfo | None:
        return self.of

    def heartbeat(self, details: Any) -> None:
        self._pipe.send_bytes(b"" if details is None else pack(details))
