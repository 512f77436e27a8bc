"""Facts on their way into the store and out of it: where the SDK's values meet stored bytes.

Behind this line, in clients, workers and replays, an event holds what the code made. Before it, in
the engine and on disk, an event is a row of the history or a message of the inbox. Every row,
message, attempt, reason, question and answer that the SDK writes or reads passes through here, and
here it is sealed and opened by the client's codecs (`_sealing` says what of it).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from everlong._sealing import MESSAGES, Place, Sealing, is_sealed, note_of, place_of
from everlong.codec import ENCRYPTED, Codec
from everlong.exceptions import (
    EverlongError,
    MissingKey,
    PlainPayload,
    TamperedPayload,
    UndecodablePayload,
    WorkflowFault,
)
from everlong_engine import (
    CODES,
    INPUTS,
    ActivityCompleted,
    ActivityFailed,
    ApprovalAnswered,
    ApprovalRequested,
    ApprovalRow,
    AttemptRow,
    Blobs,
    ChildClosed,
    Closing,
    EntityRow,
    Event,
    Failure,
    HistoryRow,
    Input,
    ItemPublished,
    ItemRow,
    Letter,
    LoadedRun,
    MailRow,
    PauseRow,
    Question,
    Recorded,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunRow,
    RunStarted,
    RunTerminated,
    RunTimedOut,
    SignalReceived,
    SignalRejected,
    UpdateReceived,
    check_of_letter,
    checksum,
    decode_event,
    encode_event,
    entity_checksum,
    pack,
    unpack,
)

__all__ = ["Execution", "Records", "Run"]


class Execution(Protocol):
    """Whatever has a workflow id."""

    @property
    def namespace(self) -> str: ...
    @property
    def workflow_id(self) -> str: ...


class Run(Execution, Protocol):
    """One run, as its owner, its row or its start have it."""

    @property
    def run_id(self) -> bytes: ...
    @property
    def type(self) -> str: ...


class _Elsewhere(Struct, frozen=True):
    """A run of another execution."""

    namespace: str
    workflow_id: str
    run_id: bytes
    type: str


class Records:
    """The boundary of one client."""

    def __init__(self, codecs: Sequence[Codec] = ()) -> None:
        self._sealing = Sealing(codecs)
        self._seals = self._sealing.is_on

    @property
    def seals(self) -> bool:
        """Whether there are codecs at all."""
        return self._seals

    @property
    def conceals(self) -> bool:
        """Whether payloads are encrypted: then logs leave out what could quote them."""
        return self._sealing.conceals

    # ------------------------------------------------------------------------------- the history

    def row(self, run: Run, seq: int, event: Event, at_us: int, blobs: Blobs) -> HistoryRow:
        """An event in its place in the history."""
        if self._seals:
            event = self._sealing.seal(event, _in_history(run, seq, event))
        kind, body = encode_event(event, blobs)
        return seq, kind, at_us, body, checksum(seq, kind, body)

    def opened(self, loaded: LoadedRun) -> LoadedRun:
        """A loaded run, as the code wrote it.

        Raises:
            UndecodablePayload: a key is missing, or something was tampered with.
        """
        run, leaves = loaded.row, self._sealing.leaves
        if all(leaves(one.event) for one in loaded.history) and not any(
            is_sealed(one.details) for one in loaded.attempts if one.details is not None
        ):
            return loaded
        return replace(
            loaded,
            history=[self._open_recorded(run, one) for one in loaded.history],
            attempts=[self.open_details(run, one) for one in loaded.attempts],
        )

    def check(self, loaded: LoadedRun) -> None:
        """Open everything of a run, its mail too.

        Raises:
            EverlongError: what cannot be opened, and why.
        """
        self.opened(loaded)
        for mail in loaded.mail:
            if mail.kind != _TERMINATED:  # A notice for who had the run: no input of it.
                self.input(loaded.row, mail, loaded.blobs)

    def shown(self, loaded: LoadedRun) -> LoadedRun:
        """The same for people to look at; what cannot be read says so in its place."""
        run = loaded.row
        history = [self._show_recorded(run, one) for one in loaded.history]
        attempts = [self._show_attempt(run, one) for one in loaded.attempts]
        return replace(loaded, history=history, attempts=attempts)

    def _show_recorded(self, run: Run, recorded: Recorded) -> Recorded:
        event = recorded.event
        if self._sealing.shows_as_is(event):
            return recorded
        place = _in_history(run, recorded.seq, event)
        return replace(recorded, event=self._sealing.show(event, place))

    def event(self, run: Run, recorded: Recorded) -> Event:
        """One event, as the code wrote it. Raises UndecodablePayload."""
        return self._open_recorded(run, recorded).event

    def closing(self, run: Run, recorded: Recorded) -> Closing:
        """How a closed run closed. Of an end that is no result, what cannot be read says so.

        Raises:
            UndecodablePayload: the result cannot be read.
        """
        event = recorded.event
        if isinstance(event, RunCompleted):
            return self._sealing.open(event, _in_history(run, recorded.seq, event))
        return self._sealing.show(  # type: ignore[return-value]
            event, _in_history(run, recorded.seq, event)
        )

    def _open_recorded(self, run: Run, recorded: Recorded) -> Recorded:
        event = recorded.event
        opened = self._sealing.open(
            event,
            _in_history(run, recorded.seq, event),
            plain_text=isinstance(event, RunTerminated),
        )
        return recorded if opened is event else replace(recorded, event=opened)

    # ------------------------------------------------------------------------------- the inbox

    def start(self, run: Run, started: RunStarted, blobs: Blobs) -> tuple[int, bytes]:
        """(kind, body) of the message that begins a run."""
        return self._to_run(run, started, blobs)

    def start_of(self, loaded: LoadedRun) -> RunStarted | None:
        """The start that waits for a run which has not begun, for people."""
        for mail in () if loaded.history else loaded.mail:
            if mail.kind == CODES[RunStarted]:
                with suppress(UndecodablePayload):  # Whoever takes the run up says what is wrong.
                    event = decode_event(mail.kind, mail.body, loaded.blobs)
                    assert isinstance(event, RunStarted)
                    return self._sealing.show(event, _for_run(loaded.row, event))
        return None

    def outcome(self, run: Run, event: Input, blobs: Blobs) -> tuple[int, bytes]:
        """(kind, body) of an outcome that is handed back with its run, not yet fed."""
        return self._to_run(run, event, blobs)

    def _to_run(self, run: Run, event: Input, blobs: Blobs) -> tuple[int, bytes]:
        if self._seals:
            event = self._sealing.seal(event, _for_run(run, event))
        return encode_event(event, blobs)

    def message(
        self, to: Execution, event: Input | RunTerminated, blobs: Blobs
    ) -> tuple[int, bytes]:
        """(kind, body) of what is sent to an execution, whichever of its runs takes it."""
        if self._seals:
            event = self._sealing.seal(event, _in_mail(to, event))
        return encode_event(event, blobs)

    def input(self, run: Run, mail: MailRow, blobs: Mapping[bytes, bytes]) -> Input:
        """A message of the inbox as an input to feed.

        Raises:
            EverlongError: it is damaged, needs a payload that spilled and is not in `blobs`, or a
                key that is not here.
        """
        if checksum(0, mail.kind, mail.body) != mail.checksum:
            raise WorkflowFault(f"message {mail.position} of the inbox has a wrong checksum")
        event = decode_event(mail.kind, mail.body, blobs)
        if type(event) not in INPUTS:
            raise WorkflowFault(f"message {mail.position} of the inbox is no input")
        if isinstance(event, ChildClosed) and event.source:
            return self._end_of_another(run, event, blobs)
        if self._sealing.leaves(event):
            return event  # type: ignore[return-value]
        place = _in_mail(run, event) if isinstance(event, MESSAGES) else _for_run(run, event)
        try:
            # Who has no key may still ask to cancel, and say why.
            return self._sealing.open(  # type: ignore[return-value]
                event, place, plain_text=True
            )
        except PlainPayload as error:
            if isinstance(event, ApprovalAnswered):
                name = f"answer to approval {event.approval_id}"
                return SignalRejected(name, event.comment, str(error))
            if isinstance(event, SignalReceived):
                # A sender without the keys must not stop the run: recorded, never delivered.
                return SignalRejected(event.signal, event.payload, str(error))
            if isinstance(event, ActivityCompleted | ActivityFailed) and event.run is not None:
                # An answer by token, likewise: the activity fails, and says why.
                failure = Failure(type="everlong.exceptions.PlainPayload", message=str(error))
                return ActivityFailed(event.activity_id, failure, 1, event.run)
            if isinstance(event, UpdateReceived):
                # Its judge refuses what is no arguments, and tells the sender so.
                return UpdateReceived(event.update_id, event.update, pack(str(error)))
            raise

    # ------------------------------------------------------------------------------ updates

    def told(self, run: Execution, update_id: str, stage: str, data: bytes = b"") -> bytes:
        """How an update stands, for whoever sent it."""
        return self._sealing.seal_bytes(pack([stage, data]), _of_update(run, update_id), "answer")

    def hear(self, to: Execution, update_id: str, answer: bytes) -> tuple[str, bytes]:
        """Undo `told`. Raises UndecodablePayload."""
        match unpack(self._sealing.open_bytes(answer, _of_update(to, update_id), "answer")):
            case [str(stage), bytes(data)]:
                return stage, data
            case _:
                raise UndecodablePayload(reason="it is not the answer to an update")

    def _end_of_another(
        self, run: Run, event: ChildClosed, blobs: Mapping[bytes, bytes]
    ) -> ChildClosed:
        """How another execution ended, from its closing event as it stands there.

        Raises:
            UndecodablePayload: it cannot be read, or is no end.
        """
        match unpack(event.source):
            case [bytes(run_id), str(kind), str(workflow_id), int(seq), int(code), bytes(body)]:
                there = _Elsewhere(run.namespace, workflow_id, run_id, kind)
            case _:
                raise UndecodablePayload(reason="it does not say how an execution has ended")
        closing = decode_event(code, body, blobs)
        if not self._sealing.leaves(closing):
            closing = self._sealing.open(
                closing,
                _in_history(there, seq, closing),
                plain_text=isinstance(closing, RunTerminated),
            )
        bare = replace(event, source=b"")
        match closing:
            case RunCompleted():
                return replace(bare, status="completed", result=closing.result)
            case RunFailed():
                return replace(bare, status="failed", failure=closing.failure)
            case RunCancelled():
                return replace(bare, status="cancelled", reason=closing.reason)
            case RunTerminated():
                return replace(bare, status="terminated", reason=closing.reason)
            case RunTimedOut():
                return replace(bare, status="timed_out", reason=closing.timeout)
            case _:
                raise UndecodablePayload(reason="it does not say how an execution has ended")

    # ------------------------------------------------------------------------- attempts, reasons

    def attempt(self, run: Run, row: AttemptRow) -> AttemptRow:
        """An attempt of an activity, to be stored."""
        if not self._seals:
            return row
        place, sealing = _of_attempt(run, row), self._sealing
        details = row.details
        return replace(
            row,
            error=sealing.seal_text(row.error, place, "error") if row.error else "",
            traceback=sealing.seal_text(row.traceback, place, "traceback") if row.traceback else "",
            details=None if details is None else sealing.seal_bytes(details, place, "details"),
        )

    def open_details(self, run: Run, row: AttemptRow) -> AttemptRow:
        """Only what the next attempt may read. The engine writes errors too, which are plain."""
        if row.details is None:
            return row
        opened = self._sealing.open_bytes(row.details, _of_attempt(run, row), "details")
        return replace(row, details=opened)

    def _show_attempt(self, run: Run, row: AttemptRow) -> AttemptRow:
        place, show = _of_attempt(run, row), self._sealing.show_text
        error, trace = show(row.error, place, "error"), show(row.traceback, place, "traceback")
        return replace(row, error=error, traceback=trace, details=None)

    def reason(self, run: Run, fault: EverlongError) -> str:
        """Why a run is blocked, to be stored. It may quote arguments, so it is sealed as they are.

        The name of the fault stays readable, and what tells of codecs alone: who lacks the key must
        learn which.
        """
        if not self.conceals or type(fault) in _TELL_NOTHING:
            return f"{type(fault).__name__}: {fault}"
        place = _of_reason(run)
        return f"{type(fault).__name__}: {self._sealing.seal_text(str(fault), place, 'reason')}"

    def logged(self, fault: EverlongError) -> str:
        """The same for a log, which is readable."""
        if not self.conceals or type(fault) in _TELL_NOTHING:
            return f"{type(fault).__name__}: {fault}"
        return f"{type(fault).__name__}; `everlong show` tells the rest"

    def shown_reason(self, row: RunRow) -> str | None:
        """The same for people to look at."""
        if row.reason is None:
            return None
        return self._sealing.show_text(row.reason, _of_reason(row), "reason")

    def pause_reason(self, namespace: str, owner: bytes | str, reason: str) -> str:
        """Why somebody pauses an execution (by its id), or a type of workflow (by its name)."""
        if not (self.conceals and reason):
            return reason
        return self._sealing.seal_text(reason, Place(namespace, owner, ("paused",)), "reason")

    def shown_pause_reason(self, row: PauseRow) -> str:
        """The same for people to look at."""
        owner: bytes | str = row.execution_id or row.type or ""
        place = Place(row.namespace, owner, ("paused",))
        return self._sealing.show_text(row.reason, place, "reason")

    # ------------------------------------------------------------------------------- approvals

    def approval(self, row: ApprovalRow, *, for_people: bool = False) -> ApprovalRequested:
        """What a run has requested; for people, what cannot be read says so in its place.

        Raises:
            UndecodablePayload: it is damaged, or a key is missing.
        """
        recorded = row.requested
        if recorded is None:
            raise UndecodablePayload(f"approval {row.number} cannot be read: {row.fault}")
        found = (
            self._show_recorded(row.run, recorded)
            if for_people
            else self._open_recorded(row.run, recorded)
        ).event
        assert isinstance(found, ApprovalRequested)
        return found

    def verdict(self, to: Execution, body: bytes) -> ApprovalAnswered:
        """Who has answered, and what, for people. Raises UndecodablePayload."""
        event = decode_event(CODES[ApprovalAnswered], body, {})
        shown = self._sealing.show(event, _in_mail(to, event))
        assert isinstance(shown, ApprovalAnswered)
        return shown

    # ------------------------------------------------------------------------- published items

    def item(self, execution_id: bytes, to: Execution, item: ItemPublished, at_us: int) -> ItemRow:
        """An item for subscribers, beside its event."""
        payload, number = item.payload, item.number
        if self._seals:
            place = _of_item(to, execution_id, item.channel, number)
            payload = self._sealing.seal_bytes(payload, place, "payload")
        return ItemRow(item.channel, number, at_us, payload, checksum(number, _ITEM, payload))

    def published(self, execution_id: bytes, to: Execution, row: ItemRow) -> bytes:
        """Undo `item`: the payload. Raises UndecodablePayload."""
        place = _of_item(to, execution_id, row.channel, row.number)
        return self._sealing.open_bytes(row.payload, place, "payload")

    # -------------------------------------------------------------------------------- letters

    def letter(self, at: Letter) -> Letter:
        """A message for a broker, as it is stored."""
        payload = at.payload
        if self._seals:
            payload = self._sealing.seal_bytes(payload, _of_letter(at), "payload")
        sealed = replace(at, payload=payload)
        return replace(sealed, checksum=check_of_letter(sealed))

    def in_letter(self, letter: Letter) -> bytes:
        """Undo `letter`: the payload. Raises UndecodablePayload."""
        return self._sealing.open_bytes(letter.payload, _of_letter(letter), "payload")

    # ------------------------------------------------------------------------ states of keys

    def entity_row(
        self, execution_id: bytes, to: Execution, key: str, due_us: int | None, payload: bytes
    ) -> EntityRow:
        """A state with its timers, for its place."""
        if self._seals:
            place = _of_entity(to, execution_id, key)
            payload = self._sealing.seal_bytes(payload, place, "payload")
        return EntityRow(key, due_us, payload, entity_checksum(key, due_us, payload))

    def entity(self, execution_id: bytes, to: Execution, row: EntityRow) -> bytes:
        """Undo `entity_row`: the payload. Raises UndecodablePayload."""
        place = _of_entity(to, execution_id, row.key)
        return self._sealing.open_bytes(row.payload, place, "payload")

    # ------------------------------------------------------------------------------- queries

    def question(self, to: Execution, question_id: bytes, query: str, arguments: bytes) -> bytes:
        """The arguments of a query that goes through the store."""
        place = _of_query(to, question_id, query)
        return self._sealing.seal_bytes(arguments, place, "arguments")

    def asked(self, question: Question) -> bytes:
        """Undo `question`. Raises UndecodablePayload."""
        place = _of_query(question, question.question_id, question.query)
        return self._sealing.open_bytes(question.arguments, place, "arguments")

    def answer(self, question: Question, answer: bytes) -> bytes:
        """An answer that goes through the store."""
        place = _of_query(question, question.question_id, question.query)
        return self._sealing.seal_bytes(answer, place, "answer")

    def refusal(self, question: Question, error: EverlongError) -> bytes:
        """Why there is no answer."""
        place = _of_query(question, question.question_id, question.query)
        return self._sealing.seal_bytes(pack(str(error)), place, "refusal")

    def answered(self, to: Execution, question_id: bytes, query: str, answer: bytes) -> bytes:
        """Undo `answer`. Raises UndecodablePayload."""
        return self._sealing.open_bytes(answer, _of_query(to, question_id, query), "answer")

    def refused(self, to: Execution, question_id: bytes, query: str, refusal: bytes) -> str:
        """Undo `refusal`. A worker that lacks the keys can only refuse in plain words."""
        if not refusal.startswith(ENCRYPTED):
            return str(unpack(refusal))
        place = _of_query(to, question_id, query)
        try:
            return str(unpack(self._sealing.open_bytes(refusal, place, "refusal")))
        except UndecodablePayload as error:
            return note_of(error)


_TELL_NOTHING: Final = (MissingKey, TamperedPayload, PlainPayload)
"""Faults whose words hold nothing of a payload."""


def _in_history(run: Run, seq: int, event: Event) -> Place:
    if isinstance(event, RunTerminated):
        # Its number is given by the store, in the transaction that closes the run.
        return _in_mail(run, event)
    return place_of(run.namespace, run.run_id, f"history of {run.type}", seq, event)


def _for_run(run: Run, event: Event) -> Place:
    if isinstance(event, RunStarted) and event.debounced is not None:
        # Whoever starts does not know which run it will be.
        return Place(run.namespace, event.debounced.key, ("debounced", run.type))
    return place_of(run.namespace, run.run_id, f"inbox of {run.type}", 0, event)


def _in_mail(to: Execution, event: Event) -> Place:
    return place_of(to.namespace, to.workflow_id, "inbox", 0, event)


def _of_attempt(run: Run, row: AttemptRow) -> Place:
    return Place(run.namespace, run.run_id, ("attempt", row.activity_id, row.attempt))


def _of_item(to: Execution, execution_id: bytes, channel: str, number: int) -> Place:
    return Place(to.namespace, execution_id, ("published", to.workflow_id, channel, number))


def _of_letter(letter: Letter) -> Place:
    # Whoever publishes it knows no namespace: it stays when its execution is gone.
    return Place("", letter.run_id, ("letter", letter.outbox, letter.seq, letter.number))


def _of_entity(to: Execution, execution_id: bytes, key: str) -> Place:
    return Place(to.namespace, execution_id, ("entity", to.workflow_id, key))


_ITEM: Final = CODES[ItemPublished]
_TERMINATED: Final = CODES[RunTerminated]


def _of_reason(run: Run) -> Place:
    return Place(run.namespace, run.run_id, ("blocked",))


def _of_update(to: Execution, update_id: str) -> Place:
    return Place(to.namespace, to.workflow_id, ("update", update_id))


def _of_query(to: Execution, question_id: bytes, query: str) -> Place:
    return Place(to.namespace, to.workflow_id, ("query", question_id, query))
