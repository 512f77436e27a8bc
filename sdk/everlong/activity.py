"""Activities: functions that touch the world, run at least once and recorded once.

`@activity` keeps a function's signature. Awaited in a workflow it is scheduled durably; awaited
anywhere else it just runs, so that it can be tested without an engine.
"""

import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from functools import partial
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

import anyio.to_thread

from everlong import registry
from everlong._context import (
    CompletedElsewhere,
    activity_context,
    calling_frame,
    current_run,
    source_line,
)
from everlong._definitions import OWN, QUEUE, ActivityDefinition, queue_name
from everlong._failures import ExceptionRegistry
from everlong._values import Parameters, Value, resolve_hints
from everlong.exceptions import DefinitionError, EverlongError
from everlong.queues import TaskQueue, checked_key, checked_priority
from everlong.transactions import Transaction
from everlong_engine import (
    ON_CANCEL,
    ActivityOptions,
    OnCancel,
    Retry,
    seconds_us,
)

__all__ = ["Activity", "activity", "complete_later", "heartbeat"]

P = ParamSpec("P")
R = TypeVar("R")

_Duration = float | timedelta
_Key = Callable[..., object]


class Activity(Generic[P, R]):
    """A function decorated with `@activity`. Call it and await the result."""

    def __init__(
        self,
        function: Callable[..., Any],
        definition: ActivityDefinition,
        options: ActivityOptions,
        key: "_Key | None" = None,
    ) -> None:
        self.function = function
        self.definition = definition
        self._options = options
        self._key = key
        self.__name__ = getattr(function, "__name__", definition.name)
        self.__qualname__ = getattr(function, "__qualname__", definition.name)
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """In a workflow: schedule it durably when awaited. Anywhere else: just run it."""
        # Its type has no Any: with one, mypy cannot tell which overload of asyncio.gather it meets.
        run = current_run()
        if run is None:
            return self._just_run(args, kwargs)
        # Arguments are checked here, at the call, where the traceback shows the culprit's line.
        definition = self.definition
        arguments = definition.parameters.encode(args, kwargs)
        where = source_line(calling_frame(1))
        # Looked up here: what may not decide anything (a query) raises at the call, awaited or not.
        schedule = run.call_activity
        options = self._options
        if self._key is not None:
            key = checked_key(f"activity {definition.name}", self._key(*args, **kwargs))
            options = options.changed({"key": key})
        return _scheduled(schedule, definition, options, arguments, where)

    async def _just_run(self, args: Any, kwargs: Any) -> R:
        if self.definition.transactional:
            raise EverlongError(
                f"activity {self.definition.name} is transactional: a workflow calls it. To test "
                f"it alone, call {self.__name__}.function(Transaction(), …)"
            )
        if self.definition.is_async:
            return cast(R, await self.function(*args, **kwargs))
        call = partial(self.function, *args, **kwargs)
        return cast(R, await anyio.to_thread.run_sync(call))

    def options(
        self,
        *,
        retry: Retry | None = None,
        timeout: _Duration | None = None,
        schedule_to_close: _Duration | None = None,
        schedule_to_start: _Duration | None = None,
        heartbeat_timeout: _Duration | None = None,
        at_most_once: bool | None = None,
        on_cancel: OnCancel | None = None,
        queue: str | TaskQueue | None = None,
        key: str | int | Callable[..., object] | None = None,
        priority: int | None = None,
    ) -> "Activity[P, R]":
        """The same activity with other options, for one call or many.

            await charge.options(timeout=30, retry=Retry(max_attempts=3))(order)

        Options that are not given stay as they were decorated. Durations are seconds or timedelta.
        """
        changed = _options(
            retry,
            timeout,
            schedule_to_close,
            schedule_to_start,
            heartbeat_timeout,
            at_most_once,
            on_cancel,
            queue,
            priority,
        )
        options = self._options.changed(changed)
        name = f"activity {self.definition.name}"
        chosen = self._key if key is None else _key_of(name, key)
        _check_queue(name, options, chosen, transactional=self.definition.transactional)
        return Activity(self.function, self.definition, options, chosen)

    def __repr__(self) -> str:
        return f"<activity {self.definition.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name, for process pools."""
        return _by_name, (self.__module__, self.__qualname__)


def _by_name(module: str, name: str) -> Any:
    import importlib

    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


async def _scheduled(
    schedule: Callable[..., Awaitable[Any]],
    definition: ActivityDefinition,
    options: ActivityOptions,
    arguments: bytes,
    where: str,
) -> Any:
    return await schedule(definition, options, arguments, where)


def options_of(
    *,
    retry: Retry | None = None,
    timeout: _Duration | None = None,
    schedule_to_close: _Duration | None = None,
    schedule_to_start: _Duration | None = None,
    heartbeat_timeout: _Duration | None = None,
    at_most_once: bool | None = None,
    on_cancel: OnCancel | None = None,
    queue: str | TaskQueue | None = None,
    priority: int | None = None,
) -> dict[str, Any]:
    """Not public: options as `ActivityOptions.changed` takes them."""
    return _options(
        retry,
        timeout,
        schedule_to_close,
        schedule_to_start,
        heartbeat_timeout,
        at_most_once,
        on_cancel,
        queue,
        priority,
    )


def _options(
    retry: Retry | None,
    timeout: _Duration | None,
    schedule_to_close: _Duration | None,
    schedule_to_start: _Duration | None,
    heartbeat_timeout: _Duration | None,
    at_most_once: bool | None,
    on_cancel: OnCancel | None,
    queue: str | TaskQueue | None,
    priority: int | None,
) -> dict[str, Any]:
    """Only what was given, in microseconds."""
    changed: dict[str, Any] = {}
    if retry is not None:
        if not isinstance(retry, Retry):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"retry={retry!r}: give a Retry, such as Retry(max_attempts=3)")
        changed.update(
            max_attempts=retry.max_attempts,
            delay_us=seconds_us(retry.delay, "delay"),
            backoff=float(retry.backoff),
            delay_max_us=retry.delay_max_us,
            jitter=float(retry.jitter),
            non_retryable=retry.names,
            on_exhausted=retry.on_exhausted,
        )
    durations = {
        "start_to_close_us": ("timeout", timeout),
        "schedule_to_close_us": ("schedule_to_close", schedule_to_close),
        "schedule_to_start_us": ("schedule_to_start", schedule_to_start),
        "heartbeat_us": ("heartbeat_timeout", heartbeat_timeout),
    }
    for field, (name, value) in durations.items():
        if value is not None:
            duration = seconds_us(value, name)
            if duration == 0:
                raise ValueError(f"{name} must be more than 0 seconds")
            changed[field] = duration
    if at_most_once is not None:
        changed["at_most_once"] = at_most_once
    if on_cancel is not None:
        if on_cancel not in ON_CANCEL:
            raise ValueError(f"on_cancel={on_cancel!r}: give 'try', 'wait' or 'abandon'")
        changed["on_cancel"] = on_cancel
    if queue is not None:
        changed["queue"] = queue.name if isinstance(queue, TaskQueue) else queue_name(queue)
    if priority is not None:
        changed["priority"] = checked_priority(priority)
    return changed


def _key_of(name: str, key: object) -> "_Key":
    if callable(key):
        return key
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise TypeError(
            f"{name}: key={key!r} is no key: give a text, a number, or a function of the arguments"
        )
    return lambda *_, **__: key


@overload
def activity(function: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
@overload
def activity(function: Callable[P, R], /) -> Activity[P, R]: ...
@overload
def activity(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: _Duration | None = None,
    schedule_to_close: _Duration | None = None,
    schedule_to_start: _Duration | None = None,
    heartbeat_timeout: _Duration | None = None,
    raises: Iterable[type[Exception]] = (),
    at_most_once: bool = False,
    on_cancel: OnCancel = "try",
    queue: str | TaskQueue | None = None,
    key: Callable[..., object] | None = None,
    priority: int = 0,
    process: bool = False,
) -> "ActivityDecorator": ...
@overload
def activity(
    *,
    transactional: Literal[True],
    name: str | None = None,
    retry: Retry | None = None,
    timeout: _Duration | None = None,
    schedule_to_close: _Duration | None = None,
    schedule_to_start: _Duration | None = None,
    heartbeat_timeout: _Duration | None = None,
    raises: Iterable[type[Exception]] = (),
    on_cancel: OnCancel = "try",
) -> "TransactionalDecorator": ...
def activity(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: _Duration | None = None,
    schedule_to_close: _Duration | None = None,
    schedule_to_start: _Duration | None = None,
    heartbeat_timeout: _Duration | None = None,
    raises: Iterable[type[Exception]] = (),
    at_most_once: bool = False,
    on_cancel: OnCancel = "try",
    queue: str | TaskQueue | None = None,
    key: Callable[..., object] | None = None,
    priority: int = 0,
    process: bool = False,
    transactional: bool = False,
) -> Any:
    """Make a function an activity: the place for everything that touches the world.

    It runs at least once: if the worker dies in its middle it is tried again elsewhere, so make its
    effects idempotent (`info().idempotency_key` helps) or say `at_most_once=True`. An `async def`
    runs on the worker's loop, a plain `def` in a thread, and with `process=True` in a process of
    its own pool. Arguments and results are plain data, pydantic models or dataclasses.

        @activity(retry=Retry(max_attempts=5), timeout=10)
        async def fetch(url: str) -> Page: ...

    Args:
        name: how histories call it; the function's name unless given. Keep it when you rename.
        retry: when a failed attempt is tried again; see `Retry`.
        timeout: seconds (or timedelta) that one attempt may take (start to close).
        schedule_to_close: for all attempts together.
        schedule_to_start: how long it may wait for a free slot before its first attempt.
        heartbeat_timeout: the longest silence between two calls of `heartbeat()`.
        raises: exception classes that the workflow catches as themselves. Builtins and classes
            that are visible in the activity's module need not be named.
        at_most_once: an attempt whose worker or process died is not repeated; the workflow gets
            ActivityLost.
        on_cancel: what the workflow does when it cancels the call. "try" asks the attempt to end
            and goes on at once; "wait" asks, and goes on when the attempt has really ended;
            "abandon" asks nobody and leaves the attempt alone. CancelledError comes in each case.
        queue: the task queue that it goes through: workers that take from it run it, wherever its
            workflow is (a machine with a GPU, say). A worker takes from all queues unless its
            `queues=` names some. A `TaskQueue` has limits. "default" is where workflows are.
        key: gives a call's key (a text or a number) by its arguments, as in
            `lambda order: order.customer`: keys that wait in a queue are served in turn, and a
            `TaskQueue` may limit each. It is stored as it is, also where codecs encrypt payloads.
        priority: of what waits in its queue, the larger goes first; 0 unless given.
        process: run a plain function in a process pool (for work that holds the interpreter).
        transactional: its first parameter is a `Transaction`, whose SQL is stored with the
            activity's completion, or not at all.

    Raises:
        DefinitionError: a signature that cannot be recorded, or a name that is taken.
    """

    def decorate(function: Callable[..., Any]) -> Activity[Any, Any]:
        return _define(
            function,
            name=name,
            options=ActivityOptions().changed(
                _options(
                    retry,
                    timeout,
                    schedule_to_close,
                    schedule_to_start,
                    heartbeat_timeout,
                    at_most_once,
                    on_cancel,
                    queue,
                    priority,
                )
            ),
            key=key,
            raises=tuple(raises),
            process=process,
            transactional=transactional,
        )

    return decorate if function is None else decorate(function)


class ActivityDecorator(Protocol):
    """The type of `@activity(…)` with options."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Activity[P, R]: ...


class TransactionalDecorator(Protocol):
    """The type of `@activity(transactional=True)`: callers do not pass the transaction."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, R]], /
    ) -> Activity[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Transaction, P], R], /) -> Activity[P, R]: ...


def _define(
    function: Callable[..., Any],
    *,
    name: str | None,
    options: ActivityOptions,
    key: Callable[..., object] | None,
    raises: tuple[type[Exception], ...],
    process: bool,
    transactional: bool,
) -> Activity[Any, Any]:
    if isinstance(function, Activity):
        raise DefinitionError(f"{function!r} is an activity already: decorate it once")
    if not inspect.isfunction(function):
        raise DefinitionError(
            f"@activity goes on a function defined with def or async def, not on {function!r}"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(
            f"activity {function.__qualname__} yields: an activity returns one result. Return a "
            "list, or call it once per item"
        )
    is_async = inspect.iscoroutinefunction(function)
    if process and is_async:
        raise DefinitionError(
            f"activity {function.__qualname__}: process=True is for a plain def; an async def "
            "runs on the worker's loop"
        )
    if transactional:
        _check_transactional(function, options, process=process)
    chosen = function.__name__ if name is None else name
    owner, own = f"activity {chosen}", str(chosen).startswith(OWN)
    _check_queue(owner, options, key, transactional=transactional)
    hints = resolve_hints(function, owner=owner)
    exceptions = ExceptionRegistry(raises)
    exceptions.register_visible(sys.modules[function.__module__])
    definition = ActivityDefinition(
        name=chosen,
        function=function,
        parameters=Parameters(
            function, owner=owner, hints=hints, given=int(transactional), deferred=own
        ),
        result=Value(hints.get("return", Any), owner=f"the result of {owner}", deferred=own),
        options=options,
        exceptions=exceptions,
        is_async=is_async,
        process=process,
        transactional=transactional,
    )
    made: Activity[Any, Any] = Activity(function, definition, options, key)
    registry.register(registry.tables().activities, chosen, made, function, "activities")
    return made


def _check_transactional(
    function: Callable[..., Any], options: ActivityOptions, *, process: bool
) -> None:
    name = f"activity {function.__qualname__}"
    first = next(iter(inspect.signature(function).parameters.values()), None)
    hint = None
    if first is not None and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        hint = resolve_hints(function, owner=name).get(first.name)
    if hint is not Transaction:
        raise DefinitionError(
            f"{name} is transactional: its first parameter is the transaction, as in "
            f"{function.__name__}(tx: Transaction, …)"
        )
    if process:
        raise DefinitionError(f"{name}: a transaction cannot go to another process; leave process=")
    if options.at_most_once:
        raise DefinitionError(
            f"{name}: what is stored with its completion is stored once; leave at_most_once="
        )


def _check_queue(
    name: str, options: ActivityOptions, key: "_Key | None", *, transactional: bool
) -> None:
    if options.queue and transactional:
        raise DefinitionError(
            f"{name} is transactional: what it stores is stored with its run's history, by the "
            "worker that has the run; leave queue="
        )
    if key is not None and not callable(key):
        raise TypeError(f"{name}: key={key!r} is no function of the call's arguments")
    if options.queue in ("", QUEUE) and (key is not None or options.priority):
        raise DefinitionError(
            f"{name}: key= and priority= order what waits in a task queue, and this goes through "
            'none; give queue="…" too'
        )


def heartbeat(details: Any = None) -> None:
    """Say that an activity is alive, and leave details for the next attempt.

    The details of the last call are `info().heartbeat_details` in the attempt that follows a
    failure or a crash. They are stored about once a second, so a crash may lose the newest. Works
    in async code, threads and process pools; outside an activity it does nothing, so that code can
    be tested.

        for number, row in enumerate(rows[start:], start):
            write(row)
            heartbeat(number)
    """
    if current_run() is not None:
        raise EverlongError("heartbeat() belongs in an activity; a workflow needs none")
    context = activity_context.get()
    if context is not None:
        context.heartbeat(details)


def complete_later() -> NoReturn:
    """Leave the activity now; somebody else will say how it ended.

    Hand `info(ActivityInfo).token` out first. Whoever has it calls `client.complete(token, result)`
    or `client.fail(token, error)`, from any process, at any time: the wait takes no slot and
    survives restarts. What people get wrong: the time limits go on counting, and without a
    `timeout` nobody ever asks again. An answer may also come before this is called.

        @activity(timeout=24 * 3600)
        async def ask_the_boss(question: str) -> bool:
            await send_mail(question, answer_with=info(ActivityInfo).token)
            complete_later()

    Raises:
        EverlongError: outside an activity that a worker runs.
    """
    if current_run() is not None or activity_context.get() is None:
        raise EverlongError(
            "complete_later() belongs in an activity that a worker runs: nobody else waits for "
            "the answer"
        )
    raise CompletedElsewhere
