"""What a filter says, as a tree; what it means for a run; and how it is written.

The text becomes a tree in `filter_text`; a store makes its own query of the tree. Here stands what
both must agree with: `holds`.

Every question has the answer yes or no. A comparison is about a value that is there and can be
compared: of a tag that is not set, of an open run's end, or between a text and a number, it is no,
`!=` and `not in` included, but for `!=` between two types: they differ. `not (…)` is the plain
opposite, so `not tag.a = 1` is also true of what has no tag `a`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

from msgspec import Struct

from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.model.tags import TagKind, TagValue, kind_of, read_instant, utc

__all__ = [
    "FIELDS",
    "STATUSES",
    "Among",
    "And",
    "AnyField",
    "Begins",
    "Compare",
    "Field",
    "Filter",
    "IsSet",
    "Not",
    "Op",
    "Or",
    "TagField",
    "comparable",
    "filter_text",
    "holds",
    "literal",
    "prefix_end",
    "value_of",
]


class Op(StrEnum):
    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="


class Field(Struct, frozen=True):
    """status, type, id, queue, started, closed or begins."""

    name: str


class TagField(Struct, frozen=True):
    name: str


AnyField: TypeAlias = Field | TagField

FIELDS: Final[Mapping[str, TagKind]] = {
    "status": TagKind.TEXT,
    "type": TagKind.TEXT,
    "id": TagKind.TEXT,
    "queue": TagKind.TEXT,
    "started": TagKind.INSTANT,
    "closed": TagKind.INSTANT,
    "begins": TagKind.INSTANT,
}
"""What a run has, and what it is compared as."""


class Compare(Struct, frozen=True):
    field: AnyField
    op: Op
    value: TagValue


class Among(Struct, frozen=True):
    field: AnyField
    values: tuple[TagValue, ...]
    negated: bool = False


class Begins(Struct, frozen=True):
    field: AnyField
    prefix: str


class IsSet(Struct, frozen=True):
    field: AnyField


class Not(Struct, frozen=True):
    of: "Filter"


class And(Struct, frozen=True):
    """Of two or more."""

    of: "tuple[Filter, ...]"


class Or(Struct, frozen=True):
    """Of two or more."""

    of: "tuple[Filter, ...]"


Filter: TypeAlias = Compare | Among | Begins | IsSet | Not | And | Or


# -------------------------------------------------------------------------------- what it means


def holds(tree: Filter, row: RunRow, tags: Mapping[str, TagValue], now_us: int) -> bool:
    """Whether a run is one of those that the filter means."""
    match tree:
        case And():
            return all(holds(one, row, tags, now_us) for one in tree.of)
        case Or():
            return any(holds(one, row, tags, now_us) for one in tree.of)
        case Not():
            return not holds(tree.of, row, tags, now_us)
        case IsSet():
            return value_of(tree.field, row, tags, now_us) is not None
        case Begins():
            value = value_of(tree.field, row, tags, now_us)
            return isinstance(value, str) and value.startswith(tree.prefix)
        case Among():
            value = value_of(tree.field, row, tags, now_us)
            if value is None:
                return False
            return any(_compared(value, Op.EQ, one) for one in tree.values) is not tree.negated
        case Compare():
            value = value_of(tree.field, row, tags, now_us)
            return value is not None and _compared(value, tree.op, tree.value)
        case _:
            assert_never(tree)


def value_of(
    field: AnyField, row: RunRow, tags: Mapping[str, TagValue], now_us: int
) -> TagValue | None:
    """What a run has there; None for what is not set."""
    if isinstance(field, TagField):
        return tags.get(field.name)
    match field.name:
        case "status":
            return row.status.text
        case "type":
            return row.type
        case "id":
            return row.workflow_id
        case "queue":
            return row.queue
        case "started":
            return utc(row.started_us)
        case "begins":
            begins_us = row.begins_us(now_us)
            return None if begins_us is None else utc(begins_us)
        case "closed":
            return None if row.closed_us is None else utc(row.closed_us)
        case _:
            raise AssertionError(f"{field.name} is no field")


def _compared(value: TagValue, op: Op, with_: TagValue) -> bool:
    other = comparable(with_, kind_of(value))
    if other is None:
        return op is Op.NE
    match op:
        case Op.EQ:
            return value == other
        case Op.NE:
            return value != other
        case Op.LT:
            return value < other  # type: ignore[operator]
        case Op.LE:
            return value <= other  # type: ignore[operator]
        case Op.GT:
            return value > other  # type: ignore[operator]
        case Op.GE:
            return value >= other  # type: ignore[operator]


def comparable(value: TagValue, kind: TagKind) -> TagValue | None:
    """What a value of a filter is where it is compared with a tag of this kind; None: it is not.

    A text that reads as a date is an instant to instants, and a text to texts."""
    if kind_of(value) is kind:
        return value
    if kind is TagKind.INSTANT and isinstance(value, str):
        found = read_instant(value)
        return None if found is None else found[0]
    return None


def prefix_end(prefix: str) -> str | None:
    """The least text behind all that begin so; None if there is none. By code points, as UTF-8 is
    ordered."""
    for at in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[at])
        if point < 0x10FFFF:
            following = 0xE000 if point == 0xD7FF else point + 1  # Over what UTF-8 cannot express.
            return prefix[:at] + chr(following)
    return None


# ------------------------------------------------------------------------------- how it is written


def literal(value: TagValue) -> str:
    """A value as a filter writes it, for texts that are put together:

    f"tag.customer = {literal(name)}"
    """
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case datetime():
            return f"'{value.astimezone(UTC).isoformat().replace('+00:00', 'Z')}'"
        case _:
            return repr(value)


_OR, _AND, _NOT = 1, 2, 3


def filter_text(tree: Filter) -> str:
    """The text of a tree, which reads as the same tree again."""
    return _text(tree, 0)


def _text(tree: Filter, inside: int) -> str:
    match tree:
        case Or():
            return _joined(" or ", tree.of, _OR, inside)
        case And():
            return _joined(" and ", tree.of, _AND, inside)
        case Not():
            return f"not {_text(tree.of, _NOT)}"
        case IsSet():
            return f"{_name(tree.field)} is set"
        case Begins():
            return f"{_name(tree.field)} starts with {literal(tree.prefix)}"
        case Among():
            word = "not in" if tree.negated else "in"
            return f"{_name(tree.field)} {word} ({', '.join(map(literal, tree.values))})"
        case Compare():
            return f"{_name(tree.field)} {tree.op.value} {literal(tree.value)}"
        case _:
            assert_never(tree)


def _joined(word: str, parts: "tuple[Filter, ...]", own: int, inside: int) -> str:
    text = word.join(_text(part, own) for part in parts)
    return f"({text})" if inside >= own else text


def _name(field: AnyField) -> str:
    return f"tag.{field.name}" if isinstance(field, TagField) else field.name


STATUSES: Final = tuple(status.text for status in RunStatus)
