"""Threads for activities that are a plain def; they keep no process alive.

A thread cannot be stopped. When a worker stops, what has not ended within `stop_timeout` is handed
back and begins again elsewhere; the process must then be able to leave all the same, and those of
the standard library's pool are waited for at its end. These are daemons. They are started as they
are needed and stay until `shutdown`.
"""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any, TypeAlias

__all__ = ["DaemonThreads"]

_Task: TypeAlias = "tuple[Future[Any], Callable[[], object]]"


class DaemonThreads:
    """A pool of at most so many threads. `submit` and `shutdown` are called by one thread."""

    def __init__(self, threads_max: int, name: str) -> None:
        self._threads_max = threads_max
        self._name = name
        self._count = 0
        self._idle = Semaphore(0)
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()

    def submit(self, work: Callable[[], object]) -> "Future[Any]":
        """Run `work()` on a thread, as soon as one is free."""
        future: Future[Any] = Future()
        self._tasks.put((future, work))
        if not self._idle.acquire(blocking=False) and self._count < self._threads_max:
            name = f"{self._name}-{self._count}"
            self._count += 1
            Thread(target=self._serve, name=name, daemon=True).start()
        return future

    def shutdown(self) -> None:
        """What waits is cancelled, what runs is left alone; each thread ends behind its work."""
        while not self._tasks.empty():
            task = self._tasks.get_nowait()
            if task is not None:
                task[0].cancel()
        for _ in range(self._count):
            self._tasks.put(None)

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            _perform(*task)
            del task  # Nothing of it is kept alive while this waits.
            self._idle.release()


def _perform(future: "Future[Any]", work: Callable[[], object]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
