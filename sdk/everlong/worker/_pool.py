"""Activities with `process=True`: plain functions in a pool of spawned processes.

A call crosses as names and bytes: the function by module and name, arguments, result and failure in
the same encoding as everywhere. Heartbeats come back through a pipe of their own.
"""

import asyncio
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Pipe
from typing import Any, Protocol

from everlong._context import activity_context
from everlong._failures import encode_exception
from everlong._info import ActivityInfo
from everlong_engine import pack

__all__ = ["perform_in_process", "spawned_pool"]


def spawned_pool(processes_max: int) -> ProcessPoolExecutor:
    """Spawned, never forked: a forked child would share the store's descriptors."""
    return ProcessPoolExecutor(
        processes_max, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_worker
    )


def _leave_interrupts_to_the_worker() -> None:
    """Ctrl-C reaches every process of a terminal; the worker's answer is to let activities end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
