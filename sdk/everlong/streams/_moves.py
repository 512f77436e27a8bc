"""What a loop is told to do about its position, and which keys messages have behind it.

Shared by the loop, which obeys, and by whoever asks from outside how far it is.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

from pydantic import StrictBytes, StrictInt, StrictStr, TypeAdapter

from everlong._definitions import OWN
from everlong._savepoints import WAITING, forgetful
from everlong.streams._names import keys_of, part_of
from everlong.streams._source import Cursor, Position
from everlong_engine import pack, unpack

__all__ = [
    "FreshKeys",
    "freshened",
    "gone_back",
    "keys_from",
    "moved",
    "no_keys",
    "suffix_of",
]

FreshKeys: TypeAlias = Sequence[tuple[str, Mapping[str, Position | None]]]
"""Rewinds with fresh keys, oldest first: (what is added to the keys, behind which positions)."""

_FRESH_MAX: Final = 100
"""Rewinds with fresh keys that are remembered; behind the oldest its messages have older keys."""
_NAMED: Final = TypeAdapter(dict[StrictStr, StrictInt | StrictStr | None])
_KEYS: Final = TypeAdapter(list[tuple[StrictStr, dict[StrictStr, StrictInt | StrictStr | None]]])

_SAVED: Final = TypeAdapter(list[tuple[StrictStr, StrictBytes]])

no_keys: Final[FreshKeys] = ()


def moved(told: Any, cursor: Any) -> Any:
    """Where a loop goes on that is told so, all as stored. None if it stays where it is: it is no
    rewind, there is no such place, or its source has forgotten what it would read again."""
    with suppress(ValueError):  # Nonsense is on record too, and moves nothing.
        if cursor is not None and Cursor.from_wire(cursor).taken is not None:
            return None
        match told:
            case {"do": "rewind", "cursor": to, "named": named} if cursor is not None:
                return _only(_NAMED.validate_python(named), Cursor.from_wire(to), cursor)
            case {"do": "rewind", "cursor": to}:
                return Cursor.from_wire(to).to_wire()
            case _:
                pass
    return None


def _only(named: Mapping[str, Position | None], to: Cursor, cursor: Any) -> list[Any]:
    """The partitions that are named; the others stay where the loop is by now."""
    now = Cursor.from_wire(cursor)
    if now.identity != to.identity:
        return to.to_wire()
    after = {**now.after, **named}
    return Cursor(now.identity, {one: at for one, at in after.items() if at is not None}).to_wire()


def keys_from(stored: object) -> FreshKeys:
    """Raises ValueError: they are none."""
    return _KEYS.validate_python(stored)


def freshened(
    known: FreshKeys,
    suffix: str,
    behind: Mapping[str, Position | None],
    is_behind: Callable[[Position, Position], bool],
) -> list[Any]:
    """With one more. What it covers wholly is not looked at any more, and forgotten."""
    kept = [one for one in known if not _covers(behind, one[1], is_behind)]
    wire = [[name, dict(positions)] for name, positions in (*kept, (suffix, behind))]
    return wire[-_FRESH_MAX:]


def _covers(
    new: Mapping[str, Position | None],
    old: Mapping[str, Position | None],
    is_behind: Callable[[Position, Position], bool],
) -> bool:
    """Whether every message that has the old keys comes to have the new ones."""
    for partition in {*new, *old}:
        begins, began = new.get(partition), old.get(partition)
        if begins is not None and (began is None or is_behind(begins, began)):
            return False
    return True


def suffix_of(
    keys: FreshKeys,
    partition: str,
    position: Position,
    is_behind: Callable[[Position, Position], bool],
) -> str:
    """What the last rewind with fresh keys that covers a message adds to its key."""
    for suffix, behind in reversed(keys):
        at = behind.get(partition)
        if at is None or is_behind(position, at):
            return f"#{suffix}"
    return ""


def gone_back(now: Mapping[str, bytes], saved: object, suffix: str | None) -> dict[str, bytes]:
    """The cursors of a savepoint, for the flow itself: keys that messages have by now they keep, or
    all that is read again has fresh ones. What else was asked for stays, too.

    Raises:
        ValueError: they are no cursors, or of another part of the partitions; or a source has
            forgotten what it would read again.
    """
    there = {
        name: data
        for name, data in _SAVED.validate_python(saved)
        if name != WAITING and not name.startswith(keys_of(""))
    }
    if _parts_of(now) != _parts_of(there):
        raise ValueError("it is of another family of flows, which shared the partitions otherwise")
    for cursors in (now, there):
        if gone := forgetful({name: unpack(data) for name, data in cursors.items()}):
            raise ValueError(f"{gone} are not there any more")
    kept = {
        name: data for name, data in now.items() if name == WAITING or name.startswith(keys_of(""))
    }
    if suffix is not None:
        streams = dict.fromkeys(name for name in (*now, *there) if not name.startswith(OWN))
        for stream in streams:
            stored, known = there.get(stream), kept.get(keys_of(stream))
            behind: Mapping[str, Position] = {}
            if stored is not None:
                behind = Cursor.from_wire(unpack(stored)).after
            before = no_keys if known is None else keys_from(unpack(known))
            kept[keys_of(stream)] = pack(freshened(before, suffix, behind, _perhaps))
    return there | kept


def _parts_of(cursors: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in cursors.items() if name.startswith(part_of(""))}


def _perhaps(_: Position, __: Position) -> bool:
    """Which of two lies behind the other only a stream's own source knows: nothing is forgotten."""
    return True
