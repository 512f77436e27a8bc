"""Updates inside a run: requests that are judged, performed by a task of their own, and answered.

An update is judged before it is fed, by its validator, live and without a trace; what is recorded
has passed, and is never judged again. Its handler begins in the drive that feeds it. How it ended
is a decision like any other, so that replay finds the same end at the same place.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from everlong._context import UpdateHandler
from everlong._failures import encode_exception
from everlong._replay.identity import Named
from everlong._replay.intercepting import perform_update
from everlong._replay.live_only import arguments_for, call_live
from everlong._replay.loop import WorkflowTask
from everlong._values import Value
from everlong.exceptions import (
    EverlongError,
    NondeterminismError,
    PayloadTooLarge,
    WorkflowFault,
)
from everlong_engine import UpdateCompleted, UpdateFailed, UpdateReceived

__all__ = ["Updates"]


class _Run(Named, Protocol):
    def left_the_code(self, error: BaseException) -> None:
        """Flag the run, unless it is over: this came out of its code and is no exception."""
        ...


class Updates:
    """The handlers of one run, and the updates that they are at work on."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._handlers: dict[str, UpdateHandler] = {}
        self.taken = 0
        self._open: dict[str, UpdateReceived] = {}
        self._tasks: dict[str, WorkflowTask[None]] = {}
        self._replayed: dict[str, Value] = {}
        """The types of results that were made on replay."""

    def handle(self, name: str, handler: UpdateHandler) -> None:
        self._run.require_live()
        known = self._handlers.get(name)
        if known is not None:  # A validator may be declared first.
            handler = handler._replace(validator=known.validator)
        self._handlers[name] = handler

    def validate(self, name: str, validator: Callable[..., Any]) -> None:
        self._run.require_live()
        known = self._handlers.get(name)
        if known is None:
            self._run.stop_with(
                WorkflowFault(
                    f"the validator of update {name!r} stands before its handler: declare the "
                    "handler first"
                )
            )
        self._handlers[name] = known._replace(validator=validator)

    # ------------------------------------------------------------------------------ one update

    def judge(self, event: UpdateReceived) -> None:
        """Raise what speaks against it: the arguments do not fit, or the validator says so."""
        handler = self._handlers.get(event.update)
        if handler is None:
            known = ", ".join(sorted(self._handlers)) or "none"
            raise EverlongError(
                f"the workflow handles these updates now: {known}. Declare a handler before the "
                "workflow first waits"
            )
        args, kwargs = arguments_for(handler.parameters, event.arguments)
        validator = handler.validator
        if validator is not None:
            call_live(lambda: validator(*args, **kwargs))

    def take(self, event: UpdateReceived) -> None:
        """Begin its handler."""
        run = self._run
        handler = self._handlers.get(event.update)
        if handler is None:
            raise NondeterminismError(
                recorded=f"update {event.update!r}", made="no handler for it is declared"
            )
        args, kwargs = arguments_for(handler.parameters, event.arguments)
        self.taken += 1
        self._open[event.update_id] = event
        work = self._perform(handler, event, args, kwargs)
        task = WorkflowTask(
            work, loop=run.loop, name=f"update {event.update} {event.update_id}", context=Context()
        )
        run.loop.tasks.append(task)
        self._tasks[event.update_id] = task

    async def _perform(
        self, handler: UpdateHandler, event: UpdateReceived, args: Any, kwargs: Any
    ) -> None:
        run = self._run
        try:
            value = self._called(handler, event, args, kwargs)
            if asyncio.iscoroutine(value):
                value = await value
        except asyncio.CancelledError as error:
            # Of the handler's own making: nobody cancels handlers from outside.
            words = "".join(f": {one}" for one in error.args[:1] if one)
            self._fail(event, EverlongError(f"its handler was cancelled{words}"))
        except Exception as error:
            self._fail(event, error)
        except BaseException as error:
            # SystemExit and KeyboardInterrupt as well. They may come of a signal, and not come
            # again on replay: a decision must not follow from them.
            run.left_the_code(error)
            raise
        else:
            try:
                result = handler.result.encode(value)
            except PayloadTooLarge as error:
                # What is sent may decide how large an answer is; a run must not stand still for it.
                self._fail(event, error)
                return
            except EverlongError as error:
                run.left_the_code(WorkflowFault(str(error)))
                return
            if run.recorded is not None:
                self._replayed[event.update_id] = handler.result
            self._end(event, UpdateCompleted(event.update_id, result))

    def _called(self, handler: UpdateHandler, event: UpdateReceived, args: Any, kwargs: Any) -> Any:
        hooks = self._run.hooks
        if hooks is None or not hooks.handle_update:
            return handler.function(*args, **kwargs)
        return perform_update(self._run, hooks, handler, event, args, kwargs)

    def _fail(self, event: UpdateReceived, error: BaseException) -> None:
        failure = encode_exception(error, self._run.definition.exceptions)
        self._end(event, UpdateFailed(event.update_id, failure))

    def _end(self, event: UpdateReceived, decision: UpdateCompleted | UpdateFailed) -> None:
        self._run.require_live()
        del self._open[event.update_id], self._tasks[event.update_id]
        self._run.made.append(decision)

    # ---------------------------------------------------------------------------- what others ask

    def perform(self, task: object) -> bool:
        """Whether a task is one of the handlers at work."""
        return any(one is task for one in self._tasks.values())

    def unfinished(self) -> tuple[UpdateReceived, ...]:
        """Those whose handlers are still at work, in the order in which they came."""
        return tuple(self._open.values())

    def canonical(self, update_id: str, recorded: bytes) -> bytes:
        """A recorded result as today's types write it."""
        value = self._replayed.get(update_id)
        return recorded if value is None else value.encode(value.decode(recorded))
