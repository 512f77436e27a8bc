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
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, TypeAlias
from zlib import crc32

import msgpack

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.event_shapes import (
    NUMBER_MAX,
    NUMBERED,
    carried_of,
    explain,
    numbers_of,
    require_instant,
    shapes_of,
    unread_of,
)
from everlong_engine.model.events import (
    CODES,
    KINDS,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    ApprovalAnswered,
    ApprovalRequested,
    ChildClosed,
    ChildScheduled,
    ChildStarted,
    ChildStartFailed,
    Event,
    ExternalAnswered,
    ExternalCancelSent,
    ExternalSignalSent,
    ItemPublished,
    RunCancelled,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
    SignalReceived,
    TagsSet,
    TimerFired,
    TimerStarted,
    UpdateFailed,
)
from everlong_engine.model.failure import Failure
from everlong_engine.model.ids import ID_BYTES
from everlong_engine.model.limits import EVENT_ELEMENTS_MAX, PAYLOAD_INLINE_BYTES_MAX
from everlong_engine.model.lineage import Debounced, Reset
from everlong_engine.model.payload_limits import count_elements
from everlong_engine.model.policies import ActivityOptions, run_policy_of
from everlong_engine.model.tags import instant_us, tag_changes_of, tags_of

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
        case ActivityFailed():
            return (event.activity_id, event.failure.to_wire(), event.attempts, event.run)
        case RunFailed():
            if event.due_us is None:
                return (event.failure.to_wire(), event.unread)
            return (event.failure.to_wire(), event.unread, event.due_us)
        case UpdateFailed():
            return (event.update_id, event.failure.to_wire())
        case ChildClosed():
            failure = None if event.failure is None else event.failure.to_wire()
            return (
                event.child_id,
                event.run,
                event.status,
                event.result,
                failure,
                event.reason,
                event.source,
            )
        case _:
            return None


def _scheduled(event: Any) -> tuple[Any, ...]:
    wire = (
        event.activity_id,
        event.activity,
        event.arguments,
        event.options.to_wire(),
        event.where,
        event.began,
    )
    return (*wire, event.headers) if event.headers else wire


def _getter(kind: type[Event]) -> Callable[[Event], tuple[Any, ...]]:
    names = kind.__struct_fields__
    if kind is ActivityScheduled:
        return _scheduled
    if kind in (ActivityFailed, RunFailed, UpdateFailed, ChildClosed):
        return lambda event: _special(event) or ()
    if len(names) == 1:
        only = attrgetter(names[0])
        return lambda event: (only(event),)
    every: Callable[[Event], tuple[Any, ...]] = attrgetter(*names)
    if kind is RunStarted:
        return _started(every)
    return _child(every) if kind is ChildScheduled else every


_STARTED: Final = RunStarted.__struct_fields__
_RESET: Final = _STARTED.index("reset")
_BEGINS: Final = _STARTED.index("begins_us")
_HEADERS: Final = _STARTED.index("headers")
_RETRY: Final = _STARTED.index("retry")
_PLAIN: Final = RunStarted.__struct_defaults__[_BEGINS - len(_STARTED) :]
_ONCE: Final = _PLAIN[_RETRY - _BEGINS :]
_CURSORS: Final = _STARTED.index("cursors")
_DEBOUNCED: Final = _STARTED.index("debounced")


def _started(every: Callable[[Event], tuple[Any, ...]]) -> Callable[[Event], tuple[Any, ...]]:
    """Wire fields of a start: what it repeats is nearly always absent, and so is what is written
    only where it is used."""

    def fields_of(event: Event) -> tuple[Any, ...]:
        found = every(event)
        if found[_BEGINS:] == _PLAIN:
            found = found[:_BEGINS]
        elif found[_RETRY:] == _ONCE:
            found = found[:_RETRY] if found[_HEADERS] else found[:_HEADERS]
        elif found[_DEBOUNCED] is not None:
            found = (*found[:_DEBOUNCED], found[_DEBOUNCED].to_wire())
        else:
            found = found[:_DEBOUNCED] if found[_CURSORS] else found[:_CURSORS]
        reset = found[_RESET]
        if reset is None:
            return found
        return *found[:_RESET], reset.to_wire(), *found[_RESET + 1 :]

    return fields_of


def _child(every: Callable[[Event], tuple[Any, ...]]) -> Callable[[Event], tuple[Any, ...]]:
    """Wire fields of a child: headers and a policy stand at the end, written where they are."""

    def fields_of(event: Event) -> tuple[Any, ...]:
        found = every(event)
        if found[-1] is not None:
            return found
        return found[:-1] if found[-2] else found[:-2]

    return fields_of


_GETTERS: Final = {kind: _getter(kind) for kind in CODES}
_TEXT: Final = "surrogatepass"
"""Python's texts may hold half surrogate pairs; a reason or a file's name must not stop a run."""
_unpackb: Final[Callable[..., Any]] = msgpack.unpackb


def _instant(value: object) -> list[int]:
    """The one type of a tag that msgpack does not know."""
    if isinstance(value, datetime):
        return [instant_us(value)]
    raise TypeError(f"an event cannot hold a {type(value).__name__}")


_pack: Final = msgpack.Packer(
    use_bin_type=True, autoreset=True, unicode_errors=_TEXT, default=_instant
).pack


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
    build = _BUILDERS.get(kind)
    if build is None or type(wire) is not list:
        raise _refusal(kind, wire)
    try:
        return build(*wire)
    except (TypeError, _Misfit):
        raise _refusal(kind, wire) from None  # pyright: ignore[reportUnknownArgumentType]


class _Misfit(Exception):
    """The fields do not have their types: `explain` says which."""


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
        if len(body) > _HARMLESS_BYTES:
            _refuse_bombs(body)
        return _unpackb(
            body, raw=False, strict_map_key=False, unicode_errors=_TEXT, ext_hook=ext_hook
        )
    except UndecodablePayload:
        raise
    except Exception as error:
        # msgpack raises a dozen types for hostile bytes (StackError, FormatError, ValueError …).
        raise UndecodablePayload(f"the bytes of an event are damaged: {error!r}") from error


def _refuse_bombs(body: bytes) -> None:
    if count_elements(body, EVENT_ELEMENTS_MAX) > EVENT_ELEMENTS_MAX:
        raise UndecodablePayload(reason=f"it holds more than {EVENT_ELEMENTS_MAX} elements")


# Kinds of which a history has many are checked by hand, which takes a third of the time. The others
# have their shape looked up, as a whole.


def _build_scheduled(
    version: int,
    activity_id: int,
    activity: str,
    arguments: bytes,
    options: Any,
    where: str,
    began: bool = False,
    headers: bytes = b"",
) -> ActivityScheduled:
    if (
        version != SCHEMA_VERSION
        or type(activity_id) is not int
        or not 0 <= activity_id <= NUMBER_MAX
        or type(activity) is not str
        or type(arguments) is not bytes
        or type(where) is not str
        or type(headers) is not bytes
        or type(began) is not bool
    ):
        raise _Misfit
    return ActivityScheduled(
        activity_id, activity, arguments, ActivityOptions.from_wire(options), where, began, headers
    )


def _build_completed(
    version: int, activity_id: int, result: bytes, run: bytes | None = None
) -> ActivityCompleted:
    if (
        version != SCHEMA_VERSION
        or type(activity_id) is not int
        or not 0 <= activity_id <= NUMBER_MAX
        or type(result) is not bytes
        or (run is not None and type(run) is not bytes)
    ):
        raise _Misfit
    return ActivityCompleted(activity_id, result, run)


def _build_fired(version: int, timer_id: int) -> TimerFired:
    if version != SCHEMA_VERSION or type(timer_id) is not int or not 0 <= timer_id <= NUMBER_MAX:
        raise _Misfit
    return TimerFired(timer_id)


def _build_timer(version: int, timer_id: int, due_us: int, where: str) -> TimerStarted:
    if (
        version != SCHEMA_VERSION
        or type(timer_id) is not int
        or not 0 <= timer_id <= NUMBER_MAX
        or type(due_us) is not int
        or type(where) is not str
    ):
        raise _Misfit
    require_instant(due_us, "due_us")
    return TimerStarted(timer_id, due_us, where)


def _build_received(version: int, signal: str, payload: bytes) -> SignalReceived:
    if version != SCHEMA_VERSION or type(signal) is not str or type(payload) is not bytes:
        raise _Misfit
    return SignalReceived(signal, payload)


def _build_activity_failed(
    activity_id: int, failure: Any, attempts: int, run: bytes | None = None
) -> ActivityFailed:
    return ActivityFailed(activity_id, Failure.from_wire(failure), attempts, run)


def _build_update_failed(update_id: str, failure: Any) -> UpdateFailed:
    return UpdateFailed(update_id, Failure.from_wire(failure))


def _build_run_failed(
    failure: Any, unread: Iterable[str] = (), due_us: int | None = None
) -> RunFailed:
    require_instant(due_us, "due_us")
    return RunFailed(Failure.from_wire(failure), unread_of(unread), due_us)


def _build_run_completed(result: bytes, unread: Iterable[str] = ()) -> RunCompleted:
    return RunCompleted(result, unread_of(unread))


def _build_run_cancelled(reason: str, unread: Iterable[str] = ()) -> RunCancelled:
    return RunCancelled(reason, unread_of(unread))


def _build_started(*wire: Any) -> RunStarted:
    values = list(wire)
    if len(values) > 9:
        values[9] = carried_of(values[9])
    if len(values) > 11:
        values[11] = numbers_of(values[11])
    if len(values) > 13 and values[13] is not None:
        values[13] = Reset.from_wire(values[13])
    if len(values) > 14:
        values[14] = tags_of(values[14])
    if len(values) > 19 and values[19] is not None:
        values[19] = run_policy_of(values[19]).run_policy
    if len(values) > 21:
        values[21] = carried_of(values[21])
    if len(values) > 22 and values[22] is not None:
        values[22] = Debounced.from_wire(values[22])
    started = RunStarted(*values)
    if started.previous_run is not None and len(started.previous_run) != ID_BYTES:
        raise UndecodablePayload(reason="previous_run holds no id")
    require_instant(started.run_timeout_us, "run_timeout_us")
    require_instant(started.execution_deadline_us, "execution_deadline_us")
    require_instant(started.begins_us, "begins_us")
    return started


def _build_continued(arguments: bytes, carried: Any, checkpoints: int) -> RunContinuedAsNew:
    return RunContinuedAsNew(arguments, carried_of(carried), checkpoints)


def _build_approval(
    approval_id: int,
    title: str,
    data: bytes,
    approvers: Iterable[str],
    due_us: int | None,
    where: str,
) -> ApprovalRequested:
    require_instant(due_us, "due_us")
    names = tuple(approvers)
    if any(type(name) is not str for name in names):
        raise UndecodablePayload(reason="the list of approvers does not hold names")
    return ApprovalRequested(approval_id, title, data, names, due_us, where)


def _build_verdict(
    approval_id: int, run: bytes, approved: bool, by: str, comment: bytes, at_us: int
) -> ApprovalAnswered:
    if len(run) != ID_BYTES:
        raise UndecodablePayload(reason="run holds no id")
    require_instant(at_us, "at_us")
    return ApprovalAnswered(approval_id, run, approved, by, comment, at_us)


def _build_published(channel: str, number: int, payload: bytes, where: str) -> ItemPublished:
    if not 0 <= number <= NUMBER_MAX:
        raise _Misfit
    return ItemPublished(channel, number, payload, where)


def _build_tags(tags: Any, where: str) -> TagsSet:
    return TagsSet(tag_changes_of(tags), where)


def _require_id(value: bytes | None, what: str) -> None:
    if value is not None and len(value) != ID_BYTES:
        raise UndecodablePayload(reason=f"{what} holds no id")


def _build_child_scheduled(*wire: Any) -> ChildScheduled:
    values = list(wire)
    if len(values) > 11:
        values[11] = tags_of(values[11])
    if len(values) > 15 and values[15] is not None:
        values[15] = run_policy_of(values[15]).run_policy
    scheduled = ChildScheduled(*values)
    require_instant(scheduled.run_timeout_us, "run_timeout_us")
    require_instant(scheduled.execution_timeout_us, "execution_timeout_us")
    return scheduled


def _build_child_started(child_id: int, run: bytes, execution: bytes) -> ChildStarted:
    _require_id(run, "run")
    _require_id(execution, "execution")
    return ChildStarted(child_id, run, execution)


def _build_start_failed(child_id: int, run: bytes, status: str) -> ChildStartFailed:
    _require_id(run, "run")
    return ChildStartFailed(child_id, run, status)


def _build_child_closed(
    child_id: int,
    run: bytes,
    status: str = "",
    result: bytes = b"",
    failure: Any = None,
    reason: str = "",
    source: bytes = b"",
) -> ChildClosed:
    _require_id(run, "run")
    failed = None if failure is None else Failure.from_wire(failure)
    return ChildClosed(child_id, run, status, result, failed, reason, source)


def _build_answered(call_id: int, run: bytes, problem: str) -> ExternalAnswered:
    _require_id(run, "run")
    return ExternalAnswered(call_id, run, problem)


def _build_signal_sent(*wire: Any) -> ExternalSignalSent:
    sent = ExternalSignalSent(*wire)
    _require_id(sent.execution, "execution")
    return sent


def _build_cancel_sent(*wire: Any) -> ExternalCancelSent:
    sent = ExternalCancelSent(*wire)
    _require_id(sent.execution, "execution")
    return sent


_Builder: TypeAlias = Callable[..., Event]
"""Makes an event of the schema's version and its fields; raises _Misfit, or TypeError for want of
a field."""


def _checked(code: int, kind: type[Event], build: _Builder) -> _Builder:
    shapes = frozenset(shapes_of(code))
    is_numbered = kind.__struct_fields__[0] in NUMBERED

    def checked(*wire: Any) -> Event:
        if tuple(map(type, wire)) not in shapes or wire[0] != SCHEMA_VERSION:
            raise _Misfit
        if is_numbered and not 0 <= wire[1] <= NUMBER_MAX:
            raise _Misfit
        return build(*wire[1:])

    return checked


_QUICK: Final[Mapping[type[Event], _Builder]] = {
    ActivityScheduled: _build_scheduled,
    ActivityCompleted: _build_completed,
    TimerStarted: _build_timer,
    TimerFired: _build_fired,
    SignalReceived: _build_received,
}
_COMPOSED: Final[Mapping[type[Event], _Builder]] = {
    ActivityFailed: _build_activity_failed,
    UpdateFailed: _build_update_failed,
    RunFailed: _build_run_failed,
    RunCompleted: _build_run_completed,
    RunCancelled: _build_run_cancelled,
    RunStarted: _build_started,
    RunContinuedAsNew: _build_continued,
    ItemPublished: _build_published,
    TagsSet: _build_tags,
    ChildScheduled: _build_child_scheduled,
    ChildStarted: _build_child_started,
    ChildStartFailed: _build_start_failed,
    ChildClosed: _build_child_closed,
    ExternalAnswered: _build_answered,
    ExternalSignalSent: _build_signal_sent,
    ExternalCancelSent: _build_cancel_sent,
    ApprovalRequested: _build_approval,
    ApprovalAnswered: _build_verdict,
}
_BUILDERS: Final[Mapping[int, _Builder]] = {
    code: _QUICK.get(kind) or _checked(code, kind, _COMPOSED.get(kind, kind))
    for code, kind in KINDS.items()
}
