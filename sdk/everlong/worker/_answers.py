"""Answers that become visible behind a commit."""

import asyncio

from everlong.worker._owned import Superseded

__all__ = ["PendingAnswer"]


class PendingAnswer:
    """An answer to a query that becomes visible behind the commit of the state that it saw."""

    __slots__ = ("_answer", "_future")

    def __init__(self, future: "asyncio.Future[bytes]", answer: bytes) -> None:
        self._future = future
        self._answer = answer

    def give(self) -> None:
        if not self._future.done():
            self._future.set_result(self._answer)

    def withdraw(self) -> None:
        if not self._future.done():
            self._future.set_exception(Superseded())
