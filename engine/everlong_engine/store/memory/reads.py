"""What is read from memory: nothing here writes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from everlong_engine.model.codec import blob_references, checksum, decode_event
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import CODES, ItemPublished, Recorded
from everlong_engine.model.filters import AnyField, holds, value_of
from everlong_engine.model.limits import PUBLISHED_READ_BYTES_MAX
from everlong_engine.model.runs import (
    ApprovalRow,
    AttemptRow,
    ItemRow,
    LoadedRun,
    MailRow,
    RunRow,
    RunStatus,
    Share,
    VersionCount,
)
from everlong_engine.model.tags import Tags, kind_of
from everlong_engine.model.writes import HistoryRow
from everlong_engine.store.interface import Counted, Question, RunFilter, Wants
from everlong_engine.store.memory.data import MemoryData

__all__ = [
    "approval",
    "approvals",
    "attempts_of",
    "blobs_of",
    "count_runs",
    "due",
    "event",
    "events_of",
    "last_event",
    "list_runs",
    "load_run",
    "mail_of",
    "mail_since",
    "open_questions",
    "published",
    "shares",
    "tags_of",
    "versions",
]


def load_run(data: MemoryData, run: RunRow) -> LoadedRun:
    """A run with everything that hangs on it.

    Raises:
        UndecodablePayload: some of it is damaged.
    """
    blobs = blobs_of(data, run)
    damaged = next((digest for digest in blobs if not _whole(digest, blobs[digest])), None)
    if damaged is not None:
        raise UndecodablePayload(f"the spilled payload {damaged.hex()} is damaged")
    history: list[Recorded] = []
    size = 0
    for row in events_of(data, run.run_id):
        if row[0] != len(history) + 1:
            raise UndecodablePayload(f"event {len(history) + 1} of the history is missing")
        history.append(_recorded(row, blobs))
        size += len(row[3])
    attempts = attempts_of(data, run.run_id)
    return LoadedRun(run, history, mail_of(data, run.execution_id), attempts, size, blobs)


def _recorded(row: HistoryRow, blobs: dict[bytes, bytes]) -> Recorded:
    seq, kind, at_us, body, stored = row
    if checksum(seq, kind, body) != stored:
        raise UndecodablePayload(f"event {seq} of the history has a wrong checksum")
    return Recorded(seq, at_us, decode_event(kind, body, blobs))


def _whole(digest: bytes, content: bytes) -> bool:
    return sha256(content).digest() == digest


def events_of(data: MemoryData, run_id: bytes) -> list[HistoryRow]:
    """A run's events as they lie there."""
    return [data.history.rows[key].row for key in sorted(data.history_of.keys(run_id))]


def event(data: MemoryData, run_id: bytes, seq: int) -> Recorded | None:
    """One event, with no more than it refers to."""
    found = data.history.get((run_id, seq))
    if found is None:
        return None
    spilled = {digest: data.blobs.get(digest) for digest in blob_references(found.row[3])}
    return _recorded(found.row, {key: one for key, one in spilled.items() if one is not None})


def last_event(data: MemoryData, run: RunRow) -> Recorded | None:
    keys = data.history_of.keys(run.run_id)
    if not keys:
        return None
    return _recorded(data.history.rows[max(keys)].row, blobs_of(data, run))


def blobs_of(data: MemoryData, run: RunRow) -> dict[bytes, bytes]:
    """Spilled payloads of a run and of its execution's mail, as far as they are there."""
    uses = (*data.blobs_of_owner.keys(run.run_id), *data.blobs_of_owner.keys(run.execution_id))
    return {digest: data.blobs.rows[digest] for _, digest in uses if digest in data.blobs.rows}


def mail_of(data: MemoryData, execution_id: bytes) -> list[MailRow]:
    """What waits for one execution, in the order in which it was accepted."""
    return [data.mail.rows[position] for position in sorted(data.mail_of.keys(execution_id))]


def mail_since(data: MemoryData, position: int, limit: int) -> list[MailRow]:
    later = sorted(found for found in data.mail.rows if found > position)
    return [data.mail.rows[found] for found in later[:limit]]


def tags_of(data: MemoryData, run_id: bytes) -> Tags:
    """By name."""
    return tuple((key[1], data.tags.rows[key]) for key in sorted(data.tags_of.keys(run_id)))


def attempts_of(data: MemoryData, run_id: bytes) -> list[AttemptRow]:
    """By activity, then by number."""
    return [data.attempts.rows[key] for key in sorted(data.attempts_of.keys(run_id))]


def due(data: MemoryData, wants: Wants) -> list[tuple[int, bytes]]:
    """(when, run id) of all that sleeps with an alarm set and that the worker hosts, the earliest
    first; of two that are due together, the older run."""
    found: list[tuple[int, bytes]] = []
    for kind, version in (*((kind, None) for kind in wants.types), *wants.pinned):
        for run_id in data.to_wake.keys((wants.queue, kind, version)):
            wake_us = data.runs.rows[run_id].wake_us
            assert wake_us is not None, "the index holds nothing else"
            found.append((wake_us, run_id))
    return sorted(found)


def approval(data: MemoryData, run_id: bytes, number: int) -> ApprovalRow | None:
    """One approval with its event."""
    found, run = data.approvals.get((run_id, number)), data.runs.get(run_id)
    if found is None or run is None:
        return None
    event = data.history.get((run_id, found.seq))
    requested = None if event is None else _recorded(event.row, blobs_of(data, run))
    return ApprovalRow(run, number, requested, "", found.answer, found.request)


def approvals(
    data: MemoryData,
    namespace: str,
    workflow_id: str | None,
    after: tuple[bytes, int],
    limit: int,
) -> list[ApprovalRow]:
    """Open ones behind a place."""
    found = (
        approval(data, *key)
        for key, stored in sorted(data.approvals.rows.items(), key=lambda item: item[0])
        if stored.answer is None and key > after
    )
    wanted = [
        one
        for one in found
        if one is not None
        and one.run.namespace == namespace
        and workflow_id in (None, one.run.workflow_id)
    ]
    return wanted[:limit]


def published(
    data: MemoryData, execution_id: bytes, channel: str, number: int, limit: int
) -> list[ItemRow]:
    """Items of a channel from a number on, as many as are to be read at once. Where those are no
    longer kept, from the oldest that is."""
    if (execution_id, channel, number) not in data.published.rows:
        oldest = min(_numbers(data, execution_id, channel), default=number)
        number = max(number, oldest)
    found: list[ItemRow] = []
    size = 0
    while len(found) < limit and size < PUBLISHED_READ_BYTES_MAX:
        item = data.published.get((execution_id, channel, number + len(found)))
        if item is None:
            later = _numbers(data, execution_id, channel)
            if not found and any(one > number for one in later):
                raise UndecodablePayload(
                    f"item {number} of the output channel {channel!r} is missing"
                )
            break
        if checksum(item.number, CODES[ItemPublished], item.payload) != item.checksum:
            if found:
                break
            raise UndecodablePayload(f"item {number} of the output channel {channel!r} is damaged")
        found.append(item)
        size += len(item.payload)
    return found


def _numbers(data: MemoryData, execution_id: bytes, channel: str) -> list[int]:
    return [key[2] for key in data.published_of.keys(execution_id) if key[1] == channel]


def list_runs(data: MemoryData, wanted: RunFilter, limit: int, after: bytes | None) -> list[RunRow]:
    """Newest first, from behind `after`."""
    found = [run for run in _wanted(data, wanted) if after is None or run.run_id < after]
    return sorted(found, key=lambda run: run.run_id, reverse=True)[:limit]


def count_runs(data: MemoryData, wanted: RunFilter, by: AnyField | None) -> list[Counted]:
    """How many there are, by what they have in a field."""
    if by is None:
        return [(None, sum(1 for _ in _wanted(data, wanted)))]
    counts: dict[object, list[Any]] = {}
    for run in _wanted(data, wanted):
        value = value_of(by, run, dict(tags_of(data, run.run_id)), wanted.now_us)
        key = (None if value is None else kind_of(value), value)
        counts.setdefault(key, [value, 0])[1] += 1
    return [(value, count) for value, count in counts.values()]


def _wanted(data: MemoryData, wanted: RunFilter) -> Iterator[RunRow]:
    status = None if wanted.status is None else RunStatus[wanted.status.upper()]
    where = wanted.where
    for run in data.runs.rows.values():
        if (
            run.namespace == wanted.namespace
            and (status is None or run.status is status)
            and (wanted.type is None or run.type == wanted.type)
            and (wanted.workflow_id is None or run.workflow_id == wanted.workflow_id)
            and (wanted.behind is None or run.run_id > wanted.behind)
            and (where is None or holds(where, run, dict(tags_of(data, run.run_id)), wanted.now_us))
        ):
            yield run


def versions(data: MemoryData, namespace: str) -> list[VersionCount]:
    """The open runs by type and version; of one type, those that follow come first."""
    here = [
        run for run in data.runs.rows.values() if run.namespace == namespace and run.status.is_open
    ]
    counts = Counter((run.type, run.version, run.status) for run in here)
    found = sorted({(run.type, run.version) for run in here}, key=_by_version)
    return [
        VersionCount(
            *one,
            counts[*one, RunStatus.RUNNING] + counts[*one, RunStatus.PAUSED],
            counts[*one, RunStatus.BLOCKED],
        )
        for one in found
    ]


def shares(data: MemoryData, queue: str, types: Sequence[str], now_us: int) -> list[Share]:
    """How runs of these types lie with workers."""
    found = Counter(
        (run.type, run.version, run.owner)
        for run in data.runs.rows.values()
        if run.type in types
        and run.queue == queue
        and run.status is RunStatus.RUNNING
        and (run.owner is not None or (run.wake_us is not None and run.wake_us <= now_us))
    )
    in_order = sorted(found, key=lambda one: (_by_version(one[:2]), one[2] or b""))
    return [Share(*one, found[one]) for one in in_order]


def _by_version(one: tuple[str, str | None]) -> tuple[bytes, bool, bytes]:
    return one[0].encode(), one[1] is not None, (one[1] or "").encode()


def open_questions(data: MemoryData, limit: int) -> list[Question]:
    """Those without an answer, the oldest first."""
    waiting = [asked for asked in data.questions.rows.values() if asked.answer is None]
    waiting.sort(key=lambda asked: (asked.asked_us, asked.question.question_id))
    return [asked.question for asked in waiting[:limit]]
