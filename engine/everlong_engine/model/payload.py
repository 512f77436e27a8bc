"""Plain values to bytes and back: msgpack, a small fixed set of ext codes, and never pickle.

    code  value      payload
    ----  ---------  ------------------------------------------------------------------------
      -1  timestamp  msgpack's own; only read (others may write it): an aware datetime in UTC
       1  datetime   year u16, month, day, hour, minute, second, fold u8, microsecond u32, zone
       2  date       year u16, month u8, day u8
       3  time       hour, minute, second, fold u8, microsecond u32, zone
       4  timedelta  days i32, seconds u32, microseconds u32
       5  Decimal    its text, ASCII
       6  UUID       16 bytes
       7  set        a msgpack array, elements sorted by their packed bytes
       8  frozenset  likewise
       9  big int    two's complement, big endian, as short as possible; beyond 64 bits only
      10  complex    two f64

A zone is nothing (naive), `o` and the offset in microseconds (i64), or `z` and the IANA key; an
offset's name is lost. An Enum packs as its value and a tuple as an array, so without a type hint
they come back as that value and as a list (inside a set as a tuple, since lists have no hash).
bytearray and memoryview come back as bytes. A map keeps its order, and its keys are scalars. One
value has one packed form, whatever the hash seed.

`unpack` trusts nothing: what could cost memory or stack out of proportion is refused before it is
built. `pack` refuses what `unpack` would refuse, so whatever was stored can be read.
"""

import datetime as dt
import enum
import struct
from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final, Protocol, TypeAlias, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from everlong_engine.model import payload_faults
from everlong_engine.model.errors import NotSerializable, PayloadTooLarge, UndecodablePayload
from everlong_engine.model.limits import PAYLOAD_BYTES_MAX
from everlong_engine.model.payload_limits import (
    DEPTH_MAX,
    ELEMENTS_MAX,
    count_elements,
    is_flat,
    may_hold_bad_keys,
    may_lie_deep,
    refuse_bombs,
    too_deep,
)

__all__ = ["SETS_NESTED_MAX", "StandIn", "pack", "unpack"]

SETS_NESTED_MAX: Final = 8
"""Each set within a set is decoded by a further C frame of 50 KB; 160 of them end the process."""

StandIn: TypeAlias = Callable[[object], object]
"""What to pack in place of a value of unknown type; raises TypeError if it does not know."""

_TOO_DEEP: Final = f"it is nested deeper than {DEPTH_MAX} levels"
_PACKER_KEPT_BYTES_MAX: Final = 64 * 1024
_PACKERS_KEPT_MAX: Final = 8
_LONG_BYTES: Final = 1024


class _Packer(Protocol):
    def pack(self, value: object, /) -> bytes: ...


# What is taken from msgpack, without its many options.
_new_packer: Callable[..., _Packer] = msgpack.Packer
_unpackb: Callable[..., object] = msgpack.unpackb
_ext: Callable[[int, bytes], object] = msgpack.ExtType

# Making a Packer takes longer than packing with it. One must not be entered twice (by another
# thread, by a set's elements), so each call takes one out of this list; pop and append are atomic.
_idle_packers: list[_Packer] = []


def pack(value: object, *, stand_in: StandIn | None = None) -> bytes:
    """Bytes that `unpack` turns into an equal value.

    Raises:
        NotSerializable: names the path to what cannot be stored.
        PayloadTooLarge: too many elements. The size in bytes is for the caller to judge.
    """
    try:
        packer = _idle_packers.pop()
    except IndexError:
        packer = _new_packer(default=_SUBSTITUTES[0])
    try:
        data = packer.pack(value)
    except Exception as error:
        if stand_in is None:
            raise _explain(value, error, _SUBSTITUTES[0]) from None
        return _pack_again(value, stand_in)
    if len(data) <= _PACKER_KEPT_BYTES_MAX and len(_idle_packers) < _PACKERS_KEPT_MAX:
        _idle_packers.append(packer)
    if len(data) > 2:  # {(): 0} takes three
        _require_readable(value, data, _SUBSTITUTES[0])
    return data


def _pack_again(value: object, stand_in: StandIn) -> bytes:
    """The second try, with the caller's own substitutes; too rare to keep a packer for."""
    substitute = _substitutes(0, stand_in)
    try:
        data = _new_packer(default=substitute, buf_size=1024).pack(value)
    except Exception as error:
        raise _explain(value, error, substitute) from None
    _require_readable(value, data, substitute)
    return data


def unpack(data: bytes, *, max_bytes: int = PAYLOAD_BYTES_MAX) -> object:
    """The value that `pack` packed. Anything else is an UndecodablePayload, before it does harm."""
    if len(data) > max_bytes:
        raise UndecodablePayload(reason=f"it has {len(data)} bytes, more than {max_bytes}")
    refuse_bombs(data)
    return _decode(data)


def _decode(data: bytes) -> object:
    try:
        value = _unpackb(data, strict_map_key=False, ext_hook=_READERS[0], timestamp=3)
    except UndecodablePayload:
        raise
    except Exception as error:  # msgpack, struct, decimal and datetime each raise their own
        raise UndecodablePayload(reason=_describe(error)) from None
    if may_lie_deep(data) and too_deep(value):
        raise UndecodablePayload(reason=_TOO_DEEP)
    return value


def _require_readable(value: object, data: bytes, substitute: StandIn) -> None:
    """Refuse what could not be read: too many elements, too deep, a key without a hash.

    The sure way to find the latter two is to read. What is long is mostly a table, and seen to be
    one in a small part of that time.
    """
    if len(data) > ELEMENTS_MAX and (elements := count_elements(data)) > ELEMENTS_MAX:
        raise PayloadTooLarge(size=elements, limit=ELEMENTS_MAX, unit="elements")
    if len(data) > _LONG_BYTES and is_flat(value):
        return
    if may_hold_bad_keys(data) or may_lie_deep(data):
        try:
            _decode(data)
        except UndecodablePayload as error:
            raise _explain(value, error, substitute) from None


# --------------------------------------------------------- what msgpack does not know, writing


class _UnknownType(TypeError):
    """Nothing is known that could stand for the value."""


class _SetsTooDeep(ValueError):
    """More sets within sets than would be read."""


_MICROSECOND: Final = dt.timedelta(microseconds=1)
_DATETIME: Final = struct.Struct(">HBBBBBBI")
_DATE: Final = struct.Struct(">HBB")
_TIME: Final = struct.Struct(">BBBBI")
_TIMEDELTA: Final = struct.Struct(">iII")
_OFFSET: Final = struct.Struct(">q")
_COMPLEX: Final = struct.Struct(">dd")


def _substitute(value: object, sets: int, stand_in: StandIn | None) -> object:
    """What to pack instead; `sets` says how many sets lie around the value."""
    match value:
        case enum.Enum():
            inner: object = value.value
            return inner if _is_native(inner) else _substitute(inner, sets, stand_in)
        case dt.datetime():
            day = (value.year, value.month, value.day)
            clock = (value.hour, value.minute, value.second, value.fold, value.microsecond)
            return _ext(1, _DATETIME.pack(*day, *clock) + _zone(value))
        case dt.date():
            return _ext(2, _DATE.pack(value.year, value.month, value.day))
        case dt.time():
            clock = (value.hour, value.minute, value.second, value.fold, value.microsecond)
            return _ext(3, _TIME.pack(*clock) + _zone(value))
        case dt.timedelta():
            return _ext(4, _TIMEDELTA.pack(value.days, value.seconds, value.microseconds))
        case Decimal():
            return _ext(5, str(value).encode("ascii"))
        case UUID():
            return _ext(6, value.bytes)
        case set():
            return _ext(7, _elements(cast("set[object]", value), sets, stand_in))
        case frozenset():
            return _ext(8, _elements(cast("frozenset[object]", value), sets, stand_in))
        case int():
            bits = (value if value >= 0 else ~value).bit_length()
            return _ext(9, value.to_bytes(bits // 8 + 1, "big", signed=True))
        case complex():
            return _ext(10, _COMPLEX.pack(value.real, value.imag))
        case deque():
            return list(cast("deque[object]", value))
        case Mapping():
            return dict(cast("Mapping[object, object]", value))
        case _ if stand_in is not None:
            return stand_in(value)
        case _:
            raise _UnknownType


def _is_native(value: object) -> bool:
    """Whether msgpack packs it by itself."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    return isinstance(value, (str, bytes, float, list, tuple, dict)) or value is None


def _elements(value: set[object] | frozenset[object], sets: int, stand_in: StandIn | None) -> bytes:
    if sets == SETS_NESTED_MAX:
        raise _SetsTooDeep
    inner = _SUBSTITUTES[sets + 1] if stand_in is None else _substitutes(sets + 1, stand_in)
    elements = sorted(map(_new_packer(default=inner, buf_size=256).pack, value))
    return _array_header(len(elements)) + b"".join(elements)


def _array_header(length: int) -> bytes:
    if length < 0x10:
        return bytes((0x90 | length,))
    if length < 0x10000:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def _zone(value: dt.datetime | dt.time) -> bytes:
    zone = value.tzinfo
    if isinstance(zone, ZoneInfo) and zone.key:
        return b"z" + zone.key.encode()
    offset = value.utcoffset()
    if offset is not None:
        return b"o" + _OFFSET.pack(offset // _MICROSECOND)
    if zone is not None:
        raise _UnknownType("its time zone has no name and, without a date, no offset")
    return b""


def _substitutes(sets: int, stand_in: StandIn | None = None) -> StandIn:
    return lambda value: _substitute(value, sets, stand_in)


_SUBSTITUTES: Final = tuple(_substitutes(sets) for sets in range(SETS_NESTED_MAX + 1))


# --------------------------------------------------------- what msgpack does not know, reading


def _read_ext(code: int, data: bytes, sets: int) -> object:
    """The value of an ext code; `sets` says how many sets lie around it."""
    match code:
        case 1:
            year, month, day, hour, minute, second, fold, micro = _DATETIME.unpack_from(data)
            zone = _read_zone(data[_DATETIME.size :])
            return dt.datetime(year, month, day, hour, minute, second, micro, zone, fold=fold)
        case 2:
            return dt.date(*_DATE.unpack(data))
        case 3:
            hour, minute, second, fold, micro = _TIME.unpack_from(data)
            return dt.time(hour, minute, second, micro, _read_zone(data[_TIME.size :]), fold=fold)
        case 4:
            return dt.timedelta(*_TIMEDELTA.unpack(data))
        case 5:
            return Decimal(data.decode("ascii"))
        case 6:
            return UUID(bytes=data)
        case 7:
            return set(_read_elements(data, sets))
        case 8:
            return frozenset(_read_elements(data, sets))
        case 9:
            return int.from_bytes(data, "big", signed=True)
        case 10:
            return complex(*_COMPLEX.unpack(data))
        case _:
            raise UndecodablePayload(reason=f"ext code {code} is unknown to this version")


def _read_elements(data: bytes, sets: int) -> tuple[object, ...]:
    if sets == SETS_NESTED_MAX:
        raise UndecodablePayload(reason=f"sets are nested deeper than {SETS_NESTED_MAX}")
    hook = _READERS[sets + 1]
    elements = _unpackb(data, strict_map_key=False, use_list=False, ext_hook=hook, timestamp=3)
    if type(elements) is not tuple:
        raise UndecodablePayload(reason="a set does not hold an array")
    return cast("tuple[object, ...]", elements)


def _read_zone(data: bytes) -> dt.tzinfo | None:
    match data[:1]:
        case b"":
            return None
        case b"o":
            (offset,) = _OFFSET.unpack(data[1:])
            return dt.timezone(dt.timedelta(microseconds=offset)) if offset else dt.UTC
        case b"z":
            return ZoneInfo(data[1:].decode())
        case _:
            raise UndecodablePayload(reason="a time zone is written in an unknown way")


def _readers(sets: int) -> Callable[[int, bytes], object]:
    return lambda code, data: _read_ext(code, data, sets)


_READERS: Final = tuple(_readers(sets) for sets in range(SETS_NESTED_MAX + 1))


# --------------------------------------------------------- saying what is wrong, once something is


def _explain(value: object, error: Exception, substitute: StandIn) -> NotSerializable:
    def fault(part: object) -> str | None:
        try:
            data = _new_packer(default=substitute, buf_size=1024).pack(part)
            unpack(data, max_bytes=len(data))
        except Exception as error:
            return _reason(error)
        return None

    return payload_faults.explain(value, _reason(error), fault)


def _reason(error: Exception) -> str:
    match error:
        case _SetsTooDeep():
            return f"sets are nested deeper than {SETS_NESTED_MAX}"
        case UnicodeEncodeError():
            return "it holds half a surrogate pair, which UTF-8 cannot express"
        case UndecodablePayload() if "unhashable" in error.reason:
            return payload_faults.KEY
        case UndecodablePayload(reason=reason):
            return payload_faults.ENDLESS if reason == _TOO_DEEP else reason
        case ValueError() if "recursion" in str(error):
            return payload_faults.ENDLESS
        case _UnknownType():
            return str(error) or "Everlong stores plain data only"
        case TypeError() if "can not serialize" in str(error) or not str(error):
            return "Everlong stores plain data only"
        case _:
            return _describe(error)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200] if str(error) else type(error).__name__
