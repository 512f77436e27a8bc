"""Typed channels of a workflow, declared once at module level.

Signals go in, queries are answered, updates do both, and outputs come out.
"""

import builtins
import inspect
from collections.abc import AsyncIterator, Callable
from types import CodeType
from typing import Any, Final, Generic, TypeVar, overload

from everlong import registry
from everlong._context import QueryHandler, UpdateHandler, calling_frame, current_run, source_line
from everlong._texts import fault_of_name, shown
from everlong._values import Parameters, Value, within_limit
from everlong.exceptions import (
    DefinitionError,
    EverlongError,
    InvalidArguments,
    WorkflowFault,
)
from everlong_engine import limits, pack

__all__ = [
    "Output",
    "Query",
    "Signal",
    "Update",
    "name_of",
    "output_of",
    "publish",
    "sent",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])

_YIELDS: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_ANSWERS_LATER: Final = inspect.CO_COROUTINE | _YIELDS


class Signal(Generic[T]):
    """A one-way message to a workflow, of a declared type.

    Values that arrive before anybody listens are buffered in order. A value is delivered once; one
    that does not fit the type is recorded as rejected and never delivered.

        approve = Signal("approve", Verdict)             # at module level

        verdict = await approve.receive()                # in the workflow
        async for verdict in approve: ...

        await handle.signal(approve, Verdict(ok=True))   # outside

    Args:
        name: how the CLI and histories call it.
        type: a type hint for its values; `Any` takes every plain value.

    Raises:
        DefinitionError: the name is taken by a signal of another type, is empty, longer than 200
            characters or cannot be shown, or the type is unsupported. Names of different kinds of
            channels have nothing to do with each other.
    """

    # Two forms: a hint such as `int | None` is no class, and from it no checker can tell T.
    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...
    @overload
    def __init__(self: "Signal[Any]", name: str, type: Any = Any) -> None: ...
    def __init__(self, name: str, type: Any = Any) -> None:
        _check_name(name, 'a Signal needs a name: Signal("approve", Verdict)')
        declared = registry.tables().signals
        known = declared.get(name)
        if known is not None and known.type != type and repr(known.type) != repr(type):
            raise DefinitionError(
                f"two signals are called {name!r}, of types {known.type!r} and {type!r}: declare "
                "it once and import it"
            )
        self.name = name
        self.type = type
        self.value = Value(type, owner=f"signal {name}", invalid=InvalidArguments)
        declared[name] = self

    async def receive(self) -> T:
        """Wait for the next value. In a workflow only."""
        value: T = await _run_of(self.name).receive_signal(self.name)
        return value

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            yield await self.receive()

    def __repr__(self) -> str:
        return f"Signal({self.name!r})"


class Query(Generic[T_co]):
    """A question that a workflow answers from its state, without leaving a trace.

    The handler is a plain function that only looks: it may not await, wait or decide. It answers
    from the state behind the last committed event.

        status = Query("status", str)                    # at module level

        @status.handler                                  # in the workflow
        def _() -> str:
            return state

        print(await handle.query(status))                # outside

    Args:
        name: how the CLI calls it.
        type: a type hint for its answers. Another workflow may have a query of this name with
            answers of another type.

    Raises:
        DefinitionError: the name is none (see `Signal`), or the type is unsupported.
    """

    @overload
    def __init__(self, name: str, type: builtins.type[T_co]) -> None: ...
    @overload
    def __init__(self: "Query[Any]", name: str, type: Any = Any) -> None: ...
    def __init__(self, name: str, type: Any = Any) -> None:
        _check_name(name, 'a Query needs a name: Query("status", str)')
        self.name = name
        self.value = Value(type, owner=f"the answer of query {name}")
        self._parameters: dict[CodeType, Parameters] = {}

    def handler(self, function: F) -> F:
        """Answer the query with this function from now on; in a workflow only."""
        run = _run_of(self.name)
        _require_plain(run, function, f"the handler of query {self.name!r}", "answers at once")
        parameters = _parameters_of(self._parameters, function, f"query {self.name}")
        run.handle_query(self.name, QueryHandler(function, parameters, self.value))
        return function

    def __repr__(self) -> str:
        return f"Query({self.name!r})"


class Update(Generic[T_co]):
    """A request that a workflow judges, performs and answers.

    The handler may be async and run activities, and several may be at work at once. The validator
    is a plain function that looks and raises: what it refuses leaves no trace in the history. What
    people get wrong: a handler is not finished because the workflow is. Wait for
    `all_handlers_finished()` before you return, or their senders get `UpdateUnfinished`.

        add_item = Update("add_item", int)               # at module level: the type of its result

        @add_item.handler                                # in the workflow, before it first waits
        async def _(name: str, count: int = 1) -> int:
            await reserve(name, count)
            return len(items)

        @add_item.validator
        def _(name: str, count: int = 1) -> None:
            if count < 1:
                raise ValueError("count must be at least 1")

        size = await handle.update(add_item, "apple", count=3)   # outside

    Args:
        name: how the CLI and histories call it.
        type: a type hint for its results. Another workflow may have an update of this name with
            results of another type.

    Raises:
        DefinitionError: the name is none (see `Signal`), or the type is unsupported.
    """

    @overload
    def __init__(self, name: str, type: builtins.type[T_co]) -> None: ...
    @overload
    def __init__(self: "Update[Any]", name: str, type: Any = Any) -> None: ...
    def __init__(self, name: str, type: Any = Any) -> None:
        _check_name(name, 'an Update needs a name: Update("add_item", int)')
        self.name = name
        self.value = Value(type, owner=f"the result of update {name}")
        self._parameters: dict[CodeType, Parameters] = {}

    def handler(self, function: F) -> F:
        """Perform the update with this function from now on; in a workflow only."""
        run = _run_of(self.name)
        if _YIELDS & function.__code__.co_flags:
            run.stop_with(
                WorkflowFault(f"the handler of update {self.name!r} must return, and not yield")
            )
        parameters = _parameters_of(self._parameters, function, f"update {self.name}")
        run.handle_update(self.name, UpdateHandler(function, parameters, self.value))
        return function

    def validator(self, function: F) -> F:
        """Judge the update with this function, which has the parameters of the handler, and raises
        what speaks against it. Declare the handler first."""
        run = _run_of(self.name)
        _require_plain(run, function, f"the validator of update {self.name!r}", "judges at once")
        run.validate_update(self.name, function)
        return function

    def __repr__(self) -> str:
        return f"Update({self.name!r})"


def _check_name(name: object, otherwise: str) -> None:
    fault = fault_of_name(name)
    if fault is not None:
        raise DefinitionError(f"{otherwise}; {shown(name)} {fault}")


def _require_plain(run: Any, function: Callable[..., Any], what: str, does: str) -> None:
    """Told here, not to the first who asks, which may be in a month. A fault, so that the run is
    parked and goes on once its code is mended."""
    if _ANSWERS_LATER & function.__code__.co_flags:
        run.stop_with(
            WorkflowFault(
                f"{what} must be a plain def without yield: it {does} from the state, and may not "
                "await. Keep what it needs in a variable of the workflow"
            )
        )


def _parameters_of(
    known: dict[CodeType, Parameters], function: Callable[..., Any], owner: str
) -> Parameters:
    """Once per source place, not once per run."""
    code: CodeType = function.__code__
    parameters = known.get(code)
    if parameters is None:
        parameters = known[code] = Parameters(function, owner=owner)
    return parameters


class Output(Generic[T]):
    """A durable, numbered stream of items that a workflow publishes, of a declared type.

    Its numbers count from 0 through the whole execution, also over `checkpoint`. What people get
    wrong: only the newest items of a channel are kept, 10,000 unless `keep` says otherwise, so a
    subscriber that is slower than that for long meets `ItemsGone`.

        progress = Output("progress", Progress)          # at module level

        await progress.publish(Progress(done=3, of=10))  # in the workflow

        async for item in handle.subscribe(progress):    # outside
            print(item.done)

    Args:
        name: how the CLI calls it.
        type: a type hint for its items; `Any` takes every plain value.
        keep: how many of an execution's items are kept at least, the newest; up to a tenth more, or
            1,000, may be there. None keeps all, for as long as the execution is kept.

    Raises:
        DefinitionError: the name is taken by an output of another type or is none (see `Signal`),
            or the type is unsupported.
    """

    @overload
    def __init__(
        self, name: str, type: builtins.type[T], *, keep: int | None = limits.OUTPUT_ITEMS_KEPT
    ) -> None: ...
    @overload
    def __init__(
        self: "Output[Any]",
        name: str,
        type: Any = Any,
        *,
        keep: int | None = limits.OUTPUT_ITEMS_KEPT,
    ) -> None: ...
    def __init__(
        self, name: str, type: Any = Any, *, keep: int | None = limits.OUTPUT_ITEMS_KEPT
    ) -> None:
        _check_name(name, 'an Output needs a name: Output("progress", Progress)')
        declared = registry.tables().outputs
        known = declared.get(name)
        if known is not None and known.type != type and repr(known.type) != repr(type):
            raise DefinitionError(
                f"two outputs are called {name!r}, of types {known.type!r} and {type!r}: declare "
                "it once and import it"
            )
        if keep is not None and (builtins.type(keep) is not int or keep < 1):
            raise DefinitionError(
                f"keep={keep!r}: give the number of items of {name!r} that are kept, 1 or more, or "
                "None to keep all"
            )
        if known is not None and known.keep != keep:
            raise DefinitionError(
                f"two outputs are called {name!r}, with keep={known.keep} and keep={keep}: declare "
                "it once and import it"
            )
        self.name = name
        self.type = type
        self.keep = keep
        self.value = Value(type, owner=f"output {name}", invalid=InvalidArguments)
        declared[name] = self

    async def publish(self, item: T) -> int:
        """Append an item; its number. In a workflow only. See `publish`."""
        return _publish(self.name, self.value, item, self.keep)

    def __repr__(self) -> str:
        return f"Output({self.name!r})"


async def publish(channel: "Output[T] | str", item: T) -> int:
    """Append an item to an output channel of this execution; its number, counted from 0.

    Subscribers (`handle.subscribe`) see it once it is committed, and once only, however often the
    workflow is replayed. It waits for nothing, and nobody needs to listen.

        for number, row in enumerate(rows, 1):
            await load(row)
            await publish("progress", {"done": number, "of": len(rows)})

    Args:
        channel: a declared `Output`, or any name; of an undeclared one the newest 10,000 items are
            kept.
        item: of the declared type, or any plain value.

    Raises:
        InvalidArguments: the item does not fit the declared type.
        EverlongError: not called in a workflow.
    """
    declared = output_of(channel)
    if declared is None:
        if (fault := fault_of_name(channel)) is not None:
            example = 'publish("progress", item)'
            raise InvalidArguments(
                f"an output channel needs a name: {example}; {shown(channel)} {fault}"
            )
        name = str(channel)
        return _publish(name, Value(Any, owner=f"output {name}"), item, limits.OUTPUT_ITEMS_KEPT)
    return _publish(declared.name, declared.value, item, declared.keep)


def output_of(channel: "Output[Any] | str") -> "Output[Any] | None":
    """Not public: what is declared under this name."""
    return channel if isinstance(channel, Output) else registry.outputs.get(channel)


def _publish(name: str, value: Value, item: object, keep: int | None) -> int:
    run = current_run()
    if run is None:
        raise EverlongError(
            f"publish() to {name!r} can only be called inside a running workflow; an activity "
            "returns its result to the workflow, which may publish it"
        )
    where = source_line(calling_frame(2))
    number: int = run.outputs.publish(run, name, value, item, where, keep=keep)
    return number


def _run_of(name: str) -> Any:
    run = current_run()
    if run is None:
        raise EverlongError(
            f"{name!r} is received and handled inside a workflow; from outside use "
            "handle.signal(…), handle.query(…) or handle.update(…)"
        )
    return run


def name_of(channel: Any, kind: type[Signal[Any] | Query[Any] | Update[Any]]) -> str:
    """The name of a declared channel, or the name itself. Raises InvalidArguments."""
    if isinstance(channel, kind):
        return channel.name
    if isinstance(channel, str):
        if (fault := fault_of_name(channel)) is not None:
            word = kind.__name__.lower()
            raise InvalidArguments(f"{shown(channel)} can name no {word}: it {fault}")
        return channel
    raise InvalidArguments(f"{channel!r} is no {kind.__name__}: give one, or its name")


def sent(signal: Signal[Any] | str, value: Any) -> tuple[str, bytes]:
    """(name, payload) of a value on its way, from outside or from another workflow.

    Raises:
        InvalidArguments: it does not fit the declared type.
        PayloadError: it cannot be stored.
    """
    name = name_of(signal, Signal)
    declared = registry.signals.get(name) if isinstance(signal, str) else signal
    if declared is not None:
        return name, declared.value.encode(value)
    return name, within_limit(f"signal {name}", pack(value))
