"""Activities with `process=True`: plain functions in a pool of spawned processes.

A call crosses as names and bytes: the function by module and name, arguments, result and failure in
the same encoding as everywhere. Heartbeats come back through a pipe of their own.
"""

import asyncio
import os
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Pipe, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, Final, Protocol

from everlong._context import activity_context
from everlong._failures import encode_exception
from everlong._info import ActivityInfo
from everlong_engine import pack

__all__ = ["end_pool", "perform_in_process", "spawned_pool"]

_LOOK_S: Final = 1.0


def spawned_pool(processes_max: int) -> ProcessPoolExecutor:
    """Spawned, never forked: a forked child would share the store's descriptors."""
    return ProcessPoolExecutor(
        processes_max, mp_context=get_context("spawn"), initializer=_belong_to_the_worker
    )


def end_pool(pool: ProcessPoolExecutor, *, at_work: bool) -> None:
    """Let its processes go. Those at work were given up with their attempts: they are killed, since
    the interpreter would wait for them at its end."""
    processes: dict[int, BaseProcess] | None = getattr(pool, "_processes", None)
    children = list((processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    if at_work:
        for child in children:
            child.kill()


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
    pool: ProcessPoolExecutor,
    module: str,
    name: str,
    arguments: bytes,
    context: PooledAttempt,
) -> tuple[bool, bytes]:
    """(True, result) or (False, failure). Cancelled, it leaves the process to end by itself."""
    loop = asyncio.get_running_loop()
    ours, theirs = Pipe(duplex=False)

    def hear() -> None:
        try:
            context.heard(ours.recv_bytes() or None)
        except (EOFError, OSError):
            loop.remove_reader(ours.fileno())

    loop.add_reader(ours.fileno(), hear)
    try:
        work = pool.submit(_call, module, name, arguments, context.info(), _Beats(theirs))
        context.work = work
        return await asyncio.wrap_future(work)
    finally:
        loop.remove_reader(ours.fileno())
        ours.close()
        theirs.close()


def _call(
    module: str, name: str, arguments: bytes, info: ActivityInfo, beats: "_Beats"
) -> tuple[bool, bytes]:
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
