"""Sagas: steps that are undone, in reverse, if what they belong to does not come to its end."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self

import anyio

from everlong._context import current_run, taking_cancellations
from everlong.exceptions import CompensationFailed, EverlongError

__all__ = ["Saga", "saga"]

P = ParamSpec("P")


class Saga:
    """The steps that have been taken, and how each is undone. Made by `saga()`."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], Awaitable[Any]]]] = []
        self._entered = False

    def undo(
        self, function: Callable[P, Awaitable[Any]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call `function(*args, **kwargs)` if the block fails or is cancelled.

        What people get wrong: a step that timed out may have taken effect all the same. For such a
        step, say how it is undone before you take it, and let the compensation do nothing where
        there is nothing to undo.

        Raises:
            EverlongError: outside the `async with` block, where nothing would ever be undone.
        """
        if not self._entered:
            raise EverlongError("undo() belongs inside `async with saga() as s:`")
        name = getattr(function, "__qualname__", None) or repr(function)
        self._steps.append((name, partial(function, *args, **kwargs)))

    async def compensate(self) -> None:
        """Undo everything now, the last step first; what is undone is forgotten.

        A cancellation that arrives meanwhile waits until everything is undone.

        Raises:
            CompensationFailed: some compensations failed for good; all were tried.
        """
        # A task of its own, so that a cancellation of this one does not reach it.
        task = asyncio.get_running_loop().create_task(self._undo_all())
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True) as scope:
            taking_cancellations.append(scope)
            try:
                cancelled = await _end_of(task)
            finally:
                taking_cancellations.remove(scope)
        await task
        if cancelled is not None:
            raise cancelled

    async def _undo_all(self) -> None:
        run = current_run()
        if run is not None and run.in_hand is not None:
            run.in_hand.undoing = True
        failures: list[tuple[str, Exception]] = []
        while self._steps:
            name, compensation = self._steps.pop()
            try:
                await compensation()
            except Exception as error:
                failures.append((name, error))
        if failures:
            names = ", ".join(name for name, _ in failures)
            raise CompensationFailed(names=names, failures=failures)

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # Not for what ends the run's code without ending the run (a discard, a new beginning).
            if isinstance(error, Exception | asyncio.CancelledError):
                await self.compensate()
        finally:
            self._entered = False


async def _end_of(task: asyncio.Task[None]) -> asyncio.CancelledError | None:
    """Wait for it, cancelled or not; the last cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def saga() -> Saga:
    """Take steps that are undone in reverse order if the block fails or is cancelled.

    What people get wrong: it is no transaction. Others see each step when it is taken, and each
    compensation is a step of its own that must be possible at any later time.

        async with saga() as s:
            await charge(order)
            s.undo(refund, order)
            await ship(order)
            s.undo(call_back, order)
            await tell(order)

    The compensations run durably, like every step; the error that caused them is raised behind
    them.

    Raises:
        CompensationFailed: in place of that error, which is its `__context__`: some compensations
            failed for good, and somebody must look. All were tried.
    """
    return Saga()
