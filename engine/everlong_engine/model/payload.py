"""Plain values to bytes and back: msgpack, with a small fixed set of ext codes, and never pickle.

    code  value       payload
    ----  ----------  ----------------------------------------------------------------------------
      -1  timestamp   msgpack's own; only read (others may write it): an aware datetime in UTC
       1  datetime    year u16, month, day, hour, minute, second, fold u8, microsecond u32, zone
       2  date        year u16, month u8, day u8
       3  time        hour, minute, second, fold u8, microsecond u32, zone
       4  timedelta   days i32, seconds u32, microseconds u32
       5  Decimal     its text, ASCII
       6  UUID        16 bytes
       7  set         a msgpack array, elements sorted by their packed bytes
       8  frozenset   likewise
       9  big int     two's complement, big endian, as short as possible (beyond 64 bits only)
      10  complex     two f64

A zone is nothing (naive), `o` and the offset in microseconds (i64), or `z` and the IANA key. An offset's name is lost.

An Enum packs as its value and a tuple as an array, so without a type hint they come back as that value and as a list
(inside a set as a tuple, since a list has no hash). bytearray and memoryview come back as bytes. A map keeps its order;
its keys are scalars. One value has one packed form, whatever the hash seed.

`unpack` trusts nothing. What could cost memory or stack is refused before it is built: each byte can declare a large
array, and a set nested in sets takes a C stack frame of 50 KB each. Small inputs cannot do harm and skip the scan.
`pack` refuses what `unpack` would refuse, so whatever was stored can be read.
"""

import datetime as dt
import enum
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Final, Protocol, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from everlong_engine.model.errors import NotSerializable, PayloadTooLarge, UndecodablePayload
from everlong_engine.model.limits import PAYLOAD_BYTES_MAX

__all__ = ["DEPTH_MAX", "ELEMENTS_MAX", "SETS_NESTED_MAX", "pack", "unpack"]

ELEMENTS_MAX: Final = 250_000
DEPTH_MAX: Final = 64
SETS_NESTED_MAX: Final = 8

_PACKER_KEEP_BYTES_MAX: Final = 64 * 1024
_SLOTS_HARMLESS: Final = 1_000_000  # list slots that may be reserved without a scan: 8 MB

_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _SET, _FROZENSET, _BIG_INT, _COMPLEX = range(1, 11)

# Bytes that may open a container (arrays, maps, ext: their payload may be a set).
_CONTAINER_BYTES: Final = bytes([*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0)])
_MAP_BYTES: Final = bytes([*range(0x80, 0x90), 0xDE, 0xDF])
_ARRAY_BYTES: Final = bytes([*range(0x90, 0xA0), 0xDC, 0xDD])

_DATETIME_FORM: Final = struct.Struct(">HBBBBBBI")
_DATE_FORM: Final = struct.Struct(">HBB")
_TIME_FORM: Final = struct.Struct(">BBBBI")
_TIMEDELTA_FORM: Final = struct.Struct(">iII")
_OFFSET_FORM: Final = struct.Struct(">q")
_COMPLEX_FORM: Final = struct.Struct(">dd")


class _Packer(Protocol):
    def pack(self, value: object, /) -> bytes: ...


# What the rest of this module takes from msgpack, without its many options of type Any.
_new_packer: Callable[..., _Packer] = msgpack.Packer
_unpackb: Callable[..., object] = msgpack.unpackb
_Ext: Callable[[int, bytes], object] = msgpack.ExtType

# A Packer costs more than packing with it, and must not be entered twice (by another thread, or by a set's elements):
# it is taken from this list and put back; both are atomic.
_idle_packers: list[_Packer] = []


def pack(value: object) -> bytes:
    """Bytes that `unpack` turns into an equal value. Raises NotSerializable, naming the path to what is at fault."""
    try:
        packer = _idle_packers.pop()
    except IndexError:
        packer = _new_packer(default=_SUBSTITUTES[0])
    try:
        data = packer.pack(value)
    except Exception as error:
        raise _explain(value, error) from None
    if len(data) <= _PACKER_KEEP_BYTES_MAX:
        _idle_packers.append(packer)
    if len(data) > 1 and (containers := len(data) - len(data.translate(None, _CONTAINER_BYTES))) > 1:
        _require_readable(value, data, containers)
    return data


def unpack(data: bytes, *, max_bytes: int = PAYLOAD_BYTES_MAX) -> object:
    """The value that `pack` packed. Raises UndecodablePayload for anything else, before it can do harm."""
    size = len(data)
    if size > max_bytes:
        raise UndecodablePayload(reason=f"it has {size} bytes, more than the {max_bytes} allowed")
    if size > 1024:
        _refuse_bombs(data)
    try:
        value = _unpackb(data, strict_map_key=False, ext_hook=_READERS[0], timestamp=3)
    except UndecodablePayload:
        raise
    except Exception as error:  # whatever hostile bytes provoke: msgpack, struct, decimal and datetime all raise their own
        raise UndecodablePayload(reason=_describe(error)) from None
    if size > DEPTH_MAX and size - len(data.translate(None, _CONTAINER_BYTES)) > DEPTH_MAX and _too_deep(value):
        raise UndecodablePayload(reason=f"it is nested deeper than {DEPTH_MAX} levels")
    return value


# --- Limits ---


def _refuse_bombs(data: bytes) -> None:
    """Refuse too many elements before any is built; a list's slots are reserved when its header is read."""
    headers = data.count(0xDC) + data.count(0xDD)
    if len(data) <= ELEMENTS_MAX and headers * len(data) <= _SLOTS_HARMLESS:
        return
    try:
        elements = _count_elements(data)
    except (IndexError, struct.error):
        raise UndecodablePayload(reason="it ends too early") from None
    if elements > ELEMENTS_MAX:
        raise UndecodablePayload(reason=f"it holds more than {ELEMENTS_MAX} elements")


def _count_elements(data: bytes) -> int:
    """Walk over the tokens and add up what the headers declare; stops as soon as it is too much.

    A set's payload is an array like any other, so its ext header is passed over and its content counted.
    """
    skip = _SKIP
    at = 0
    pending = elements = 1
    while pending:
        byte = data[at]
        if step := skip[byte]:
            at += step
            pending -= 1
            continue
        declared, step = _read_header(data, at, byte)
        at += step
        if declared < 0:
            continue
        pending += declared - 1
        elements += declared
        if elements > ELEMENTS_MAX:
            return elements
    return elements


def _read_header(data: bytes, at: int, byte: int) -> tuple[int, int]:
    """(how many values follow inside, bytes to pass over); -1 for a set's ext header, whose content is next."""
    if byte < 0x90:
        return 2 * (byte & 0x0F), 1
    if byte < 0xA0:
        return byte & 0x0F, 1
    width = _LENGTH_WIDTH.get(byte)
    if width is None:  # fixext 1 to 16, or 0xC1
        inside = _is_set(data[at + 1])
        return (-1, 2) if inside else (0, 2 + _FIXEXT_BYTES[byte])
    length = int.from_bytes(data[at + 1 : at + 1 + width], "big")
    if byte in (0xDC, 0xDD):
        return length, 1 + width
    if byte in (0xDE, 0xDF):
        return 2 * length, 1 + width
    if byte in (0xC7, 0xC8, 0xC9):
        inside = _is_set(data[at + 1 + width])
        return (-1, 2 + width) if inside else (0, 2 + width + length)
    return 0, 1 + width + length


def _is_set(code: int) -> bool:
    return code in (_SET, _FROZENSET)


def _skip_table() -> tuple[int, ...]:
    """Bytes taken by each token of fixed size; 0 for those whose header must be read."""
    table = [1] * 128 + [0] * 32 + [1 + length for length in range(32)] + [0] * 32 + [1] * 32
    table[0xC0] = table[0xC2] = table[0xC3] = 1
    for first, widths in ((0xCA, (5, 9)), (0xCC, (2, 3, 5, 9)), (0xD0, (2, 3, 5, 9))):
        table[first : first + len(widths)] = widths
    table[0xC1] = 1  # not msgpack: the decoder will say so
    return tuple(table)


_SKIP: Final = _skip_table()
_LENGTH_WIDTH: Final = {
    0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4,
}  # fmt: skip
_FIXEXT_BYTES: Final = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def _too_deep(value: object) -> bool:
    """Whether containers lie deeper than the limit, looking at one level after the other."""
    level: list[object] = [value]
    for _ in range(DEPTH_MAX + 1):
        below: list[object] = []
        for item in level:
            below.extend(_children(item))
        if not below:
            return False
        level = [item for item in below if isinstance(item, _CONTAINERS)]
    return bool(level)


_CONTAINERS: Final = (dict, list, tuple, set, frozenset, deque)


def _children(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        return iter(cast("dict[object, object]", value).values())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return iter(cast("list[object]", value))
    return iter(())


def _require_readable(value: object, data: bytes, containers: int) -> None:
    """Refuse to store what could not be read: too deep, too many elements, a map key that has no hash."""
    if containers > DEPTH_MAX and _too_deep(value):
        raise NotSerializable(
            f"The value is nested deeper than {DEPTH_MAX} levels, which is the most that can be stored. Flatten it."
        )
    if len(data) > 1024 and len(data) > ELEMENTS_MAX and (elements := _count_elements(data)) > ELEMENTS_MAX:
        raise PayloadTooLarge(size=elements, limit=ELEMENTS_MAX, unit="elements")
    maps = len(data) - len(data.translate(None, _MAP_BYTES))
    if maps and len(data) - len(data.translate(None, _ARRAY_BYTES)) > 0:
        try:
            _unpackb(data, strict_map_key=False, ext_hook=_shallow_ext)
        except TypeError as error:
            raise _explain(value, error) from None


def _shallow_ext(code: int, data: bytes) -> object:
    return code, data


# --- What msgpack does not know ---


def _pack_at(value: object, sets: int) -> bytes:
    return _new_packer(default=_SUBSTITUTES[sets], buf_size=256).pack(value)


def _substitute(value: object, sets: int) -> object:
    """What to pack in place of a value that msgpack does not know; `sets` tells how many sets enclose it."""
    match value:
        case enum.Enum():
            inner: object = value.value  # pyright: ignore[reportAny]
            return inner if isinstance(inner, _NATIVE) and not _is_big(inner) else _substitute(inner, sets)
        case dt.datetime():
            fields = (value.year, value.month, value.day, value.hour, value.minute, value.second)
            head = _DATETIME_FORM.pack(*fields, value.fold, value.microsecond)
            return _Ext(_DATETIME, head + _pack_zone(value.tzinfo, value.utcoffset()))
        case dt.date():
            return _Ext(_DATE, _DATE_FORM.pack(value.year, value.month, value.day))
        case dt.time():
            head = _TIME_FORM.pack(value.hour, value.minute, value.second, value.fold, value.microsecond)
            return _Ext(_TIME, head + _pack_zone(value.tzinfo, value.utcoffset()))
        case dt.timedelta():
            return _Ext(_TIMEDELTA, _TIMEDELTA_FORM.pack(value.days, value.seconds, value.microseconds))
        case Decimal():
            return _Ext(_DECIMAL, str(value).encode("ascii"))
        case UUID():
            return _Ext(_UUID, value.bytes)
        case set():
            return _Ext(_SET, _pack_set(cast("set[object]", value), sets))
        case frozenset():
            return _Ext(_FROZENSET, _pack_set(cast("frozenset[object]", value), sets))
        case int():
            length = (8 + (value if value >= 0 else ~value).bit_length()) // 8
            return _Ext(_BIG_INT, value.to_bytes(length, "big", signed=True))
        case complex():
            return _Ext(_COMPLEX, _COMPLEX_FORM.pack(value.real, value.imag))
        case deque():
            return list(cast("deque[object]", value))
        case Mapping():
            return dict(cast("Mapping[object, object]", value))
        case _:
            raise _Unknown


_NATIVE: Final = (int, str, float, bytes, list, tuple, dict, type(None))


def _is_big(value: object) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**64


class _Unknown(TypeError):
    """Nothing is known that could stand for the value."""


def _pack_set(value: set[object] | frozenset[object], sets: int) -> bytes:
    if sets >= SETS_NESTED_MAX:
        raise _TooDeep
    packer = _new_packer(default=_SUBSTITUTES[sets + 1], buf_size=256)
    elements = sorted(map(packer.pack, value))
    return _array_header(len(elements)) + b"".join(elements)


class _TooDeep(ValueError):
    """More sets within sets than the decoder will follow."""


def _array_header(length: int) -> bytes:
    if length < 16:
        return bytes((0x90 | length,))
    if length < 0x10000:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def _pack_zone(zone: dt.tzinfo | None, offset: dt.timedelta | None) -> bytes:
    if isinstance(zone, ZoneInfo) and zone.key:
        return b"z" + zone.key.encode()
    if offset is None:
        if zone is not None:
            raise _Unknown("its time zone has no offset without a date")
        return b""
    return b"o" + _OFFSET_FORM.pack(offset // _MICROSECOND)


_MICROSECOND: Final = dt.timedelta(microseconds=1)


def _substitutes(sets: int) -> Callable[[object], object]:
    return lambda value: _substitute(value, sets)


_SUBSTITUTES: Final = tuple(_substitutes(sets) for sets in range(SETS_NESTED_MAX + 1))


def _read_ext(code: int, data: bytes, sets: int) -> object:
    """The value of an ext code, within `sets` other sets."""
    match code:
        case 1:
            *fields, fold, microsecond = _DATETIME_FORM.unpack_from(data)
            return dt.datetime(*fields, microsecond, _read_zone(data[_DATETIME_FORM.size :]), fold=fold)
        case 2:
            return dt.date(*_DATE_FORM.unpack(data))
        case 3:
            hour, minute, second, fold, microsecond = _TIME_FORM.unpack_from(data)
            return dt.time(hour, minute, second, microsecond, _read_zone(data[_TIME_FORM.size :]), fold=fold)
        case 4:
            return dt.timedelta(*_TIMEDELTA_FORM.unpack(data))
        case 5:
            return Decimal(data.decode("ascii"))
        case 6:
            return UUID(bytes=data)
        case 7:
            return set(_read_set(data, sets))
        case 8:
            return frozenset(_read_set(data, sets))
        case 9:
            return int.from_bytes(data, "big", signed=True)
        case 10:
            return complex(*_COMPLEX_FORM.unpack(data))
        case _:
            raise UndecodablePayload(reason=f"ext code {code} is not known to this version")


def _read_set(data: bytes, sets: int) -> tuple[object, ...]:
    if sets >= SETS_NESTED_MAX:
        raise UndecodablePayload(reason=f"sets are nested deeper than {SETS_NESTED_MAX}")
    elements = _unpackb(data, strict_map_key=False, use_list=False, ext_hook=_READERS[sets + 1], timestamp=3)
    if type(elements) is not tuple:
        raise UndecodablePayload(reason="a set is not written as an array")
    return cast("tuple[object, ...]", elements)


def _read_zone(data: bytes) -> dt.tzinfo | None:
    match data[:1]:
        case b"":
            return None
        case b"o":
            (offset,) = _OFFSET_FORM.unpack(data[1:])
            return dt.timezone(dt.timedelta(microseconds=offset)) if offset else dt.UTC
        case b"z":
            return ZoneInfo(data[1:].decode())
        case _:
            raise UndecodablePayload(reason="a time zone is written in an unknown way")


def _readers(sets: int) -> Callable[[int, bytes], object]:
    return lambda code, data: _read_ext(code, data, sets)


_READERS: Final = tuple(_readers(sets) for sets in range(SETS_NESTED_MAX + 1))


# --- Saying what is wrong, only after something is ---


def _explain(value: object, error: Exception) -> NotSerializable:
    path, culprit, reason = _find_culprit(value, "", _reason(error))
    kind = type(culprit.key if isinstance(culprit, _KeyFault) else culprit)
    type_name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return NotSerializable(path=path or "the value", type_name=type_name, reason=reason)


def _find_culprit(value: object, path: str, reason: str) -> tuple[str, object, str]:
    """Go down, at each level, into the first child that cannot be packed by itself."""
    for _ in range(DEPTH_MAX):
        for step, child in _named_children(value):
            if (fault := _fault(child)) is not None:
                path, value, reason = (path + step).removeprefix("."), child, fault
                break
        else:
            break
    return path, value, reason


class _KeyFault:
    """Stands for a key while the culprit is named."""

    def __init__(self, key: object) -> None:
        self.key = key


def _named_children(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            if isinstance(key, (tuple, set, frozenset)) or _fault(key) is not None:
                yield f"[{_short(key)}] (a key)", _KeyFault(key)
            plain = isinstance(key, str) and key.isidentifier()
            yield (f".{key}" if plain else f"[{_short(key)}]"), item
    elif isinstance(value, (list, tuple, deque)):
        for index, item in enumerate(cast("list[object]", value)):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in cast("set[object]", value):
            yield f"{{{_short(item)}}}", item


def _fault(value: object) -> str | None:
    """Why a value cannot be packed by itself, or None if it can."""
    try:
        data = _new_packer(default=_SUBSTITUTES[0], buf_size=1024).pack(value)
        _unpackb(data, strict_map_key=False, ext_hook=_shallow_ext)
    except Exception as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    match error:
        case _TooDeep():
            return f"sets are nested deeper than {SETS_NESTED_MAX}"
        case _Unknown():
            return str(error) or "Everlong stores plain data only"
        case UnicodeEncodeError():
            return "it holds half a surrogate pair, which is not text in UTF-8"
        case RecursionError() | ValueError() if "recursion" in str(error):
            return f"it contains itself, or is nested deeper than {DEPTH_MAX} levels"
        case _:
            return str(error) or type(error).__name__


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200] if str(error) else type(error).__name__


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
