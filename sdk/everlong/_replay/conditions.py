"""What tasks of one run wait for until it is true.

Each predicate is asked when its task begins to wait, and then whenever a drive has come to rest:
in the order in which they began to wait, so that it is the same order on replay. One that holds
wakes its task, and the drive goes on.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import NoReturn

from everlong.exceptions import WorkflowFault

__all__ = ["Conditions"]


class Conditions:
    """The conditions of one run.

    Args:
        stop_with: flags the run and leaves its code; for a predicate that does more than look.
    """

    def __init__(self, stop_with: Callable[[WorkflowFault], NoReturn]) -> None:
        self._stop_with = stop_with
        self._waiting: list[tuple[Callable[[], object], asyncio.Future[None]]] = []

    async def wait(
        self, predicate: Callable[[], object], create_future: Callable[[], asyncio.Future[None]]
    ) -> None:
        if self._holds(predicate):
            return
        entry = (predicate, create_future())
        self._waiting.append(entry)
        try:
            await entry[1]
        finally:
            if entry in self._waiting:  # Cancelled.
                self._waiting.remove(entry)

    def at_rest(self) -> bool:
        """Wake whose condition holds by now; whether there was one."""
        woken = False
        for entry in list(self._waiting):
            predicate, future = entry
            if future.done():
                continue
            try:
                if not self._holds(predicate):
                    continue
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)
            self._waiting.remove(entry)
            woken = True
        return woken

    def _holds(self, predicate: Callable[[], object]) -> bool:
        answer = predicate()
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            self._stop_with(
                WorkflowFault(
                    "the predicate of wait_condition() must be a plain function that looks at the "
                    "workflow's variables and returns at once; await before, and keep the result "
                    "in a variable"
                )
            )
        return bool(answer)
