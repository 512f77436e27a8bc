"""What the stored fields of an event may be: their types in order, and what numbers may say.

Bytes with a right checksum may still hold anything, if somebody other than Everlong wrote them: a
text where a number is expected would raise deep in a replay, and an instant in the year 290,000
would break the arithmetic of every deadline behind it. So the types of all fields are compared in
one look-up when an event is decoded, and whatever is built from it can rely on them.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, Final, get_type_hints

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import KINDS, Carried, Event, Numbers
from everlong_engine.model.failure import Failure
from everlong_engine.model.limits import INSTANT_US_MAX
from everlong_engine.model.lineage import Debounced, Reset
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.tags import TagChanges, Tags

__all__ = [
    "NUMBERED",
    "NUMBER_MAX",
    "Shape",
    "carried_of",
    "explain",
    "numbers_of",
    "require_instant",
    "shapes_of",
    "unread_of",
]

Shape = tuple[type, ...]
"""The type of the schema's version, then that of each field."""

NUMBER_MAX: Final = 1 << 53
"""Whatever is open for a while is counted from 1: no history gets near it."""

NUMBERED: Final = frozenset({"activity_id", "approval_id", "call_id", "child_id", "timer_id"})
_NONE: Final = type(None)

# How the types of the fields are written. A field of another type fails at import.
_WRITTEN: Final[Mapping[Any, tuple[type, ...]]] = {
    int: (int,),
    str: (str,),
    bytes: (bytes,),
    bool: (bool,),
    int | None: (int, _NONE),
    bytes | None: (bytes, _NONE),
    str | None: (str, _NONE),
    tuple[str, ...]: (list,),
    Carried: (list,),
    Numbers: (list,),
    Tags: (list,),
    TagChanges: (list,),
    Failure: (list,),
    Failure | None: (list, _NONE),
    Reset | None: (list, _NONE),
    Debounced | None: (list, _NONE),
    tuple[Any, ...] | None: (list, _NONE),
    ActivityOptions: (list, _NONE),
}


def shapes_of(code: int) -> list[Shape]:
    """Every shape that an event of a kind may have. Fields with defaults may be missing at the
    end: an earlier version did not know them."""
    kind = KINDS[code]
    names = kind.__struct_fields__
    hints = get_type_hints(kind)
    fewest = len(names) - len(kind.__struct_defaults__)
    return [
        (int, *types)
        for count in range(fewest, len(names) + 1)
        for types in product(*(_WRITTEN[hints[one]] for one in names[:count]))
    ]


def explain(kind: type[Event], wire: list[Any]) -> UndecodablePayload:
    """The error for fields that fit no shape: the first one that is wrong."""
    known, hints = kind.__struct_fields__, get_type_hints(kind)
    found = wire[1:]
    what = f"it has {len(found)} of them"
    for one, value in zip(known, found, strict=False):
        expected = _WRITTEN[hints[one]]
        if type(value) not in expected:
            names = " or ".join(each.__name__ for each in expected)
            what = f"{one} holds a {type(value).__name__}, not {names}"
            break
        if one in (*NUMBERED, "number") and not 0 <= value <= NUMBER_MAX:
            what = f"{one} holds the number {value}"
            break
    return UndecodablePayload(
        reason=f"an event of kind {kind.__name__} does not have its fields: {what}"
    )


def require_instant(value: int | None, what: str) -> None:
    """Refuse an instant, or a duration, that no clock will ever show."""
    if value is not None and not 0 <= value <= INSTANT_US_MAX:
        raise UndecodablePayload(reason=f"{what} holds {value}, no instant and no duration")


def unread_of(wire: Iterable[Any]) -> tuple[str, ...]:
    """Names of signals that nobody received."""
    names = tuple(wire)
    if any(type(name) is not str for name in names):
        raise UndecodablePayload(reason="the list of unread signals does not hold names")
    return names


def carried_of(wire: Iterable[Any]) -> Carried:
    """Signals that wait for the run: names and payloads."""
    carried: list[tuple[str, bytes]] = []
    for one in wire:
        match one:
            case [str(name), bytes(payload)]:
                carried.append((name, payload))
            case _:
                raise UndecodablePayload(reason="a carried signal is not a name and a payload")
    return tuple(carried)


def numbers_of(wire: Iterable[Any]) -> Numbers:
    """Output channels and how far they have come."""
    numbers: list[tuple[str, int]] = []
    for one in wire:
        match one:
            case [str(channel), int(number)] if type(number) is int and 0 <= number <= NUMBER_MAX:
                numbers.append((channel, number))
            case _:
                raise UndecodablePayload(reason="an output channel is not a name and a number")
    return tuple(numbers)
