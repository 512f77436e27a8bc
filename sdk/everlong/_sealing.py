"""Which parts of an event are secret, to what place each is bound, and how they are sealed.

Sealed is what people and programs put in: arguments, results, signals, side effects, carried state,
positions in streams, everything of a failure but its class, and reasons. Not sealed is what the
engine works with: names, numbers, times, options, source lines.

    part                      sealed as                                  bound to
    payload                   codec bytes                                run, number, kind, subject
    failure                   codec bytes of [message, traceback, data]  likewise, and its class
    text (a reason)           `everlong-sealed:` and base64              likewise
    message to an execution   as above                                   workflow id, kind, subject

Bound means: the bytes open nowhere else, nor in a run whose row names another workflow. The subject
is what the readable part says (the number of an activity, the name of a signal), so it cannot be
exchanged either. A message is bound to a workflow id only, because a sender does not know which run
will take it; the worker opens it and seals it anew in its place in the history.

Events are sealed when they leave for the store and opened when they come from it, once. Nothing in
between knows of it: a replay compares what the code made with what it made then, never ciphertexts,
and no digest of anything secret is stored.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar, assert_never, cast

from msgspec import Struct
from msgspec.structs import replace

from everlong.codec import COMPRESSED, ENCRYPTED, Codec, decompress, in_order, split_header
from everlong.exceptions import (
    MissingKey,
    PlainPayload,
    TamperedPayload,
    UndecodablePayload,
)
from everlong_engine import (
    CODES,
    ActivityCancelled,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityScheduled,
    ActivityTimedOut,
    ApprovalAnswered,
    ApprovalRequested,
    ApprovalWithdrawn,
    CancelRequested,
    ChildCancelRequested,
    ChildClosed,
    ChildScheduled,
    ChildStarted,
    ChildStartFailed,
    Event,
    ExternalAnswered,
    ExternalAwaited,
    ExternalCancelSent,
    ExternalSignalSent,
    Failure,
    ItemPublished,
    MemoSet,
    PatchMarked,
    RunCancelled,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
    RunTerminated,
    RunTimedOut,
    SideEffectRecorded,
    SignalReceived,
    SignalRejected,
    TagsSet,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    UpdateCompleted,
    UpdateFailed,
    UpdateReceived,
    pack,
    unpack,
)

__all__ = ["Place", "Sealing", "is_sealed", "note_of", "place_of"]

E = TypeVar("E", bound=Event)

_TEXT: Final = "everlong-sealed:"
_SEALED_TEXT: Final = re.compile(f"{_TEXT}([A-Za-z0-9_-]+={{0,2}})")
_SURROGATES: Final = "surrogatepass"

MESSAGES: Final = (
    SignalReceived,
    UpdateReceived,
    ApprovalAnswered,
    CancelRequested,
    RunTerminated,
)
"""What is sent to an execution and not to a run."""
_WITH_TEXT: Final = (
    SignalRejected,
    CancelRequested,
    RunCancelled,
    RunTerminated,
    ChildClosed,
    ChildCancelRequested,
    ExternalCancelSent,
    ApprovalRequested,
)
"""Hold words that may be sealed, and that people without a key see a note for."""


class Place(Struct, frozen=True):
    """Where sealed bytes belong. `owner` is a run's id, or a workflow id for messages."""

    namespace: str
    owner: bytes | str
    where: tuple[int | str | bytes, ...]

    def scope(self) -> bytes:
        """What has a key of its own."""
        return pack([self.namespace, self.owner])

    def detail(self, part: str) -> bytes:
        """A part of what lies there, as bytes that no other part or place has."""
        return pack([self.namespace, self.owner, list(self.where), part])


def place_of(namespace: str, owner: bytes | str, where: str, seq: int, event: Event) -> Place:
    """The place of an event, with what its readable part says."""
    return Place(namespace, owner, (where, seq, CODES[type(event)], *_subject(event)))


def is_sealed(data: bytes) -> bool:
    """Whether a codec has made it: no packed value begins so."""
    return data[:1] == COMPRESSED[:1]


class Sealing:
    """The codecs of one client, applied to the secret parts of events."""

    def __init__(self, codecs: Sequence[Codec] = ()) -> None:
        self._compress, self._encrypt = in_order(codecs)
        self.is_on = bool(codecs)
        """Whether anything is done to what is written."""

    @property
    def conceals(self) -> bool:
        """Whether what is secret must not appear in logs and other readable places either."""
        return self._encrypt is not None

    def leaves(self, event: Event) -> bool:
        """Whether an event from the store is what it looks like: nothing is to be opened."""
        return self._encrypt is None and not _holds_sealed(event)

    def shows_as_is(self, event: Event) -> bool:
        """Whether people see an event as it was stored."""
        return self.leaves(event) and type(event) not in _WITH_TEXT

    # ------------------------------------------------------------------------------- events

    def seal(self, event: E, place: Place) -> E:
        return cast("E", _changed(event, _Seal(self, place)))

    def open(self, event: E, place: Place, *, plain_text: bool = False) -> E:
        """Undo `seal`. `plain_text` lets a reason pass that is not encrypted.

        Raises:
            MissingKey, TamperedPayload, PlainPayload, UndecodablePayload
        """
        return cast("E", _changed(event, _Open(self, place, plain_text)))

    def show(self, event: E, place: Place) -> E:
        """Undo `seal` for people: what cannot be read is a note that says why."""
        return cast("E", _changed(event, _Show(self, place)))

    # -------------------------------------------------------------------------------- bytes

    def seal_bytes(self, data: bytes, place: Place, part: str) -> bytes:
        if self._compress is not None:
            data = self._compress.encode(data)
        if self._encrypt is not None:
            data = self._encrypt.encode(data, place.scope(), place.detail(part))
        return data

    def open_bytes(self, data: bytes, place: Place, part: str) -> bytes:
        """Peel off what the first bytes name: encryption outside, compression inside."""
        if data.startswith(ENCRYPTED):
            if self._encrypt is None:
                raise MissingKey(key_id=split_header(data)[0])
            data = self._encrypt.decode(data, place.scope(), place.detail(part))
        elif self._encrypt is not None and not self._encrypt.accept_plain:
            raise PlainPayload
        if data.startswith(COMPRESSED):
            data = decompress(data)
        if is_sealed(data):
            raise UndecodablePayload(reason="no codec of this version made it")
        return data

    # --------------------------------------------------------------------------------- texts

    def seal_text(self, text: str, place: Place, part: str) -> str:
        if self._encrypt is None:
            return text
        data = text.encode("utf-8", _SURROGATES)
        return _TEXT + urlsafe_b64encode(self.seal_bytes(data, place, part)).decode()

    def open_text(self, text: str, place: Place, part: str, *, plain: bool = False) -> str:
        """`plain` lets pass what is not encrypted: operators without a key give reasons, too.

        Without a key a text is left as it is: anybody may write one that looks sealed.
        """
        if self._encrypt is None:
            return text
        found = _SEALED_TEXT.fullmatch(text)
        if found is None:
            if plain or self._encrypt.accept_plain:
                return text
            raise PlainPayload
        return self.open_bytes(_from_base64(found[1]), place, part).decode("utf-8", _SURROGATES)

    def show_text(self, text: str, place: Place, part: str) -> str:
        """For people: opened where it is sealed, also behind readable words; or a note."""

        def opened(found: re.Match[str]) -> str:
            data = b""
            try:
                data = _from_base64(found[1])
                if not data.startswith(ENCRYPTED):
                    return found[0]
                return self.open_bytes(data, place, part).decode("utf-8", _SURROGATES)
            except UndecodablePayload as error:
                return note_of(error)

        return _SEALED_TEXT.sub(opened, text)

    # ------------------------------------------------------------------------------ failures

    def seal_failure(self, failure: Failure, place: Place) -> Failure:
        part = f"failure {failure.type}"
        if self._encrypt is None:
            return replace(failure, data=self.seal_bytes(failure.data, place, part))
        texts = [one.encode("utf-8", _SURROGATES) for one in (failure.message, failure.traceback)]
        data = self.seal_bytes(pack([*texts, failure.data]), place, part)
        return replace(failure, message="", traceback="", data=data)

    def open_failure(self, failure: Failure, place: Place) -> Failure:
        part = f"failure {failure.type}"
        encrypted = failure.data.startswith(ENCRYPTED)
        if not encrypted and not failure.data and not self.conceals:
            return failure
        data = self.open_bytes(failure.data, place, part)
        if not encrypted:
            return replace(failure, data=data)
        match unpack(data):
            case [bytes(message), bytes(trace), bytes(inner)]:
                return replace(
                    failure,
                    message=message.decode("utf-8", _SURROGATES),
                    traceback=trace.decode("utf-8", _SURROGATES),
                    data=inner,
                )
            case _:
                raise UndecodablePayload(reason="it is not a failure's data")


def note_of(error: UndecodablePayload) -> str:
    """What stands for a part that cannot be read."""
    match error:
        case MissingKey():
            return f"<encrypted with key {error.key_id!r}>"
        case TamperedPayload():
            return f"<encrypted with key {error.key_id!r}, and tampered with>"
        case PlainPayload():
            return "<not encrypted, so not trusted>"
        case _:
            return f"<unreadable: {error.reason}>"


def _from_base64(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text)
    except ValueError:
        raise UndecodablePayload(reason="a sealed text is damaged") from None


# --------------------------------------------------------------------------- what is done to a part


class _Change(Protocol):
    def payload(self, part: str, data: bytes) -> bytes: ...
    def text(self, part: str, text: str) -> str: ...
    def failure(self, failure: Failure) -> Failure: ...


class _Seal(Struct, frozen=True):
    by: Sealing
    place: Place

    def payload(self, part: str, data: bytes) -> bytes:
        return self.by.seal_bytes(data, self.place, part)

    def text(self, part: str, text: str) -> str:
        return self.by.seal_text(text, self.place, part)

    def failure(self, failure: Failure) -> Failure:
        return self.by.seal_failure(failure, self.place)


class _Open(Struct, frozen=True):
    by: Sealing
    place: Place
    plain_text: bool

    def payload(self, part: str, data: bytes) -> bytes:
        return self.by.open_bytes(data, self.place, part)

    def text(self, part: str, text: str) -> str:
        return self.by.open_text(text, self.place, part, plain=self.plain_text)

    def failure(self, failure: Failure) -> Failure:
        return self.by.open_failure(failure, self.place)


class _Show(Struct, frozen=True):
    by: Sealing
    place: Place

    def payload(self, part: str, data: bytes) -> bytes:
        try:
            return self.by.open_bytes(data, self.place, part)
        except UndecodablePayload as error:
            return pack(note_of(error))

    def text(self, part: str, text: str) -> str:
        return self.by.show_text(text, self.place, part)

    def failure(self, failure: Failure) -> Failure:
        try:
            return self.by.open_failure(failure, self.place)
        except UndecodablePayload as error:
            return replace(failure, message=note_of(error), traceback="", data=b"")


def _changed(event: Event, by: _Change) -> Event:
    """The event with its secret parts changed. A new kind must say here what of it is secret."""
    match event:
        case RunStarted():
            return _changed_start(event, by)
        case RunContinuedAsNew():
            arguments = by.payload("arguments", event.arguments)
            return replace(event, arguments=arguments, carried=_carried(event.carried, by))
        case MemoSet():
            return replace(event, memo=by.payload("memo", event.memo))
        case ActivityScheduled() | ChildScheduled():
            return _changed_call(event, by)
        case UpdateReceived():
            return replace(event, arguments=by.payload("arguments", event.arguments))
        case ActivityCompleted() | RunCompleted() | UpdateCompleted():
            return replace(event, result=by.payload("result", event.result))
        case ApprovalRequested():
            title, data = by.text("title", event.title), by.payload("data", event.data)
            return replace(event, title=title, data=data)
        case ApprovalAnswered():
            return replace(event, comment=by.payload("comment", event.comment))
        case SideEffectRecorded():
            return replace(event, value=by.payload("value", event.value))
        case SignalReceived() | ItemPublished() | ExternalSignalSent():
            return replace(event, payload=by.payload("payload", event.payload))
        case ChildClosed():
            return _changed_end(event, by)
        case SignalRejected():
            payload, error = by.payload("payload", event.payload), by.text("error", event.error)
            return replace(event, payload=payload, error=error)
        case ActivityFailed() | RunFailed() | UpdateFailed():
            return replace(event, failure=by.failure(event.failure))
        case (
            CancelRequested()
            | RunCancelled()
            | RunTerminated()
            | ChildCancelRequested()
            | ExternalCancelSent()
        ):
            return replace(event, reason=by.text("reason", event.reason))
        case (
            ActivityTimedOut()
            | ActivityLost()
            | ActivityCancelRequested()
            | ActivityCancelled()
            | TimerStarted()
            | TimerFired()
            | TimerCancelled()
            | PatchMarked()
            | TagsSet()
            | ApprovalWithdrawn()
            | RunTimedOut()
            | ChildStarted()
            | ChildStartFailed()
            | ExternalAnswered()
            | ExternalAwaited()
        ):
            return event
        case _:
            assert_never(event)


def _changed_start(event: RunStarted, by: _Change) -> RunStarted:
    arguments, reason = by.payload("arguments", event.arguments), event.cancel_reason
    carried, memo, reset = _carried(event.carried, by), _memo(event.memo, by), event.reset
    if reset is not None:
        reset = replace(reset, reason=by.text("reset", reset.reason))
    if reason is not None:
        reason = by.text("cancel reason", reason)
    changed = replace(event, arguments=arguments, carried=carried, memo=memo)
    headers, cursors = _headers(event.headers, by), _carried(event.cursors, by, "cursor")
    return replace(changed, reset=reset, cancel_reason=reason, headers=headers, cursors=cursors)


def _changed_call(
    event: ActivityScheduled | ChildScheduled, by: _Change
) -> ActivityScheduled | ChildScheduled:
    arguments, headers = by.payload("arguments", event.arguments), _headers(event.headers, by)
    if isinstance(event, ChildScheduled):
        return replace(event, arguments=arguments, headers=headers, memo=_memo(event.memo, by))
    return replace(event, arguments=arguments, headers=headers)


def _changed_end(event: ChildClosed, by: _Change) -> ChildClosed:
    """Only the part that its status has."""
    if event.failure is not None:
        return replace(event, failure=by.failure(event.failure))
    if event.status == "completed":
        return replace(event, result=by.payload("result", event.result))
    return replace(event, reason=by.text("reason", event.reason))


def _carried(carried: Any, by: _Change, what: str = "carried") -> tuple[tuple[str, bytes], ...]:
    return tuple(
        (name, by.payload(f"{what} {number} {name}", payload))
        for number, (name, payload) in enumerate(carried)
    )


def _memo(memo: bytes, by: _Change) -> bytes:
    """There need not be one."""
    return by.payload("memo", memo) if memo else b""


def _headers(headers: bytes, by: _Change) -> bytes:
    """Likewise."""
    return by.payload("headers", headers) if headers else b""


def _holds_sealed(event: Event) -> bool:
    match event:
        case RunStarted():
            beside = (event.memo, event.headers)
            handed = (one for _, one in (*event.carried, *event.cursors))
            return any(is_sealed(one) for one in (event.arguments, *beside, *handed))
        case RunContinuedAsNew():
            return is_sealed(event.arguments) or any(is_sealed(one) for _, one in event.carried)
        case ChildScheduled():
            secrets = (event.arguments, event.memo, event.headers)
            return any(is_sealed(one) for one in secrets)
        case ActivityScheduled():
            return is_sealed(event.arguments) or is_sealed(event.headers)
        case UpdateReceived():
            return is_sealed(event.arguments)
        case ChildClosed():
            data = event.result if event.failure is None else event.failure.data
            return is_sealed(data)
        case ActivityCompleted() | RunCompleted() | UpdateCompleted():
            return is_sealed(event.result)
        case ApprovalRequested():
            return is_sealed(event.data)
        case ApprovalAnswered():
            return is_sealed(event.comment)
        case SideEffectRecorded():
            return is_sealed(event.value)
        case MemoSet():
            return is_sealed(event.memo)
        case SignalReceived() | SignalRejected() | ItemPublished() | ExternalSignalSent():
            return is_sealed(event.payload)
        case ActivityFailed() | RunFailed() | UpdateFailed():
            return is_sealed(event.failure.data)
        case _:
            return False


def _answer_of(event: ApprovalAnswered) -> tuple[int | str | bytes, ...]:
    """All that is readable of an answer: who may write to the file must not change it."""
    return (event.approval_id, event.run, int(event.approved), event.by, event.at_us)


def _subject(event: Event) -> tuple[int | str | bytes, ...]:
    """What the readable part says a secret is about."""
    match event:
        case RunStarted():
            return (event.workflow, event.workflow_id)
        case ActivityScheduled():
            return (event.activity_id, event.activity)
        case ChildScheduled():
            return (event.child_id, event.workflow, event.target)
        case ChildClosed():
            return (event.child_id, event.run, event.status)
        case ChildCancelRequested():
            return (event.child_id, event.target)
        case ExternalSignalSent():
            return (event.call_id, event.target, event.signal)
        case ExternalCancelSent():
            return (event.call_id, event.target)
        case ActivityCompleted() | ActivityFailed():
            return (event.activity_id,)
        case SignalReceived() | SignalRejected():
            return (event.signal,)
        case UpdateReceived():
            return (event.update_id, event.update)
        case UpdateCompleted() | UpdateFailed():
            return (event.update_id,)
        case ItemPublished():
            return (event.channel, event.number)
        case ApprovalRequested():
            return (event.approval_id, *event.approvers)
        case ApprovalAnswered():
            return _answer_of(event)
        case _:
            return ()
