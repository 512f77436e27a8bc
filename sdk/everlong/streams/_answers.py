"""What an HTTP endpoint lists: items as they stand in its JSON, with ids that only grow."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw, Struct

from everlong.exceptions import InvalidArguments
from everlong.streams._source import Position

__all__ = ["Item", "Rank", "dig", "is_less", "items_in", "rank_of", "require_order"]

Rank: TypeAlias = int | str
"""By which ids are in order: digits alone count as a number, whether they are a text or not."""
_INT64: Final = range(-(1 << 63), 1 << 63)
_object: Final = msgspec.json.Decoder(dict[str, Raw])
_list: Final = msgspec.json.Decoder(list[Raw])


class Item(Struct, frozen=True):
    rank: Rank
    position: Position
    value: bytes


def items_in(data: bytes, where: str | None, id: str, what: object) -> list[Item]:
    """Raises InvalidArguments: no list, or an item without an id; DecodeError: it is no JSON."""
    listed = data if where is None else dig(data, where)
    try:
        if listed is None:
            raise msgspec.ValidationError("nothing is there")
        raws = _list.decode(listed)
    except msgspec.ValidationError as error:
        place = "its answer" if where is None else f"{where!r} of its answer"
        raise InvalidArguments(
            f"{what!r} gave no list as {place} ({error}): say where it is with items=…"
        ) from error
    return [_item(bytes(raw), id, what) for raw in raws]


def _item(raw: bytes, id: str, what: object) -> Item:
    found = dig(raw, id)
    name: Any = None if found is None else msgspec.json.decode(found)
    if isinstance(name, bool) or not isinstance(name, int | str) or name == "":
        raise InvalidArguments(
            f"{what!r} gave an item whose {id!r} is neither a whole number nor a text: "
            f"{raw[:200].decode(errors='replace')}; say where its id is with id=…"
        )
    position = str(name) if isinstance(name, int) and name not in _INT64 else name
    return Item(rank_of(name), position, raw)


def rank_of(name: Position) -> Rank:
    digits = isinstance(name, str) and name.isascii() and name.removeprefix("-").isdecimal()
    return int(name) if digits else name


def dig(data: bytes, path: str) -> bytes | None:
    """A value of an object as it stands there, by names with dots between them; None: there is
    none, or null."""
    for name in path.split("."):
        try:
            found = _object.decode(data).get(name)
        except msgspec.ValidationError:  # It is no object.
            return None
        if found is None:
            return None
        data = bytes(found)
    return None if data == b"null" else data


def require_order(items: Sequence[Item], what: object) -> None:
    """Raises InvalidArguments: they are not in the order of their ids."""
    for one, two in pairwise(items):
        if not is_less(one.rank, two.rank):
            raise InvalidArguments(
                f"{what!r} gave the id {two.position!r} behind {one.position!r}: ids must grow, as "
                "numbers, or as texts by their characters. Ask for the oldest first, by its "
                "parameter for that in the URL"
            )


def is_less(one: Rank, two: Rank) -> bool:
    """A number and a text have no order."""
    if isinstance(one, int):
        return isinstance(two, int) and one < two
    return isinstance(two, str) and one < two
