"""Tags: what executions are found by. Typed values under names, few and small.

A tag is stored twice: in the event that set it, which is the truth, and in a table that only
searching reads. Both hold it readable, encryption or not, so nothing secret belongs in one.

Numbers compare with numbers, whether whole or not; every other type only with itself. An instant is
an aware datetime, to the microsecond, in UTC.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from math import isfinite
from re import ASCII, compile as _compile
from typing import Any, Final, TypeAlias

from everlong_engine.model.errors import InvalidTag, UndecodablePayload
from everlong_engine.model.limits import INSTANT_US_MAX, TAG_CHARS_MAX, TAGS_MAX

__all__ = [
    "TagChanges",
    "TagKind",
    "TagValue",
    "Tags",
    "changed_tags",
    "check_tag",
    "check_tags",
    "instant_us",
    "is_tag_name",
    "kind_of",
    "read_instant",
    "require_few_tags",
    "same_tags",
    "tag_changes_of",
    "tag_from_stored",
    "tag_to_stored",
    "tags_of",
    "utc",
]

TagValue: TypeAlias = str | int | float | bool | datetime
Tags: TypeAlias = tuple[tuple[str, TagValue], ...]
TagChanges: TypeAlias = tuple[tuple[str, TagValue | None], ...]
"""None takes a tag away."""

NAME_CHARS_MAX: Final = 64
_NAME: Final = _compile(rf"[A-Za-z_][A-Za-z0-9_.-]{{0,{NAME_CHARS_MAX - 1}}}")
_INT_MAX: Final = (1 << 63) - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class TagKind(IntEnum):
    """What values are compared with each other."""

    TEXT = 0
    NUMBER = 1
    BOOL = 2
    INSTANT = 3


def kind_of(value: TagValue) -> TagKind:
    match value:
        case bool():
            return TagKind.BOOL
        case str():
            return TagKind.TEXT
        case int() | float():
            return TagKind.NUMBER
        case datetime():
            return TagKind.INSTANT


def is_tag_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


# ------------------------------------------------------------------------------- what people give


def check_tag(name: object, value: object) -> TagValue:
    """A value that may be a tag, as it is kept: instants in UTC.

    Raises:
        InvalidTag: the name, the type or the size of it will not do.
    """
    if not isinstance(name, str) or not is_tag_name(name):
        raise InvalidTag(
            f"{name!r:.80} cannot name a tag: use a letter or _ first, then letters, digits and "
            f"_ . -, {NAME_CHARS_MAX} characters at most"
        )
    match value:
        case bool():
            return value
        case str():
            return _check_text(name, value)
        case int():
            if not -_INT_MAX - 1 <= value <= _INT_MAX:
                raise InvalidTag(f"tag {name}: a whole number has 64 bits at most; use a text")
            return int(value)
        case float():
            if not isfinite(value):
                raise InvalidTag(f"tag {name}: {value!r} is no number that can be compared")
            return float(value)
        case datetime():
            return _check_instant(name, value)
        case _:
            raise InvalidTag(
                f"tag {name}: {type(value).__name__} is no type of a tag; give a str, int, float, "
                "bool or datetime, and put anything else into the memo"
            )


def _check_text(name: str, value: str) -> str:
    if len(value) > TAG_CHARS_MAX:
        raise InvalidTag(
            f"tag {name}: a text has {TAG_CHARS_MAX} characters at most, this one {len(value)}; "
            "put it into the memo"
        )
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidTag(f"tag {name}: half a surrogate pair, which UTF-8 cannot express")
    return str(value)


def _check_instant(name: str, value: datetime) -> datetime:
    if value.tzinfo is None:
        raise InvalidTag(
            f"tag {name}: {value.isoformat()} has no time zone, so it could mean many instants; "
            "give one, such as tzinfo=UTC"
        )
    try:
        at = value.astimezone(UTC)
    except OverflowError:
        at = None
    if at is None or not 0 <= instant_us(at) <= INSTANT_US_MAX:
        raise InvalidTag(f"tag {name}: {value.isoformat()} is before 1970 or after 4253")
    return at


def check_tags(given: Mapping[Any, Any]) -> Tags:
    """Those of a start. Raises InvalidTag."""
    tags = tuple((name, check_tag(name, value)) for name, value in given.items())
    require_few_tags(len(tags))
    return tags


def require_few_tags(count: int) -> None:
    """Raises InvalidTag."""
    if count > TAGS_MAX:
        raise InvalidTag(f"an execution has {TAGS_MAX} tags at most; this would make {count}")


def changed_tags(tags: Tags, changes: Iterable[tuple[str, TagValue | None]]) -> Tags:
    """Tags as they stand behind changes."""
    found: dict[str, TagValue] = dict(tags)
    for name, value in changes:
        if value is None:
            found.pop(name, None)
        else:
            found[name] = value
    return tuple(found.items())


def same_tags(one: Iterable[tuple[str, Any]], other: Iterable[tuple[str, Any]]) -> bool:
    """Whether they are equal in type, too: 1 is neither 1.0 nor true."""
    return [(name, type(value), value) for name, value in one] == [
        (name, type(value), value) for name, value in other
    ]


_INSTANT: Final = _compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", ASCII
)


def read_instant(text: str) -> tuple[datetime, bool] | None:
    """A date, or a date and time, as an instant; and whether its time zone was said, which is UTC
    otherwise. A date alone is its first moment. None for any other text."""
    found = _INSTANT.fullmatch(text)
    if found is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return (at, found[1] is not None) if 0 <= instant_us(at) <= INSTANT_US_MAX else None


# ------------------------------------------------------------------------------------ as stored


def instant_us(at: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    return (at - _EPOCH) // _MICROSECOND


def utc(us: int) -> datetime:
    """Undo `instant_us`."""
    return _EPOCH + timedelta(microseconds=us)


def tag_to_stored(value: TagValue) -> tuple[int, str | int | float]:
    """(kind, value) as a row has it. Which kind of number it was, the database itself knows."""
    kind = int(kind_of(value))
    if isinstance(value, datetime):
        return kind, instant_us(value)
    return kind, int(value) if isinstance(value, bool) else value


_STORED: Final[Mapping[int, tuple[type, ...]]] = {
    TagKind.TEXT: (str,),
    TagKind.NUMBER: (int, float),
    TagKind.BOOL: (int,),
    TagKind.INSTANT: (int,),
}


def tag_from_stored(kind: int, value: Any) -> TagValue:
    """Undo `tag_to_stored`.

    Raises:
        UndecodablePayload: nobody of us has written that.
    """
    kinds: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kinds not in _STORED.get(kind, ()):
        raise UndecodablePayload(reason=f"a tag of kind {kind!r} holds a {kinds.__name__}")
    if kind == TagKind.INSTANT:
        return _instant(value)
    if kind == TagKind.BOOL:
        if value not in (0, 1):
            raise UndecodablePayload(reason=f"a tag that is true or false holds {value}")
        return bool(value)
    stored: TagValue = value
    return stored


def _instant(us: int) -> datetime:
    if not 0 <= us <= INSTANT_US_MAX:
        raise UndecodablePayload(reason=f"a tag holds {us}, no instant")
    return utc(us)


def tags_of(wire: Iterable[Any]) -> Tags:
    """Tags out of an event."""
    return tuple(_pair(one) for one in wire)


def tag_changes_of(wire: Iterable[Any]) -> TagChanges:
    """The same where some are taken away."""
    changes: list[tuple[str, TagValue | None]] = []
    for one in wire:
        match one:
            case [str(name), None] if is_tag_name(name):
                changes.append((name, None))
            case _:
                changes.append(_pair(one))
    return tuple(changes)


def _pair(wire: Any) -> tuple[str, TagValue]:
    """An instant is a list of one number, which no other value is."""
    match wire:
        case [str(name), [int(us)]] if is_tag_name(name) and type(us) is int:
            return name, _instant(us)
        case [name, value]:
            try:
                return str(name), check_tag(name, value)
            except InvalidTag as error:
                raise UndecodablePayload(reason=str(error)) from None
        case _:
            raise UndecodablePayload(reason="a tag is not a name and a value")
