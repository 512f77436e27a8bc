"""Where the code of activities runs, and what it finds in its context.

An attempt ends as a value: `Succeeded` with encoded bytes, or `Raised` with a failure as data. No
exception of a user's crosses this line, `SystemExit` and `KeyboardInterrupt` included.
"""

import asyncio
import traceback
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from everlong._context import CompletedElsewhere
from everlong._definitions import ActivityDefinition
from everlong._failures import encode_exception
from everlong._info import ActivityInfo
from everlong._tokens import Token
from everlong.exceptions import EverlongError
from everlong.worker._owned import OpenAttempt
from everlong.worker._pool import ProcessDied, ProcessPool, perform_in_process
from everlong_engine import Failure, id_text, pack, unpack

__all__ = [
    "AttemptContext",
    "Died",
    "Later",
    "Raised",
    "Succeeded",
    "perform",
    "perform_elsewhere",
    "perform_in_thread",
]


class Beats(Protocol):
    """Who hears the heartbeats of an attempt."""

    def store_details(self, attempt: OpenAttempt) -> None: ...
    def expect_heartbeat(self, attempt: OpenAttempt) -> None: ...


@dataclass(frozen=True, slots=True)
class Succeeded:
    result: bytes


@dataclass(frozen=True, slots=True)
class Raised:
    failure: Failure


@dataclass(frozen=True, slots=True)
class Died:
    """Its process did. It is lost, as if its worker had died; other attempts are not concerned."""

    text: str


@dataclass(frozen=True, slots=True)
class Later:
    """It has left; somebody else will tell its outcome."""


class AttemptContext:
    """What `info()` and `heartbeat()` find in the context of an activity.

    One for each attempt: a thread whose attempt timed out may still ask while the next one runs.
    """

    __slots__ = ("_attempt", "_details", "_number", "_runner", "loop", "over", "work")

    def __init__(self, runner: Beats, attempt: OpenAttempt) -> None:
        self._runner = runner
        self._attempt = attempt
        self._number = attempt.attempt
        self._details = attempt.previous_details
        self.loop: asyncio.AbstractEventLoop | None = None
        self.work: Future[Any] | None = None
        """What runs in a pool; it may outlive the attempt."""
        self.over = False

    def info(self) -> ActivityInfo:
        attempt = self._attempt
        run = attempt.run
        run_id = id_text(run.run_id)
        return ActivityInfo(
            workflow_id=run.workflow_id,
            run_id=run_id,
            activity_id=attempt.scheduled.activity_id,
            type=attempt.definition.name,
            attempt=self._number,
            idempotency_key=f"{run_id}/{attempt.scheduled.activity_id}",
            heartbeat_details=None if self._details is None else unpack(self._details),
            cancelled=self._is_unwanted(),
            token=Token(
                run.namespace,
                run.workflow_id,
                run.execution_id,
                run.run_id,
                attempt.scheduled.activity_id,
                self._number,
            ).text(),
        )

    def _is_unwanted(self) -> bool:
        attempt = self._attempt
        given_up = attempt.abandoned and not attempt.left_alone
        return self.over or given_up or attempt.cancel_asked or attempt.timed_out is not None

    def heartbeat(self, details: Any) -> None:
        packed = None if details is None else pack(details)
        if self.loop is None:
            self.heard(packed)
        else:
            self.loop.call_soon_threadsafe(self.heard, packed)

    def heard(self, details: bytes | None) -> None:
        """On the event loop."""
        attempt = self._attempt
        if self.over or attempt.task is None or (attempt.abandoned and not attempt.left_alone):
            return
        if details is not None and not attempt.left_alone:
            attempt.details = details
            self._runner.store_details(attempt)
        if attempt.scheduled.options.heartbeat_us is not None:
            self._runner.expect_heartbeat(attempt)


# ------------------------------------------------------------------------ where user code runs


async def perform(attempt: OpenAttempt) -> Succeeded | Raised | Later:
    definition = attempt.definition
    try:
        args, kwargs = definition.parameters.decode(attempt.scheduled.arguments)
        value = await definition.function(*args, **kwargs)
        return Succeeded(definition.result.encode(value))
    except asyncio.CancelledError as error:
        if attempt.abandoned or attempt.timed_out is not None or _being_cancelled():
            raise
        return Raised(encode_exception(error, definition.exceptions))  # Its own doing.
    except CompletedElsewhere:
        return Later()
    except BaseException as error:
        return _raised(definition, error)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def perform_in_thread(attempt: OpenAttempt) -> Succeeded | Raised | Later:
    definition = attempt.definition
    try:
        args, kwargs = definition.parameters.decode(attempt.scheduled.arguments)
        return Succeeded(definition.result.encode(definition.function(*args, **kwargs)))
    except CompletedElsewhere:
        return Later()
    except BaseException as error:
        return _raised(definition, error)


async def perform_elsewhere(
    pool: ProcessPool, attempt: OpenAttempt, context: AttemptContext
) -> Succeeded | Raised | Died | Later:
    definition = attempt.definition
    function = definition.function
    try:
        ok, data = await perform_in_process(
            pool,
            function.__module__,
            function.__qualname__,
            attempt.scheduled.arguments,
            context,
        )
    except asyncio.CancelledError:
        raise
    except ProcessDied as error:
        return Died(str(error))
    except Exception as error:  # It could not be handed over.
        return _raised(definition, error)
    if ok is None:
        return Later()
    if ok:
        return Succeeded(data)
    return Raised(Failure.from_wire(unpack(data)))


def _raised(definition: ActivityDefinition, error: BaseException) -> Raised:
    """A failure as data. Values that cannot be stored will not be storable next time either."""
    if isinstance(error, EverlongError) and isinstance(error, TypeError):
        text = "".join(traceback.format_exception(error))
        kind = type(error)
        return Raised(
            Failure(
                type=f"{kind.__module__}.{kind.__qualname__}",
                message=str(error),
                traceback=text,
                retryable=False,
            )
        )
    return Raised(encode_exception(error, definition.exceptions))
