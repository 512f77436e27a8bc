"""Code of a workflow that only looks: queries, side effects, and whatever else leaves no trace.

It runs with the workflow's loop unset, so time, chance and files are real, and with a stand-in for
the run under which everything that would decide raises.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypeVar

from everlong._context import QueryHandler
from everlong._replay import asyncio_adapter
from everlong.exceptions import EverlongError, QueryFailed, UndecodablePayload
from everlong_engine import unpack

__all__ = ["answer_query", "arguments_for", "call_live", "headers_beside"]

T = TypeVar("T")


class _NoDecisions:
    """Stands where the run would."""

    def __getattr__(self, name: str) -> NoReturn:
        raise EverlongError(
            "a query, a validator or a side effect only looks: it cannot run activities, wait, "
            "or decide anything. Do that in the workflow itself"
        )


class _LiveOnly(asyncio.AbstractEventLoop):
    """The running loop of such code. Nothing ever runs on it."""

    everlong_run: Final = _NoDecisions()


# The interface has dozens of methods that nobody calls on it; each raises NotImplementedError.
_LiveOnly.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
_LIVE_ONLY: Final = _LiveOnly()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]


def call_live(function: Callable[[], T]) -> T:
    """Call something live: it may read clocks and files, and may not decide."""
    outside = asyncio_adapter.enter(_LIVE_ONLY)
    try:
        return function()
    finally:
        asyncio_adapter.leave(outside)


def answer_query(
    handlers: Mapping[str, QueryHandler],
    workflow_id: str,
    name: str,
    arguments: bytes,
    around: Callable[[QueryHandler, Any, Any], Any] | None,
) -> bytes:
    """Answer from the state as it stands. Changes nothing.

    Args:
        around: calls the handler with its arguments, if that is not all.

    Raises:
        QueryFailed: no such query, or its handler raised.
    """
    handler = handlers.get(name)
    if handler is None:
        known = ", ".join(sorted(handlers)) or "none"
        raise QueryFailed(
            workflow_id=workflow_id, query=name, reason=f"it handles these queries: {known}"
        )
    try:
        args, kwargs = arguments_for(handler.parameters, arguments)
        if around is None:
            value = call_live(lambda: handler.function(*args, **kwargs))
        else:
            value = around(handler, args, kwargs)
        answer: bytes = handler.result.encode(value)
    except BaseException as error:
        # SystemExit as well: a stranger's question must not end the worker's process.
        raise QueryFailed(
            workflow_id=workflow_id, query=name, reason=f"{type(error).__name__}: {error}"
        ) from error
    return answer


def arguments_for(parameters: Any, arguments: bytes) -> tuple[Any, Any]:
    """By a handler's own signature and types; whoever sent them knows neither."""
    sent: Any = unpack(arguments)
    match sent:
        case [list() as args, dict() as kwargs, *_]:  # pyright: ignore[reportUnknownVariableType]
            encoded: bytes = parameters.encode(args, kwargs)
            decoded: tuple[Any, Any] = parameters.decode(encoded)
            return decoded
        case _:
            raise UndecodablePayload(reason="the arguments are damaged")


def headers_beside(arguments: bytes) -> bytes:
    """What travels beside the arguments of a query or an update, if anything does."""
    sent: Any = unpack(arguments)
    match sent:
        case [_, _, bytes(headers)]:
            return headers
        case _:
            return b""
