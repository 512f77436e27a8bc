"""Events to bytes and back, for ever.

A stored event is (kind code, body, checksum). The body is a msgpack array: the schema version, then
the fields in the order of the class. Fields that a class gained later stand at the end and carry
defaults, so old bodies decode; a change that this cannot express gets a version and an upcast here.

A payload over 64 KB leaves the body for the blob table: its place holds ext code 1 with the SHA-256
of its content. The checksum (CRC-32 over the body, begun at kind and sequence number) finds rotten
and misplaced rows; it is no defence against an attacker. So bytes are not trusted: what could cost
memory out of proportion is refused before it is built, and every field must have its type.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, TypeAlias
from zlib import crc32

import msgpack

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.event_shapes import (
    NUMBER_MAX,
    NUMBERED,
    Shape,
    carried_of,
    explain,
    require_instant,
    shapes_of,
    unread_of,
)
from everlong_engine.model.events import (
    CODES,
    KINDS,
    ActivityFailed,
    ActivityScheduled,
    Event,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
    TimerStarted,
)
from everlong_engine.model.failure import Failure
from everlong_engine.model.limits import EVENT_ELEMENTS_MAX, PAYLOAD_INLINE_BYTES_MAX
from everlong_engine.model.payload_limits import count_elements
from everlong_engine.model.policies import ActivityOptions

__all__ = ["Blobs", "blob_references", "checksum", "decode_event", "encode_event"]

SCHEMA_VERSION: Final = 1
_BLOB: Final = 1
_HARMLESS_BYTES: Final = 4096
"""Whatever so few bytes declare, at most 32 MB are reserved for a moment."""

Blobs = dict[bytes, bytes]
"""Spilled payloads by the SHA-256 of their content."""


def _special(event: Event) -> tuple[Any, ...] | None:
    """Wire fields of the kinds that hold more than scalars and bytes."""
    match event:
        case ActivityScheduled():
            options = event.options.to_wire()
            return (
                event.activity_id,
                event.activity,
                event.arguments,
                options,
                event.where,
                event.began,
            )
        case ActivityFailed():
            return (event.activity_id, event.failure.to_wire(), event.attempts)
        case RunFailed():
            return (event.failure.to_wire(), event.unread)
        case _:
            return None


def _getter(kind: type[Event]) -> Callable[[Event], tuple[Any, ...]]:
    names = [field.name for field in fields(kind)]
    if kind in (ActivityScheduled, ActivityFailed, RunFailed):
        return lambda event: _special(event) or ()
    if len(names) == 1:
        only = attrgetter(names[0])
        return lambda event: (only(event),)
    return attrgetter(*names)


_GETTERS: Final = {kind: _getter(kind) for kind in CODES}
_TEXT: Final = "surrogatepass"
"""Python's texts may hold half surrogate pairs; a reason or a file's name must not stop a run."""
_pack: Final = msgpack.Packer(use_bin_type=True, autoreset=True, unicode_errors=_TEXT).pack


def encode_event(event: Event, blobs: Blobs) -> tuple[int, bytes]:
    """(kind code, body). Payloads that spill are added to `blobs`."""
    kind = type(event)
    wire = (SCHEMA_VERSION, *_GETTERS[kind](event))
    body: bytes = _pack(wire)
    if len(body) > PAYLOAD_INLINE_BYTES_MAX:
        body = _pack(_spill(wire, blobs))
    return CODES[kind], body


def checksum(seq: int, kind: int, body: bytes) -> int:
    """CRC-32 of a stored event in its place."""
    return crc32(body, seq << 8 | kind)


def _spill(wire: Any, blobs: Blobs) -> Any:
    if isinstance(wire, bytes) and len(wire) > PAYLOAD_INLINE_BYTES_MAX:
        digest = hashlib.sha256(wire).digest()
        blobs[digest] = wire
        return msgpack.ExtType(_BLOB, digest)
    if isinstance(wire, list | tuple):
        return [_spill(item, blobs) for item in wire]  # pyright: ignore[reportUnknownVariableType]
    return wire


def blob_references(body: bytes) -> tuple[bytes, ...]:
    """Digests of the blobs that a body refers to."""
    found: list[bytes] = []

    def note(code: int, data: bytes) -> None:
        if code == _BLOB:
            found.append(data)

    _unpack(body, note)
    return tuple(found)


def decode_event(kind: int, body: bytes, blobs: Mapping[bytes, bytes]) -> Event:
    """Undo `encode_event`.

    Raises:
        UndecodablePayload: an unknown kind or version, a missing blob, or bytes that are no event.
    """

    def resolve(code: int, data: bytes) -> bytes:
        if code != _BLOB:
            raise UndecodablePayload(f"unknown ext code {code} in an event")
        if data not in blobs:
            raise UndecodablePayload(f"blob {data.hex()} is missing from the store")
        return blobs[data]

    wire: Any = _unpack(body, resolve)
    build, is_numbered = (
        _BUILDERS.get((kind, *map(type, wire)), _NOTHING) if type(wire) is list else _NOTHING  # pyright: ignore[reportUnknownArgumentType]
    )
    if build is None or wire[0] != SCHEMA_VERSION:
        raise _refusal(kind, wire)
    if is_numbered and not 0 <= wire[1] <= NUMBER_MAX:
        raise UndecodablePayload(reason=f"{KINDS[kind].__name__} has the number {wire[1]}")
    return build(*wire[1:])


def _refusal(kind: int, wire: Any) -> UndecodablePayload:
    cls = KINDS.get(kind)
    if cls is None:
        return UndecodablePayload(
            f"unknown event kind {kind!r}: this history was written by a newer version of "
            "Everlong; upgrade this process"
        )
    if type(wire) is not list or not wire or wire[0] != SCHEMA_VERSION:  # pyright: ignore[reportUnknownArgumentType]
        return UndecodablePayload(f"an event of kind {cls.__name__} has no known schema version")
    return explain(cls, wire)  # pyright: ignore[reportUnknownArgumentType]


def _unpack(body: bytes, ext_hook: Callable[[int, bytes], object]) -> Any:
    try:
        if len(body) > _HARMLESS_BYTES and count_elements(body, EVENT_ELEMENTS_MAX) > (
            EVENT_ELEMENTS_MAX
        ):
            raise UndecodablePayload(reason=f"it holds more than {EVENT_ELEMENTS_MAX} elements")
        return msgpack.unpackb(
            body,
            use_list=True,
            raw=False,
            strict_map_key=False,
            unicode_errors=_TEXT,
            ext_hook=ext_hook,
        )
    except UndecodablePayload:
        raise
    except Exception as error:
        # msgpack raises a dozen types for hostile bytes (StackError, FormatError, ValueError …).
        raise UndecodablePayload(f"the bytes of an event are damaged: {error!r}") from error


def _build_scheduled(
    activity_id: int, activity: str, arguments: bytes, options: Any, where: str, began: bool = False
) -> ActivityScheduled:
    return ActivityScheduled(
        activity_id, activity, arguments, ActivityOptions.from_wire(options), where, began
    )


def _build_activity_failed(activity_id: int, failure: Any, attempts: int) -> ActivityFailed:
    return ActivityFailed(activity_id, Failure.from_wire(failure), attempts)


def _build_timer(timer_id: int, due_us: int, where: str) -> TimerStarted:
    require_instant(due_us, "due_us")
    return TimerStarted(timer_id, due_us, where)


def _build_run_failed(failure: Any, unread: Iterable[str] = ()) -> RunFailed:
    return RunFailed(Failure.from_wire(failure), unread_of(unread))


def _build_started(*wire: Any) -> RunStarted:
    values = list(wire)
    if len(values) > 9:
        values[9] = carried_of(values[9])
    started = RunStarted(*values)
    require_instant(started.run_timeout_us, "run_timeout_us")
    require_instant(started.execution_deadline_us, "execution_deadline_us")
    return started


def _build_continued(arguments: bytes, carried: Any, checkpoints: int) -> RunContinuedAsNew:
    return RunContinuedAsNew(arguments, carried_of(carried), checkpoints)


def _with_unread(kind: Callable[..., Event]) -> Callable[..., Event]:
    def build(value: Any, unread: Iterable[str] = ()) -> Event:
        return kind(value, unread_of(unread))

    return build


_Builder: TypeAlias = tuple[Callable[..., Event] | None, bool]
"""What makes an event of its fields, and whether the first of them is a number to be checked."""

_NOTHING: Final[_Builder] = (None, False)


def _builders() -> dict[Shape, _Builder]:
    special: dict[str, Callable[..., Event]] = {
        "ActivityScheduled": _build_scheduled,
        "ActivityFailed": _build_activity_failed,
        "RunFailed": _build_run_failed,
        "RunStarted": _build_started,
        "RunContinuedAsNew": _build_continued,
        "TimerStarted": _build_timer,
    }
    for kind in CODES:
        if kind.__name__ in ("RunCompleted", "RunCancelled"):
            special[kind.__name__] = _with_unread(kind)
    return {
        shape: (special.get(kind.__name__, kind), fields(kind)[0].name in NUMBERED)
        for code, kind in KINDS.items()
        for shape in shapes_of(code)
    }


_BUILDERS: Final = _builders()
