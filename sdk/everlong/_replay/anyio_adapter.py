"""The one place that touches anyio's internals.

anyio's backend for asyncio keeps cancel scopes and events in sets that iterate by address, and
writes addresses into the messages of its cancellations. Both would differ from process to process.
Its modules look up `set` and `id` when they run, so names placed there give a workflow sets in
insertion order and numbers of the run; outside a workflow they answer as ever.

anyio also delivers a cancellation again in every cycle of the loop for as long as a cancelled task
waits. A workflow's drive ends when nothing is ready, so the loop must know such a callback.
"""

import importlib
import sys
import threading
import warnings
import weakref
from asyncio import Handle
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Final

from everlong._context import driving, taking_cancellations
from everlong._replay.asyncio_adapter import driven_loop, names_used
from everlong._replay.insertion_order import InsertionOrderedSet

BACKEND: Final = "anyio._backends._asyncio"
STREAMS: Final = "anyio.streams.memory"

_USED: Final = {
    "__init__": {"set", "_child_scopes"},
    "_deliver_cancellation": {"call_soon", "_child_scopes"},
}

_OF_A_SCOPE: Final = "Cancelled via cancel scope "

_installing: Final = threading.Lock()
_UNKNOWN: Final = object()
_deliveries: Final[list[object]] = []
"""anyio's `CancelScope._deliver_cancellation`, once installed."""


def install() -> None:
    """Make anyio blind to addresses inside a workflow. Called when a Worker starts; idempotent.

    An anyio that is built differently is left alone, with a warning that names its version.
    """
    with _installing:
        backend: Any = importlib.import_module(BACKEND)
        if _deliveries:
            return
        if missing := _what_differs(backend):
            _warn(missing)
        for module in (backend, importlib.import_module(STREAMS)):
            vars(module)["set"] = _Set
        vars(backend)["id"] = _id
        _deliveries.append(getattr(backend.CancelScope, "_deliver_cancellation", _UNKNOWN))


def message_of(first: object, then: object) -> object:
    """What a cancellation says that was asked for twice before it came.

    anyio's scopes know theirs by the message, and count who else has asked; nobody else looks.
    """
    return then if isinstance(then, str) and then.startswith(_OF_A_SCOPE) else first


def is_cancel_retry(handle: Handle) -> bool:
    """Whether this ready callback only delivers an anyio cancellation once more.

    The first delivery is never a callback, so what is ready and says True here has been tried
    already; but let it run once after anything else has run, for a task may have become able to
    take its cancellation.
    """
    callback: object = getattr(handle, "_callback", None)
    return bool(_deliveries) and getattr(callback, "__func__", None) is _deliveries[0]


def is_shielded(task: object) -> bool:
    """Whether a task is inside a scope that keeps outer cancellations away from it.

    Not by a scope whose code sees to them itself.
    """
    states: Any = getattr(sys.modules.get(BACKEND), "_task_states", None)
    state = None if states is None else states.get(task)
    scope: Any = getattr(state, "cancel_scope", None)
    while scope is not None:
        if getattr(scope, "_shield", False) and scope not in taking_cancellations:
            return True
        scope = getattr(scope, "_parent_scope", None)
    return False


class _Set:
    """`set` for anyio's modules, which call it and subscribe it: `set()`, `set[Event]()`."""

    def __new__(cls, members: Iterable[Any] = (), /) -> set[Any]:  # type: ignore[misc]
        return InsertionOrderedSet(members) if driving and driven_loop() else set(members)

    def __class_getitem__(cls, _: object, /) -> type["_Set"]:
        return cls


_numbers: Final[weakref.WeakKeyDictionary[object, int]] = weakref.WeakKeyDictionary()


def _id(thing: object, /) -> int:
    """`id` for anyio's modules: in a workflow a task's own number, or one given at first sight."""
    loop = driven_loop()
    if loop is None:
        return id(thing)
    if thing is None:
        return 0
    if type(thing).__hash__ is not object.__hash__:
        return hash(thing)
    if (number := _numbers.get(thing)) is None:
        number = _numbers[thing] = loop.seed + loop.next_number()
    return number


def _what_differs(backend: Any) -> str | None:
    scope = getattr(backend, "CancelScope", None)
    for method, needed in _USED.items():
        code = getattr(getattr(scope, method, None), "__code__", None)
        if code is None or not needed <= names_used(code):
            return f"CancelScope.{method} does not use {' and '.join(sorted(needed))}"
    return None


def _warn(difference: str) -> None:
    warnings.warn(
        f"everlong does not know the inside of anyio {version('anyio')}: {difference}. Workflows "
        "that use anyio's cancel scopes or streams may replay in another order. Use anyio 4.8 to "
        "4.16, or a newer everlong.",
        RuntimeWarning,
        stacklevel=3,
    )
