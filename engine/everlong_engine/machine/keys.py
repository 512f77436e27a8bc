"""Starts with keys: when several of them begin together, and as what.

An execution that debounced starts have made takes in others until a worker takes it up. That is a
fact of its row, and stores look at it under a lock that whoever claims takes, too: a start is in
the execution that begins, or makes the next one.
"""

from collections.abc import Iterable
from dataclasses import replace as replace_answer

from msgspec.structs import replace

from everlong_engine.model.codec import Blobs, blob_references, decode_event, encode_event
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import CODES, CancelRequested, RunStarted
from everlong_engine.model.keys import KeyRow, StartKey
from everlong_engine.model.lineage import Debounced
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.model.writes import StartResult, StartRun

__all__ = [
    "begins_us",
    "deduplicated",
    "found",
    "in_window",
    "is_start",
    "replaced_blobs",
    "seen",
    "started_anew",
    "takes_in",
    "to_begin_with",
]

_START = CODES[RunStarted]
_CANCEL = CODES[CancelRequested]


def begins_us(key: StartKey, first_us: int) -> int:
    """When what the newest start has joined begins: what it says counts, from the first one on.

    Once the first has waited for long enough this does not move any more: whoever claims looks at
    the clock before it has its turn at the store, and must find it due all the same."""
    until_us = key.now_us + key.span_us
    return until_us if key.most_us is None else min(until_us, first_us + key.most_us)


def takes_in(run: RunRow, mail: Iterable[int], *, has_turn: bool) -> bool:
    """Whether an execution still waits for starts. `mail` are the kinds of what lies in its inbox;
    with a turn in a pool its key and its priority there are told by what it begins with."""
    if run.status not in (RunStatus.RUNNING, RunStatus.PAUSED) or run.owner is not None:
        return False
    kinds = set(mail)
    has_not_begun = run.next_seq == 1 and run.run_id == run.execution_id
    return has_not_begun and not has_turn and _START in kinds and _CANCEL not in kinds


def is_start(kind: int) -> bool:
    """Whether a message begins an execution."""
    return kind == _START


def to_begin_with(start: StartRun, run: RunRow | None, row: KeyRow) -> tuple[bytes, Blobs]:
    """What an execution is to begin with, now that this start has come: its body, with the spilled
    parts. `run` is the one that it joins, `row` how its key stands with it."""
    key, blobs = start.key, dict(start.blobs or {})
    assert key is not None
    event = decode_event(start.kind, start.body, blobs)
    assert isinstance(event, RunStarted)
    at_us = begins_us(key, row.first_us)
    deadline_us = event.execution_deadline_us
    if deadline_us is not None:  # It counts from the beginning, of which its sender could not know.
        deadline_us += at_us - (event.begins_us or at_us)
    latest_us = None if key.most_us is None else row.first_us + key.most_us
    event = replace(
        event,
        workflow_id=start.run.workflow_id if run is None else run.workflow_id,
        begins_us=at_us,
        execution_deadline_us=deadline_us,
        debounced=Debounced(key.key, row.first_us, latest_us, row.starts),
    )
    spilled: Blobs = {}
    _, body = encode_event(event, spilled)
    return body, spilled


def replaced_blobs(old: bytes, new: Blobs, others: Iterable[bytes]) -> set[bytes]:
    """Spilled parts that only the body referred to which another one has taken the place of. Where
    something cannot be read none: they go with the execution."""
    try:
        kept = {*new, *(digest for body in others for digest in blob_references(body))}
        return set(blob_references(old)) - kept
    except UndecodablePayload:
        return set()


def deduplicated(start: StartRun, key: StartKey, result: StartResult) -> KeyRow | None:
    """What is kept of a key under which nothing was found; None: nothing came of the start."""
    uses = start.if_open == "use" and not (result.refused or result.same_request)
    if not (result.created or uses):
        return None
    return KeyRow(start.run.shard, result.execution_id, key.now_us, key.now_us + key.span_us, 1)


def in_window(key: StartKey, row: KeyRow) -> bool:
    """Whether the key was seen lately."""
    return row.until_us is not None and key.now_us < row.until_us


def seen(run: RunRow, own: bytes) -> StartResult:
    """The answer to a start whose key was seen lately."""
    answer = found(run, own=own, same_request=True, repeated=run.execution_id == own)
    return replace_answer(answer, refused=run.status is RunStatus.MOVED)


def started_anew(start: StartRun) -> tuple[StartRun, KeyRow]:
    """A debounced start that is the first of its execution, and the row of its key."""
    key, run = start.key, start.run
    assert key is not None
    row = KeyRow(run.shard, run.execution_id, key.now_us, None, 1)
    body, blobs = to_begin_with(start, None, row)
    wake_us = begins_us(key, key.now_us)
    return replace(start, body=body, blobs=blobs, wake_us=wake_us, key=None), row


def found(run: RunRow, *, own: bytes, same_request: bool, repeated: bool = False) -> StartResult:
    """The answer to a start that has come to an execution which is there."""
    created = run.execution_id == own
    return StartResult(
        created,
        run.run_id,
        run.execution_id,
        run.status,
        same_request=same_request and not created,
        repeated=repeated,
        workflow_id=run.workflow_id,
    )
