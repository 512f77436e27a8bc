"""How interceptors are run: sorted by what they stand around, one inside the other, and watched.

What none of them stands around goes the way that it went before: each list of methods may be empty,
and whoever is about to make a call looks at that first.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, cast

from everlong._purity import check_definition
from everlong.exceptions import (
    DefinitionError,
    InterceptorError,
    InvalidArguments,
    NotSerializable,
    PayloadTooLarge,
)
from everlong.interceptors import Interceptor
from everlong_engine import limits, pack, unpack

__all__ = ["Hooks", "Methods", "headers_of", "hooks_for_workflows", "packed_headers", "through"]

C = TypeVar("C")

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
_NAME_CHARS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class _Method:
    call: Callable[..., Any]
    name: str
    """`Timed.execute_activity`, for errors."""


Methods: TypeAlias = tuple[_Method, ...]

_REPLAYED: Final = ("execute_workflow", "handle_update", "call_activity", "call_child")
"""Methods that are workflow code."""


class Hooks:
    """What several interceptors have, sorted by what it stands around."""

    def __init__(self, interceptors: Iterable[Interceptor] = ()) -> None:
        """Raises DefinitionError for what is no interceptor."""
        self.interceptors = tuple(interceptors)
        for one in self.interceptors:
            _require_interceptor(one)
        self.start_workflow = self._methods("start_workflow")
        self.signal_workflow = self._methods("signal_workflow")
        self.update_workflow = self._methods("update_workflow")
        self.query_workflow = self._methods("query_workflow")
        self.cancel_workflow = self._methods("cancel_workflow")
        self.terminate_workflow = self._methods("terminate_workflow")
        self.execute_workflow = self._methods("execute_workflow")
        self.handle_update = self._methods("handle_update")
        self.handle_query = self._methods("handle_query")
        self.call_activity = self._methods("call_activity")
        self.call_child = self._methods("call_child")
        self.execute_activity = self._methods("execute_activity")

    def _methods(self, name: str) -> Methods:
        usual = getattr(Interceptor, name)
        found: list[_Method] = []
        for one in self.interceptors:
            if getattr(type(one), name) is not usual:
                text = f"{type(one).__qualname__}.{name}"
                method = getattr(one, name)
                if not inspect.iscoroutinefunction(method):
                    raise DefinitionError(f"{text} must be an `async def {name}(self, call, next)`")
                found.append(_Method(method, text))
        return tuple(found)


def hooks_for_workflows(hooks: Hooks) -> Hooks | None:
    """Those that a run has to know of; None if there are none.

    Raises:
        DefinitionError: one that is workflow code leads to what could not be replayed.
    """
    replayed: list[_Method] = [one for name in _REPLAYED for one in getattr(hooks, name)]
    for one in replayed:
        check_definition(one.call, what=f"the interceptor {one.name}")
    return hooks if replayed or hooks.handle_query else None


def _require_interceptor(one: object) -> None:
    if isinstance(one, type) and issubclass(one, Interceptor):
        raise DefinitionError(f"give an object, {one.__qualname__}(), and not the class")
    if not isinstance(one, Interceptor):
        raise DefinitionError(
            f"interceptors=[…] takes objects derived from Interceptor, not {one!r}"
        )


def _fail(text: str) -> NoReturn:
    raise InterceptorError(text)


async def through(
    methods: Methods,
    call: C,
    end: Callable[[C], Awaitable[Any]],
    fail: Callable[[str], NoReturn] = _fail,
    at: int = 0,
) -> Any:
    """Make a call through the methods of interceptors, the first one outermost.

    Args:
        end: does what the call says.
        fail: raises what a broken interceptor means here.
    """
    if at == len(methods):
        return await end(call)
    method = methods[at]
    onward = _Onward(
        method.name, call, lambda given: through(methods, given, end, fail, at + 1), fail
    )
    try:
        result = await method.call(call, onward)
    except InterceptorError:
        raise
    except Exception as error:
        if error is not onward.error:
            error.add_note(f"raised by the interceptor {method.name}")
        raise
    if not onward.used:
        fail(
            f"the interceptor {method.name} returned without `await next(call)`, so that nothing "
            "was done. Hand the call on, or raise to refuse it"
        )
    return result


class _Onward:
    """`next`, for one call of one method."""

    __slots__ = ("_call", "_fail", "_go", "_name", "error", "used")

    def __init__(
        self,
        name: str,
        call: object,
        go: Callable[[Any], Awaitable[Any]],
        fail: Callable[[str], NoReturn],
    ) -> None:
        self._name = name
        self._call = call
        self._go = go
        self._fail = fail
        self.used = False
        self.error: BaseException | None = None
        """What came back instead of a result: not the interceptor's doing."""

    async def __call__(self, call: Any) -> Any:
        if self.used:
            self._fail(f"the interceptor {self._name} called next() twice for one call")
        if type(call) is not type(self._call):
            kind = type(self._call).__name__
            self._fail(f"the interceptor {self._name} gave next() {call!r:.80} and no {kind}")
        self.used = True
        try:
            return await self._go(call)
        except BaseException as error:
            self.error = error
            raise


# ----------------------------------------------------------------------------------------- headers


def packed_headers(headers: Mapping[str, Any]) -> bytes:
    """As they are stored; none are nothing.

    Raises:
        InvalidArguments: a name that will not do.
        NotSerializable: a value that is not plain.
        PayloadTooLarge: over 16 KB.
    """
    if not headers:
        return b""
    for name in headers:
        if type(name) is not str or not 0 < len(name) <= _NAME_CHARS_MAX:
            raise InvalidArguments(
                f"{name!r:.80} names no header: give a text of 1 to {_NAME_CHARS_MAX} characters"
            )
    for name, value in headers.items():
        try:
            pack(value)
        except NotSerializable as error:
            raise NotSerializable(
                path=f"header {name!r}", type_name=error.type_name, reason=error.reason
            ) from None
    data = pack(dict(headers))
    if len(data) > limits.HEADERS_BYTES_MAX:
        raise PayloadTooLarge(
            what=f"headers ({', '.join(headers)})", size=len(data), limit=limits.HEADERS_BYTES_MAX
        )
    return data


def headers_of(data: bytes) -> Mapping[str, Any]:
    """Undo `packed_headers`. Raises UndecodablePayload."""
    if not data:
        return _NONE
    found = cast("dict[str, Any]", unpack(data))
    return MappingProxyType(found) if type(found) is dict else _NONE
