"""What a store completes of a reset in its transaction, on bytes: no key is needed for it. Pure."""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from everlong_engine.model.codec import Blobs, checksum, decode_event, encode_event
from everlong_engine.model.events import (
    CODES,
    ChildClosed,
    ChildStarted,
    ChildStartFailed,
    ExternalAnswered,
    Numbers,
    RunStarted,
    SignalReceived,
    SignalRejected,
    UpdateCompleted,
    UpdateFailed,
    UpdateReceived,
)
from everlong_engine.model.writes import HistoryRow

__all__ = [
    "ANSWER_KINDS",
    "MESSAGE_KINDS",
    "SAID_KINDS",
    "UNSEEN_KINDS",
    "completed",
    "completed_start",
    "readdressed",
    "unknown",
]

MESSAGE_KINDS: Final = (CODES[SignalReceived], CODES[SignalRejected], CODES[UpdateReceived])
"""What is fed to the new run once more, if it came behind the point."""
ANSWER_KINDS: Final = tuple(
    CODES[kind] for kind in (ChildStarted, ChildStartFailed, ChildClosed, ExternalAnswered)
)
SAID_KINDS: Final = (*MESSAGE_KINDS, *ANSWER_KINDS)
"""What others have said, and what lies in the inbox for whichever run there is."""
UNSEEN_KINDS: Final = (*SAID_KINDS, CODES[UpdateCompleted], CODES[UpdateFailed])
"""What must not stand behind what a resetter has read: it lies in the inbox no more, is not in what
was planned to be fed again, and what its sender was told would be taken back."""


def completed(first: HistoryRow, published: Numbers, blobs: Blobs) -> HistoryRow:
    """The first event of a copy, which says where the channels go on behind it."""
    seq, kind, at_us, body, _ = first
    event = decode_event(kind, body, blobs)
    assert isinstance(event, RunStarted)
    assert event.reset is not None
    last = replace(event.reset.copied[-1], published=published)
    reset = replace(event.reset, copied=(*event.reset.copied[:-1], last))
    kind, body = encode_event(replace(event, reset=reset), blobs)
    return seq, kind, at_us, body, checksum(seq, kind, body)


def completed_start(
    start: tuple[int, bytes], published: Numbers, blobs: Blobs
) -> tuple[int, bytes]:
    """The same for a run that copies nothing."""
    event = decode_event(*start, blobs)
    assert isinstance(event, RunStarted)
    return encode_event(replace(event, published=published), blobs)


def readdressed(
    kind: int, body: bytes, stored: Mapping[bytes, bytes], run: bytes, to: bytes
) -> tuple[int, tuple[int, bytes], Blobs] | None:
    """An answer from another execution that was for `run` and was not fed: its number, and the
    message for the run `to`. None for one that was for somebody else."""
    event = decode_event(kind, body, stored)
    match event:
        case ChildStarted() | ChildStartFailed() | ChildClosed():
            number = event.child_id
        case ExternalAnswered():
            number = event.call_id
        case _:
            return None
    if event.run != run:
        return None
    blobs: Blobs = {}
    return number, encode_event(replace(event, run=to), blobs), blobs


def unknown(number: int, run: bytes) -> tuple[int, bytes]:
    """The end of an execution that went with its retention."""
    reason = "how it ended is not known any more: it went with its retention"
    return encode_event(ChildClosed(number, run, status="terminated", reason=reason), {})
