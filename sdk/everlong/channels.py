"""Typed channels of a workflow, declared once at module level: signals in, queries out."""

import builtins
import inspect
from collections.abc import AsyncIterator, Callable
from types import CodeType
from typing import Any, Final, Generic, TypeVar, overload

from everlong import registry
from everlong._context import QueryHandler, current_run
from everlong._values import Parameters, Value
from everlong.exceptions import (
    DefinitionError,
    EverlongError,
    InvalidArguments,
    WorkflowFault,
)

__all__ = ["Query", "Signal"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])

_ANSWERS_LATER: Final = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


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
        DefinitionError: the name is taken by a signal of another type, or the type is unsupported.
    """

    # Two forms: a hint such as `int | None` is no class, and from it no checker can tell T.
    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...
    @overload
    def __init__(self: "Signal[Any]", name: str, type: Any = Any) -> None: ...
    def __init__(self, name: str, type: Any = Any) -> None:
        if not name:
            raise DefinitionError('a Signal needs a name: Signal("approve", Verdict)')
        known = registry.signals.get(name)
        if known is not None and known.type != type and repr(known.type) != repr(type):
            raise DefinitionError(
                f"two signals are called {name!r}, of types {known.type!r} and {type!r}: declare "
                "it once and import it"
            )
        self.name = name
        self.type = type
        self.value = Value(type, owner=f"signal {name}", invalid=InvalidArguments)
        registry.signals[name] = self

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
        type: a type hint for its answers.
    """

    @overload
    def __init__(self, name: str, type: builtins.type[T_co]) -> None: ...
    @overload
    def __init__(self: "Query[Any]", name: str, type: Any = Any) -> None: ...
    def __init__(self, name: str, type: Any = Any) -> None:
        if not name:
            raise DefinitionError('a Query needs a name: Query("status", str)')
        self.name = name
        self.value = Value(type, owner=f"the answer of query {name}")
        self._parameters: dict[CodeType, Parameters] = {}

    def handler(self, function: F) -> F:
        """Answer the query with this function from now on; in a workflow only."""
        run = _run_of(self.name)
        if _ANSWERS_LATER & function.__code__.co_flags:
            # Told here, not to the first who asks, which may be in a month. A fault, so that the
            # run is parked and goes on once its code is mended.
            run.stop_with(
                WorkflowFault(
                    f"the handler of query {self.name!r} must be a plain def without yield: it "
                    "answers at once from the state, and may not await. Keep what it needs in a "
                    "variable of the workflow"
                )
            )
        code: CodeType = function.__code__
        parameters = self._parameters.get(code)
        if parameters is None:
            # Once per source place, not once per run.
            parameters = self._parameters[code] = Parameters(function, owner=f"query {self.name}")
        handler = QueryHandler(function, parameters, self.value)
        run.handle_query(self.name, handler)
        return function

    def __repr__(self) -> str:
        return f"Query({self.name!r})"


def _run_of(name: str) -> Any:
    run = current_run()
    if run is None:
        raise EverlongError(
            f"{name!r} is received and handled inside a workflow; from outside use "
            "handle.signal(…) or handle.query(…)"
        )
    return run
