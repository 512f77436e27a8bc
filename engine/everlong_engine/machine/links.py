"""What executions tell each other: mail that a store writes itself, in the causing transaction.

No key is at hand there, and none is needed. The end of an execution goes to whoever waits for it as
the closing event just as it is stored, with the place to which its secrets are bound; the waiting
run's worker opens it. What the engine adds (reasons, answers) holds no secret.
"""

from typing import Final

from everlong_engine.model.codec import Blobs, blob_references, encode_event
from everlong_engine.model.events import (
    KINDS,
    CancelRequested,
    ChildClosed,
    ChildStarted,
    ChildStartFailed,
    ExternalAnswered,
    RunTerminated,
)
from everlong_engine.model.payload import pack
from everlong_engine.model.runs import Link, RunRow

__all__ = [
    "NOT_FOUND",
    "Letter",
    "answer",
    "cancellation",
    "cancellation_by_reset",
    "end",
    "refused",
    "replacement",
    "started",
    "termination",
    "termination_by_reset",
]

NOT_FOUND: Final = "not_found"

Letter = tuple[int, bytes, Blobs, tuple[bytes, ...]]
"""(kind, body, payloads that spill, digests of payloads that are stored already)."""


def end(link: Link, closed: RunRow, seq: int, kind: int, body: bytes) -> Letter:
    """How an execution has ended, for one that waits for it."""
    source = pack([closed.run_id, closed.type, closed.workflow_id, seq, kind, body])
    return _letter(ChildClosed(link.number, link.waiter_run, source=source), blob_references(body))


def termination(parent: RunRow, kind: int) -> tuple[int, bytes]:
    """What ends a child together with its parent."""
    return _plain(RunTerminated(_reason(parent, kind)))


def cancellation(parent: RunRow, kind: int) -> tuple[int, bytes]:
    """What asks a child to end behind its parent."""
    return _plain(CancelRequested(_reason(parent, kind)))


def termination_by_reset(parent: RunRow) -> tuple[int, bytes]:
    """What ends a child that its parent knows nothing of any more."""
    return _plain(RunTerminated(_reset(parent)))


def cancellation_by_reset(parent: RunRow) -> tuple[int, bytes]:
    """What asks it to end."""
    return _plain(CancelRequested(_reset(parent)))


def _reset(parent: RunRow) -> str:
    return f"its parent {parent.workflow_id} was reset to before it began"


def replacement() -> tuple[int, bytes]:
    """What ends an execution whose workflow id a child is to have."""
    return _plain(RunTerminated("another one was started in its place"))


def started(number: int, run: bytes, execution: bytes) -> tuple[int, bytes]:
    return _plain(ChildStarted(number, run, execution))


def refused(number: int, run: bytes, status: str) -> tuple[int, bytes]:
    return _plain(ChildStartFailed(number, run, status))


def answer(number: int, run: bytes, problem: str) -> tuple[int, bytes]:
    """What came of a message; no problem is ""."""
    return _plain(ExternalAnswered(number, run, problem))


_ENDS = {
    "RunCompleted": "completed",
    "RunFailed": "failed",
    "RunCancelled": "was cancelled",
    "RunTerminated": "was terminated",
    "RunTimedOut": "timed out",
}


def _reason(parent: RunRow, kind: int) -> str:
    return f"its parent {parent.workflow_id} {_ENDS[KINDS[kind].__name__]}"


def _plain(
    event: CancelRequested | RunTerminated | ChildStarted | ChildStartFailed | ExternalAnswered,
) -> tuple[int, bytes]:
    return encode_event(event, {})


def _letter(event: ChildClosed, references: tuple[bytes, ...]) -> Letter:
    blobs: Blobs = {}
    kind, body = encode_event(event, blobs)
    return kind, body, blobs, references
