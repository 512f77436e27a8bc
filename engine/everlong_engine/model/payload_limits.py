"""What a payload may hold, decided before anything is built from it.

A few bytes can cost much: each byte may be an empty map, and each array header reserves the slots
that it declares, also in an array within an array that never comes to its end. So the headers are
added up first wherever that could matter. Small payloads and ordinary ones pass by a cheap bound.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any, Final, cast

from everlong_engine.model.errors import UndecodablePayload

__all__ = [
    "DEPTH_MAX",
    "ELEMENTS_MAX",
    "SETS",
    "count_elements",
    "is_flat",
    "may_hold_bad_keys",
    "may_lie_deep",
    "refuse_bombs",
    "too_deep",
]

ELEMENTS_MAX: Final = 250_000
DEPTH_MAX: Final = 64
SETS: Final = (7, 8)
"""The ext codes whose payload is itself an array."""

_HARMLESS_BYTES: Final = 1024
_HARMLESS_SLOTS: Final = 1_000_000

_MAPS: Final = bytes([*range(0x80, 0x90), 0xDE, 0xDF])
_ARRAYS_AND_SETS: Final = bytes(
    [*range(0x90, 0xA0), 0xDC, 0xDD, *range(0xC7, 0xCA), *range(0xD4, 0xD9)]
)
_NESTING: Final = frozenset({dict, list, tuple, set, frozenset})
_PLAIN: Final = frozenset({str, bytes, int, float, bool, type(None)})
_TEXTS: Final = frozenset({str})
_FLAT_NESTING: Final = frozenset({list, dict})
_PLAIN_OR_NESTING: Final = _PLAIN | _FLAT_NESTING
_FLAT_LEVELS: Final = 5
_CONTAINERS: Final = _MAPS + _ARRAYS_AND_SETS
_LONG_ARRAYS: Final = ((b"\xdc", 2), (b"\xdd", 4))
"""Headers, and how many bytes say how long the array is."""


def may_lie_deep(data: bytes) -> bool:
    """Whether there are enough bytes that could be headers; bytes within texts count too."""
    return len(data) > DEPTH_MAX and len(data) - len(data.translate(None, _CONTAINERS)) > DEPTH_MAX


def may_hold_bad_keys(data: bytes) -> bool:
    """Whether there may be both maps and what has no hash; bytes within texts count too."""
    size = len(data)
    arrays_or_sets = size > len(data.translate(None, _ARRAYS_AND_SETS))
    return arrays_or_sets and size > len(data.translate(None, _MAPS))


def is_flat(value: object) -> bool:
    """Whether it is a table at most: lists, and maps with texts as keys, of plain values, few of
    them within each other. A False says nothing."""
    level: list[object] = [value]
    for _ in range(_FLAT_LEVELS):
        kinds = set(map(type, level))
        if kinds <= _PLAIN:
            return True
        if not kinds <= _PLAIN_OR_NESTING:
            return False
        nested: Iterable[object] = level
        if not kinds.isdisjoint(_PLAIN):
            nested = [item for item in level if type(item) in _FLAT_NESTING]
        if dict in kinds:
            maps: list[Any] = [item for item in nested if type(item) is dict]
            keys = chain.from_iterable(maps)
            if not set(map(type, keys)) <= _TEXTS:
                return False
            nested = map(_inside, nested)
        level = list(chain.from_iterable(cast("Iterable[list[object]]", nested)))
    return False


def too_deep(value: object) -> bool:
    """Whether decoded containers lie deeper than the limit. Looks at one level after the other."""
    level: list[object] = [value] if type(value) in _NESTING else []
    for _ in range(DEPTH_MAX):
        inner = map(_inside, level) if dict in set(map(type, level)) else level
        below = list(chain.from_iterable(cast("Iterable[list[object]]", inner)))
        if _NESTING.isdisjoint(set(map(type, below))):
            return False
        level = [item for item in below if type(item) in _NESTING]
    return True


def _inside(outer: object) -> Iterable[object]:
    if type(outer) is dict:
        return cast("dict[object, object]", outer).values()
    return cast("list[object]", outer)


def refuse_bombs(data: bytes) -> None:
    """Raise UndecodablePayload if building the value could take memory out of all proportion."""
    size = len(data)
    if size <= _HARMLESS_BYTES or (size <= ELEMENTS_MAX and not _may_reserve_much(data)):
        return
    try:
        elements = count_elements(data)
    except IndexError:
        raise UndecodablePayload(reason="it ends too early") from None
    if elements > ELEMENTS_MAX:
        raise UndecodablePayload(reason=f"it holds more than {ELEMENTS_MAX} elements")


def _may_reserve_much(data: bytes) -> bool:
    """Whether the headers of long arrays, or what looks like them, declare much together."""
    slots, size = 0, len(data)
    for header, width in _LONG_ARRAYS:
        at = data.find(header)
        while 0 <= at < size - width:
            declared = int.from_bytes(data[at + 1 : at + 1 + width], "big")
            if declared <= size:  # msgpack itself refuses those that declare more
                slots += declared
                if slots > _HARMLESS_SLOTS:
                    return True
            at = data.find(header, at + 1)
    return False


def count_elements(data: bytes, limit: int = ELEMENTS_MAX) -> int:
    """Add up what the headers declare, token by token; stops as soon as it is too much.

    The header of a set is passed over and its content counted with the rest. If that content is not
    what it should be, the tokens behind it are read out of step; but decoding fails at the same
    place, and builds nothing from them. Raises IndexError where the data ends too early.
    """
    at = 0
    pending = elements = 1
    while pending:
        byte = data[at]
        if step := _FIXED[byte]:
            at += step
            pending -= 1
            continue
        declared, step = _read_header(data, at, byte)
        at += step
        pending += declared - 1
        elements += declared
        if elements > limit:
            break
    return elements


def _read_header(data: bytes, at: int, byte: int) -> tuple[int, int]:
    """(how many values follow, how many bytes to pass over). A set is followed by its content."""
    if byte < 0x90:
        return 2 * (byte & 0x0F), 1
    if byte < 0xA0:
        return byte & 0x0F, 1
    width = _LENGTH_BYTES[byte]
    length = int.from_bytes(data[at + 1 : at + 1 + width], "big")
    match byte:
        case 0xDC | 0xDD:
            return length, 1 + width
        case 0xDE | 0xDF:
            return 2 * length, 1 + width
        case 0xC7 | 0xC8 | 0xC9 | 0xD4 | 0xD5 | 0xD6 | 0xD7 | 0xD8:
            length = _FIXEXT_LENGTHS.get(byte, length)
            return (1, 2 + width) if data[at + 1 + width] in SETS else (0, 2 + width + length)
        case _:
            return 0, 1 + width + length


_LENGTH_BYTES: Final = {
    0xC4: 1,
    0xC5: 2,
    0xC6: 4,  # bin
    0xC7: 1,
    0xC8: 2,
    0xC9: 4,  # ext
    0xD4: 0,
    0xD5: 0,
    0xD6: 0,
    0xD7: 0,
    0xD8: 0,  # fixext
    0xD9: 1,
    0xDA: 2,
    0xDB: 4,  # str
    0xDC: 2,
    0xDD: 4,
    0xDE: 2,
    0xDF: 4,  # array, map
}
_FIXEXT_LENGTHS: Final = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def _fixed_sizes() -> tuple[int, ...]:
    """Bytes that each token of fixed size takes; 0 for one whose header must be read."""
    sizes = [1] * 0x80 + [0] * 0x20 + [1 + length for length in range(0x20)] + [1] * 0x40
    for byte, size in ((0xCA, 5), (0xCB, 9), (0xCC, 2), (0xCD, 3), (0xCE, 5), (0xCF, 9)):
        sizes[byte] = size
    for byte, size in ((0xD0, 2), (0xD1, 3), (0xD2, 5), (0xD3, 9)):
        sizes[byte] = size
    for byte in _LENGTH_BYTES:
        sizes[byte] = 0
    return tuple(sizes)


_FIXED: Final = _fixed_sizes()
