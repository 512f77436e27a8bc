"""The only way in which a run's code ends before it has returned.

Dropping a suspended coroutine makes Python run its `finally` blocks, on whatever loop and at
whatever time the garbage collector likes. So every drop (eviction, a lost lease, a fault, a
termination, a roll-over, a worker's stop) comes here: frames are closed in the order in which their
tasks were created, under a flag that makes every call into Everlong and every method of the loop
raise. Plain synchronous code in `finally` may run; nothing durable does.
"""

import logging
from typing import Any, Final, NoReturn

from everlong._replay import asyncio_adapter
from everlong._replay.loop import Discarded, WorkflowLoop, WorkflowTask

__all__ = ["discard"]

logger = logging.getLogger("everlong")

_TRIES: Final = 100


class _Gone:
    """Stands where the run of a discarded loop was."""

    def __getattr__(self, name: str) -> NoReturn:
        raise Discarded


_GONE: Final[Any] = _Gone()


def discard(loop: WorkflowLoop) -> None:
    """Close every frame of a run, once."""
    if loop.discarded:
        return
    loop.stopped = loop.discarded = True
    outside = asyncio_adapter.enter(loop)
    try:
        _end_tasks(loop)
    finally:
        asyncio_adapter.leave(outside)
    loop.everlong_run = _GONE


def _end_tasks(loop: WorkflowLoop) -> None:
    alive = [task for task in loop.tasks if not task.done()]
    for task in alive:
        _close_frames(task)
    # Cut the cycles between loop, tasks and callbacks: nothing is left to the garbage collector.
    for task in alive:
        _cut(task)
    loop.ready.clear()
    loop.tasks.clear()


def _close_frames(task: WorkflowTask[Any]) -> None:
    """End a task's code where it waits, innermost frame first; code that waits again is told again.

    `close()` would not do: it passes an async generator by, and leaves an inner coroutine that
    waits again behind for the garbage collector.
    """
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine = task.get_coro()
    with asyncio_adapter.as_current(task):
        for _ in range(_TRIES):
            try:
                coroutine.throw(Discarded)
            except BaseException:
                break  # It has ended, with Discarded or with an error of its own.
        else:
            logger.error(
                "a workflow's task %s would not end when its run was discarded", task.get_name()
            )


def _cut(task: WorkflowTask[Any]) -> None:
    """What a task waits for calls it back, and it calls its group back: cycles both."""
    futures: tuple[Any, Any] = (task, task._fut_waiter)  # type: ignore[attr-defined]
    for future in futures:
        for callback, _ in getattr(future, "_callbacks", None) or ():
            future.remove_done_callback(callback)
