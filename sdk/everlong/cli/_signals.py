"""Ctrl-C and SIGTERM while an embedded worker runs: the first ends in order, the second at once."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from everlong.cli._exits import ExitCode

__all__ = ["Interrupted", "until_signalled"]

T = TypeVar("T")

_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class Interrupted(Exception):
    """A signal asked for the end."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__("interrupted")
        self.code = code


async def until_signalled(work: Coroutine[Any, Any, T], on_signal: Callable[[], None]) -> T:
    """The result of `work`, which is cancelled by the first signal.

    Raises:
        Interrupted: a signal came; `work` has ended.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    came: list[ExitCode] = []

    def stop_in_order() -> None:
        on_signal()
        task.cancel()

    def stop(number: int, _: object) -> None:
        # Not through the loop: a workflow that never yields would keep the second one out too.
        code = _CODES[signal.Signals(number)]
        if came:
            os._exit(code)
        came.append(code)
        loop.call_soon_threadsafe(stop_in_order)

    before = {number: signal.signal(number, stop) for number in _CODES}
    try:
        return await task
    except asyncio.CancelledError:
        if came:
            raise Interrupted(came[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
