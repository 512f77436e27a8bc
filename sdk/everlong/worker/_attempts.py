"""Where the code of activities runs, and what it finds in its context.

An attempt ends as a value: `Succeeded` with encoded bytes, or `Raised` with a failure as data. No
exception of a user's crosses this line, `SystemExit` and `KeyboardInterrupt` included.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import Context
from typing import Any, Protocol, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from everlong._context import CompletedElsewhere
from everlong._definitions import ActivityDefinition
from everlong._failures import encode_exception
from everlong._info import ActivityInfo
from everlong._tokens import Token
from everlong.exceptions import DefinitionError, EverlongError
from everlong.transactions import Effect, Transaction
from everlong.worker._pool import ProcessDied, ProcessPool, perform_in_process
from everlong.worker._threads import DaemonThreads
from everlong_engine import (
    ActivityScheduled,
    Alarm,
    EntityChanges,
    Failure,
    id_text,
    pack,
    unpack,
)

__all__ = [
    "Attempt",
    "AttemptContext",
    "Died",
    "Later",
    "Launch",
    "Place",
    "Pools",
    "Raised",
    "Succeeded",
    "launch",
    "perform",
]


class Place(Protocol):
    """The run that an attempt belongs to, as far as the attempt may know it."""

    @property
    def namespace(self) -> str: ...
    @property
    def workflow_id(self) -> str: ...
    @property
    def run_id(self) -> bytes: ...
    @property
    def execution_id(self) -> bytes: ...


class Attempt(Protocol):
    """What runs, and what has become of it so far. Plain state of whoever runs it."""

    scheduled: ActivityScheduled
    definition: ActivityDefinition
    attempt: int
    task: "asyncio.Future[Any] | None"
    timed_out: str | None
    abandoned: bool
    cancel_asked: bool
    left_alone: bool
    interrupt: Callable[[], object] | None
    details: bytes | None
    previous_details: bytes | None
    beat: Alarm | None
    limit: Alarm | None
    when_stored: Callable[[], None] | None
    entities: EntityChanges | None

    @property
    def place(self) -> Place: ...
    @property
    def origin(self) -> str:
        """The run that scheduled it first: what its idempotency key begins with."""
        ...

    def hand_out(self, number: int) -> int:
        """Its token goes to others, who are told by a mark when it is over. The number of the
        event that scheduled it; 0 if this attempt is over."""
        ...


class Beats(Protocol):
    """Who hears the heartbeats of an attempt."""

    @property
    def pools(self) -> "Pools": ...
    def expect_heartbeat(self, attempt: Attempt) -> None: ...


class Succeeded(Struct, frozen=True):
    result: bytes
    effects: tuple[Effect, ...] = ()
    """To be stored with it, or not at all."""


class Raised(Struct, frozen=True):
    failure: Failure


class Died(Struct, frozen=True):
    """Its process did. It is lost, as if its worker had died; other attempts are not concerned."""

    text: str


class Later(Struct, frozen=True):
    """It has left; somebody else will tell its outcome."""


class AttemptContext:
    """What `info()` and `heartbeat()` find in the context of an activity.

    One for each attempt: a thread whose attempt timed out may still ask while the next one runs.
    """

    __slots__ = (
        *("_attempt", "_bench", "_details", "_number", "_store_details"),
        *("loop", "over", "work"),
    )

    def __init__(
        self, bench: Beats, store_details: Callable[[Any], None], attempt: Attempt
    ) -> None:
        self._bench = bench
        self._store_details = store_details
        self._attempt = attempt
        self._number = attempt.attempt
        self._details = attempt.previous_details
        self.loop: asyncio.AbstractEventLoop | None = None
        self.work: Future[Any] | None = None
        """What runs in a pool; it may outlive the attempt."""
        self.over = False

    def info(self) -> ActivityInfo:
        attempt, place = self._attempt, self._attempt.place
        number = attempt.scheduled.activity_id
        return ActivityInfo(
            workflow_id=place.workflow_id,
            run_id=id_text(place.run_id),
            activity_id=number,
            type=attempt.definition.name,
            attempt=self._number,
            idempotency_key=f"{attempt.origin}/{number}",
            heartbeat_details=None if self._details is None else unpack(self._details),
            cancelled=self._is_unwanted(),
            _token=self._token,
        )

    def _token(self) -> str:
        """Names the attempt for others; from now on they are told, by a mark, when it is over."""
        attempt, place = self._attempt, self._attempt.place
        at = attempt.hand_out(self._number)
        if self._is_unwanted():
            at = 0
        return Token(
            place.namespace,
            place.workflow_id,
            place.execution_id,
            place.run_id,
            attempt.scheduled.activity_id,
            self._number,
            at,
        ).text()

    def own_client(self) -> tuple[Any, bytes]:
        """For activities of Everlong's own: a client where the run is, and its execution."""
        place = self._attempt.place
        return self._bench.pools.client_of(place.namespace), place.execution_id

    def shelf(self) -> dict[Any, Any]:
        """For the same: what they keep in this worker from one attempt to the next. Its values have
        a `close`, which is called when the worker stops; and earlier, for keys that begin with an
        execution that is given to another worker."""
        return self._bench.pools.shelf

    def when_stored(self, then: Callable[[], None]) -> None:
        """For the same: have it called once its completion is committed. It may never be, for a
        crash may come before it: what counts stands in the history."""
        self._attempt.when_stored = then

    def store_states(self, changes: EntityChanges) -> None:
        """For the same: states of keys, to be stored in the very append that records its
        completion, or not at all. What an attempt says that is over counts for nothing."""
        if self._attempt.attempt == self._number and not self._is_unwanted():
            self._attempt.entities = changes

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
            self._store_details(attempt)
        if attempt.scheduled.options.heartbeat_us is not None:
            self._bench.expect_heartbeat(attempt)


# ------------------------------------------------------------------------ where user code runs


class Pools:
    """A worker's threads and processes, made when they are wanted."""

    def __init__(self, threads: int, processes: int) -> None:
        self._threads_max = threads
        self._processes_max = processes
        self._threads: DaemonThreads | None = None
        self._processes: ProcessPool | None = None
        self.client_of: Callable[[str], Any] = _nobody
        """A client of the worker's store, in a namespace."""
        self.shelf: dict[Any, Any] = {}

    def threads(self) -> DaemonThreads:
        if self._threads is None:
            self._threads = DaemonThreads(self._threads_max, "everlong-activity")
        return self._threads

    def processes(self) -> ProcessPool:
        if self._processes is None:
            self._processes = ProcessPool(self._processes_max)
        return self._processes

    def close(self) -> None:
        """What still runs was handed back: threads end by themselves, processes are ended."""
        if self._threads is not None:
            self._threads.shutdown()
        if self._processes is not None:
            self._processes.end()
        for kept in list(self.shelf.values()):  # They take themselves off it.
            kept.close()


def _nobody(namespace: str) -> Any:
    raise AssertionError(f"no worker gave a client of {namespace}")


Launch: TypeAlias = Callable[[Attempt, AttemptContext, Context, Pools], asyncio.Future[Any]]


def launch(
    attempt: Attempt, activity: AttemptContext, context: Context, pools: Pools
) -> asyncio.Future[Any]:
    """Begin the code of an attempt where it belongs, and say what asks it to end."""
    loop = asyncio.get_running_loop()
    definition = attempt.definition
    if definition.is_async:
        performing = perform(attempt, definition.function)
        task: asyncio.Future[Any] = loop.create_task(performing, context=context)
        attempt.interrupt = task.cancel
    elif definition.process:
        task = loop.create_task(_perform_elsewhere(pools.processes(), attempt, activity))
        attempt.interrupt = lambda: activity.work is None and task.cancel()
    else:
        activity.loop = loop
        work = pools.threads().submit(lambda: context.run(_perform_in_thread, attempt))
        activity.work = work
        task = asyncio.wrap_future(work)
        attempt.interrupt = work.cancel  # As long as it waits for a thread.
    return task


async def perform(
    attempt: Attempt, function: Callable[..., Awaitable[Any]]
) -> Succeeded | Raised | Later:
    """An attempt on the event loop, by that function."""
    definition = attempt.definition
    try:
        args, kwargs = definition.parameters.decode(attempt.scheduled.arguments)
        if definition.transactional and function is definition.function:
            tx = Transaction()
            value = await function(tx, *args, **kwargs)
            return Succeeded(definition.result.encode(value), tx.end())
        value = await function(*args, **kwargs)
        return Succeeded(definition.result.encode(value))
    except asyncio.CancelledError as error:
        if attempt.abandoned or attempt.timed_out is not None or _being_cancelled():
            raise
        return Raised(encode_exception(error, definition.exceptions))  # Its own doing.
    except CompletedElsewhere:
        return _later(definition)
    except BaseException as error:
        return _raised(definition, error)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _perform_in_thread(attempt: Attempt) -> Succeeded | Raised | Later:
    definition = attempt.definition
    try:
        args, kwargs = definition.parameters.decode(attempt.scheduled.arguments)
        if definition.transactional:
            tx = Transaction()
            value = definition.function(tx, *args, **kwargs)
            return Succeeded(definition.result.encode(value), tx.end())
        return Succeeded(definition.result.encode(definition.function(*args, **kwargs)))
    except CompletedElsewhere:
        return _later(definition)
    except BaseException as error:
        return _raised(definition, error)


async def _perform_elsewhere(
    pool: ProcessPool, attempt: Attempt, context: AttemptContext
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


def _later(definition: ActivityDefinition) -> Later | Raised:
    if not definition.transactional:
        return Later()
    refusal = DefinitionError(
        f"activity {definition.name} is transactional: what it stores is stored with its "
        "completion, so nobody can complete it later"
    )
    return Raised(replace(encode_exception(refusal, definition.exceptions), retryable=False))


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
