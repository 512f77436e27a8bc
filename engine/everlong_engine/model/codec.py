"""Events to bytes and back, for ever.

A stored event is (kind code, body, checksum). The body is a msgpack array: the schema version, then
the fields in the order of the class. Fields that a class gained later stand at the end and carry
defaults, so old bodies decode; a change that this cannot express gets a version and an upcast here.

A payload over 64 KB leaves the body for the blob table: its place holds ext code 1 with the SHA-256
of its content. The checksum (CRC-32 over the body, begun at kind and sequence number) finds rotten
and misplaced rows; it is no defence against an attacker.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final
from zlib import crc32

import msgpack

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import (
    CODES,
    KINDS,
    ActivityFailed,
    ActivityScheduled,
    Event,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
)
from everlong_engine.model.failure import Failure
from everlong_engine.model.limits import PAYLOAD_INLINE_BYTES_MAX
from everlong_engine.model.policies import ActivityOptions

__all__ = ["Blobs", "blob_references", "checksum", "decode_event", "encode_event"]

SCHEMA_VERSION: Final = 1
_BLOB: Final = 1
_EVENT_BYTES_MAX: Final = 256_000_000

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
    cls = KINDS.get(kind)
    if cls is None:
        raise UndecodablePayload(
            f"unknown event kind {kind}: this history was written by a newer version of Everlong; "
            "upgrade this process"
        )

    def resolve(code: int, data: bytes) -> bytes:
        if code != _BLOB:
            raise UndecodablePayload(f"unknown ext code {code} in an event")
        if data not in blobs:
            raise UndecodablePayload(f"blob {data.hex()} is missing from the store")
        return blobs[data]

    wire = _unpack(body, resolve)
    if not isinstance(wire, list) or not wire or wire[0] != SCHEMA_VERSION:
        raise UndecodablePayload(f"an event of kind {cls.__name__} has no known schema version")
    try:
        return _BUILDERS[cls](*wire[1:])
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise UndecodablePayload(
            f"an event of kind {cls.__name__} does not have its fields: {error}"
        ) from error


def _unpack(body: bytes, ext_hook: Callable[[int, bytes], object]) -> Any:
    try:
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


def _build_run_failed(failure: Any, unread: Iterable[str] = ()) -> RunFailed:
    return RunFailed(Failure.from_wire(failure), tuple(unread))


def _carried(wire: Iterable[Iterable[Any]]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, payload) for name, payload in wire)


def _build_started(*wire: Any) -> RunStarted:
    values = list(wire)
    if len(values) > 9:
        values[9] = _carried(values[9])
    return RunStarted(*values)


def _build_continued(arguments: bytes, carried: Any, checkpoints: int) -> RunContinuedAsNew:
    return RunContinuedAsNew(arguments, _carried(carried), checkpoints)


def _with_unread(kind: Callable[..., Event]) -> Callable[..., Event]:
    def build(value: Any, unread: Iterable[str] = ()) -> Event:
        return kind(value, tuple(unread))

    return build


def _builders() -> dict[type[Event], Callable[..., Event]]:
    special: dict[str, Callable[..., Event]] = {
        "ActivityScheduled": _build_scheduled,
        "ActivityFailed": _build_activity_failed,
        "RunFailed": _build_run_failed,
        "RunStarted": _build_started,
        "RunContinuedAsNew": _build_continued,
    }
    for kind in CODES:
        if kind.__name__ in ("RunCompleted", "RunCancelled"):
            special[kind.__name__] = _with_unread(kind)
    return {kind: special.get(kind.__name__, kind) for kind in CODES}


_BUILDERS: Final = _builders()
