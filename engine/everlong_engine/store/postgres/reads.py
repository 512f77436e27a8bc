"""What is read from a PostgreSQL store, of many runs at once where many are wanted."""

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final, TypeAlias, cast

from everlong_engine.model.codec import blob_references, checksum, decode_event
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import CODES, ItemPublished, Recorded
from everlong_engine.model.limits import INSTANT_US_MAX, PUBLISHED_READ_BYTES_MAX
from everlong_engine.model.runs import (
    ApprovalRow,
    AttemptRow,
    AttemptState,
    Fleet,
    ItemRow,
    LoadedRun,
    MailRow,
    Member,
    RunRow,
    Share,
    VersionCount,
    WorkerRow,
    queues_of,
)
from everlong_engine.store.interface import Question, RunFilter, StoreInfo
from everlong_engine.store.postgres.filters import select_runs
from everlong_engine.store.postgres.migrations import GUARDS
from everlong_engine.store.postgres.rows import read_run, run_row
from everlong_engine.store.postgres.statements import Tx

__all__ = [
    "Unread",
    "approval",
    "approvals",
    "attempt_at",
    "attempts_of",
    "blobs_of",
    "event",
    "fleet",
    "info",
    "last_event",
    "list_runs",
    "load_history",
    "load_run",
    "load_runs",
    "mail_of_workers",
    "mail_since",
    "many",
    "open_questions",
    "pinned_of",
    "published",
    "shares",
    "versions",
    "workers",
]

Unread: TypeAlias = tuple[RunRow, UndecodablePayload]


async def load_run(tx: Tx, row: RunRow) -> LoadedRun:
    """A run with everything that hangs on it.

    Raises:
        UndecodablePayload: some of it is damaged.
    """
    (found,) = await load_runs(tx, [row])
    if isinstance(found, LoadedRun):
        return found
    raise found[1]


async def load_runs(tx: Tx, rows: Sequence[RunRow]) -> list[LoadedRun | Unread]:
    """Runs with everything that hangs on them, in four statements; what cannot be read, and why."""
    if not rows:
        return []
    runs = [(row.shard, row.run_id) for row in rows]
    executions = [(row.shard, row.execution_id) for row in rows]
    owners = list(dict.fromkeys([*runs, *executions]))
    blobs = _grouped(await tx.rows("blobs_of", owners))
    histories = _grouped(await tx.rows("history_of", runs))
    attempts = _grouped(await tx.rows("attempts_of", runs))
    mail: dict[bytes, list[MailRow]] = {}
    for values in await tx.rows("mail_of", executions):
        mail.setdefault(values["execution_id"], []).append(MailRow(*values))
    loaded: list[LoadedRun | Unread] = []
    for row in rows:
        spilled = [*blobs.get(row.run_id, ()), *blobs.get(row.execution_id, ())]
        try:
            whole = _checked_blobs(spilled)
            history, size = load_history(row, histories.get(row.run_id, ()), whole)
            tried = [_attempt(values) for values in attempts.get(row.run_id, ())]
        except UndecodablePayload as error:
            loaded.append((row, error))
            continue
        waiting = mail.get(row.execution_id, [])
        loaded.append(LoadedRun(row, history, waiting, tried, size, whole))
    return loaded


def _grouped(rows: Iterable[Any]) -> dict[bytes, list[tuple[Any, ...]]]:
    """Rows by their first column, without it."""
    found: dict[bytes, list[tuple[Any, ...]]] = {}
    for key, *values in rows:
        found.setdefault(key, []).append(tuple(values))
    return found


def _checked_blobs(rows: Iterable[tuple[Any, ...]]) -> dict[bytes, bytes]:
    """Spilled payloads, each checked against the digest that it goes by."""
    blobs: dict[bytes, bytes] = {}
    for digest, data in rows:
        if sha256(data).digest() != digest:
            raise UndecodablePayload(f"the spilled payload {digest.hex()} is damaged")
        blobs[digest] = data
    return blobs


async def blobs_of(tx: Tx, row: RunRow) -> dict[bytes, bytes]:
    """Those of a run and of its execution's mail."""
    owners = list(dict.fromkeys([(row.shard, row.run_id), (row.shard, row.execution_id)]))
    return _checked_blobs(values[1:] for values in await tx.rows("blobs_of", owners))


def load_history(
    row: RunRow, rows: Iterable[tuple[Any, ...]], blobs: dict[bytes, bytes]
) -> tuple[list[Recorded], int]:
    """A run's events, checked: gapless, each with its checksum; and their size in bytes."""
    history: list[Recorded] = []
    size = expected = 0
    for found in rows:
        expected += 1
        if found[0] != expected:
            raise UndecodablePayload(f"event {expected} of the history is missing")
        history.append(_recorded(found, blobs))
        size += len(found[3])
    if expected + 1 != row.next_seq:
        raise UndecodablePayload(
            f"the run expects event {row.next_seq}, its history ends at {expected}"
        )
    return history, size


def _recorded(found: Sequence[Any], blobs: dict[bytes, bytes]) -> Recorded:
    seq, kind, at_us, body, stored = found
    if checksum(seq, kind, body) != stored:
        raise UndecodablePayload(f"event {seq} of the history has a wrong checksum")
    try:
        event = decode_event(kind, body, blobs)
    except UndecodablePayload as error:
        raise UndecodablePayload(f"event {seq} of the history cannot be read: {error}") from error
    if not 0 <= at_us <= INSTANT_US_MAX:
        raise UndecodablePayload(f"event {seq} of the history is at {at_us}, no instant")
    return Recorded(seq, at_us, event)


async def event(tx: Tx, shard: int, run_id: bytes, seq: int) -> Recorded | None:
    """One event, with no more than it refers to. Raises UndecodablePayload."""
    return await recorded(tx, shard, await tx.one("event_at", (shard, run_id, seq)))


async def recorded(tx: Tx, shard: int, found: Sequence[Any] | None) -> Recorded | None:
    """An event from its row. Raises UndecodablePayload."""
    if found is None:
        return None
    spilled = [
        (digest, await tx.one("blob_at", (shard, digest))) for digest in blob_references(found[3])
    ]
    there = [(digest, data[0]) for digest, data in spilled if data is not None]
    return _recorded(found, _checked_blobs(there))


async def last_event(tx: Tx, row: RunRow) -> Recorded | None:
    """How a run ended. Raises UndecodablePayload."""
    found = await tx.one("last_event", (row.shard, row.run_id))
    return None if found is None else _recorded(found, await blobs_of(tx, row))


async def attempts_of(tx: Tx, shard: int, run_id: bytes) -> list[AttemptRow]:
    return [_attempt(values[1:]) for values in await tx.rows("attempts_of", [(shard, run_id)])]


async def attempt_at(
    tx: Tx, shard: int, run_id: bytes, activity_id: int, attempt: int
) -> AttemptRow | None:
    found = await tx.one("attempt_at", (shard, run_id, activity_id, attempt))
    return None if found is None else _attempt(found)


def _attempt(values: Sequence[Any]) -> AttemptRow:
    return AttemptRow(
        activity_id=values[0],
        attempt=values[1],
        state=AttemptState(values[2]),
        started_us=values[3],
        ended_us=values[4],
        retry_us=values[5],
        error_type=values[6],
        error=values[7],
        traceback=values[8],
        worker=values[9],
        details=values[10],
    )


async def approval(tx: Tx, shard: int, run_id: bytes, number: int) -> ApprovalRow | None:
    """One approval with its event."""
    found = await tx.one("approval_at", (shard, run_id, number))
    row = await read_run(tx, shard, run_id)
    if found is None or row is None:
        return None
    _, seq, answer, request = found
    try:
        event = await tx.one("event_at", (shard, run_id, seq))
        if event is None:
            raise UndecodablePayload(f"event {seq} of the history is missing")
        requested = _recorded(event, await blobs_of(tx, row))
        if getattr(requested.event, "approval_id", None) != number:
            raise UndecodablePayload(f"event {seq} of the history requests no such approval")
    except UndecodablePayload as error:
        return ApprovalRow(row, number, None, str(error), answer, request)
    return ApprovalRow(row, number, requested, "", answer, request)


async def approvals(
    tx: Tx, namespace: str, workflow_id: str | None, after: tuple[bytes, int], limit: int
) -> list[ApprovalRow]:
    """Open ones behind a place."""
    rows: list[ApprovalRow] = []
    key = (*after, namespace, workflow_id, limit)
    for shard, run_id, number in await tx.all("open_approvals", key):
        found = await approval(tx, shard, run_id, number)
        if found is not None:
            rows.append(found)
    return rows


async def published(
    tx: Tx, shard: int, execution_id: bytes, channel: str, number: int, limit: int
) -> list[ItemRow]:
    """Items of a channel from a number on, as many as are to be read at once. Where those are no
    longer kept, from the oldest that is.

    Raises:
        UndecodablePayload: the first of them is damaged, or missing between others. One behind it
            only ends what is read, so that it hides nothing.
    """
    found: list[ItemRow] = []
    size = 0
    rows = await tx.all("published_from", (shard, execution_id, channel, number, limit))
    if rows and rows[0]["number"] > number:
        before = (shard, execution_id, channel, number)
        if await tx.one("published_before", before) is None:
            number = rows[0]["number"]
    for values in rows:
        try:
            item = _item(channel, number + len(found), values)
        except UndecodablePayload:
            if not found:
                raise
            break
        found.append(item)
        size += len(item.payload)
        if size >= PUBLISHED_READ_BYTES_MAX:
            break
    return found


def _item(channel: str, number: int, values: Sequence[Any]) -> ItemRow:
    name = f"item {number} of the output channel {channel!r:.100}"
    item = ItemRow(*values)
    if item.number != number:
        raise UndecodablePayload(f"{name} is missing")
    if checksum(number, _PUBLISHED, item.payload) != item.checksum:
        raise UndecodablePayload(f"{name} has a wrong checksum")
    return item


_PUBLISHED: Final = CODES[ItemPublished]


async def list_runs(tx: Tx, wanted: RunFilter, limit: int, after: bytes | None) -> list[RunRow]:
    """Newest first, from behind `after`. Run ids are time-ordered, so they are the order."""
    text, values = select_runs(wanted, limit, after)
    return [run_row(found) for found in await tx.text(text, values)]


async def mail_since(tx: Tx, position: int, limit: int) -> list[MailRow]:
    return [MailRow(*values) for values in await tx.all("mail_since", (position, limit))]


async def mail_of_workers(tx: Tx, workers: Sequence[bytes], limit: int) -> list[MailRow]:
    """What lies there for runs in their hands, and what only they must read."""
    found = await tx.all("mail_of_workers", (workers, limit))
    return [MailRow(*values) for values in found]


async def open_questions(tx: Tx, limit: int) -> list[Question]:
    return [Question(*values) for values in await tx.all("open_questions", (limit,))]


async def workers(tx: Tx) -> list[WorkerRow]:
    """Whoever has registered."""
    return [_worker_row(values) for values in await tx.all("list_workers")]


async def fleet(tx: Tx) -> Fleet:
    """Who is here, and in which versions."""
    members: list[Member] = []
    found = await tx.all("fleet")
    for _, host, pid, started_us, types, versions, left_us, queue in found:
        if host is not None:
            hosted = tuple(zip(_names(types), _names(versions), strict=False))
            members.append(Member((host, pid), started_us, hosted, left_us, queues_of(queue)))
    return Fleet(found[0][0], tuple(members))


def _worker_row(values: Sequence[Any]) -> WorkerRow:
    return WorkerRow(
        worker_id=values[0],
        name=values[1],
        pid=values[2],
        host=values[3],
        started_us=values[4],
        beat_us=values[5],
        dead=values[6],
        types=_names(values[8]),
        versions=_names(values[9]),
        gone=values[10] and not values[6],
        slots=values[11],
        busy=values[12],
        queues=queues_of(values[7]),
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(str(one) for one in cast("list[object]", json.loads(text)))


async def versions(tx: Tx, namespace: str) -> list[VersionCount]:
    """The open runs by type and version, those that are pinned to none first."""
    return [VersionCount(*values) for values in await tx.all("open_versions", (namespace,))]


async def pinned_of(tx: Tx, worker_id: bytes) -> list[tuple[bytes, str]]:
    """What bears a worker's name and is pinned, with the version."""
    return [(run_id, version) for run_id, version in await tx.all("pinned_of", (worker_id,))]


async def shares(tx: Tx, queue: str, types: Sequence[str], now_us: int) -> list[Share]:
    """How runs of these types lie with workers."""
    return [Share(*values) for values in await tx.all("shares", (queue, list(types), now_us))]


async def info(path: str, tx: Tx) -> StoreInfo:
    """Settings as they are in force on this connection."""
    settings: dict[str, str] = dict(await tx.all("settings"))
    warnings = [
        f"{name} is off: {what}" for name, what in _DANGEROUS.items() if settings.get(name) == "off"
    ]
    warnings += [
        f"{name} is 0: a process that is stopped in a transaction holds up all others; run "
        "`everlong migrate` with the role of the workers, or say ALTER ROLE … IN DATABASE … "
        f"SET {name} = '{value}'"
        for name, value in GUARDS.items()
        if settings.get(name) == "0"
    ]
    version = settings.pop("server_version", "?")
    return StoreInfo(path, f"PostgreSQL {version}", settings, tuple(warnings))


_DANGEROUS: Final = {
    "synchronous_commit": "a crash of the server may lose acknowledged work",
    "fsync": "a power cut may damage the whole database",
    "full_page_writes": "a power cut may damage the whole database",
}


def many(values: Sequence[str]) -> str:
    """A list as a text."""
    return json.dumps(list(values))
