"""What is read from a SQLite store: plain functions on a `sqlite3.Connection`."""

import json
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from hashlib import sha256
from sqlite3 import Connection, DataError
from typing import Any, Final, cast

from everlong_engine.model.codec import blob_references, checksum, decode_event
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import CODES, ItemPublished, Recorded
from everlong_engine.model.limits import INSTANT_US_MAX, PUBLISHED_READ_BYTES_MAX, ROW_BYTES_MAX
from everlong_engine.model.runs import (
    ApprovalRow,
    AttemptRow,
    AttemptState,
    ItemRow,
    LoadedRun,
    MailRow,
    Probation,
    RunRow,
    RunStatus,
    Share,
    VersionCount,
    WorkerRow,
    queues_of,
)
from everlong_engine.store.interface import Question, RunFilter
from everlong_engine.store.sqlite.columns import (
    APPROVAL,
    COLUMNS,
    ITEM,
    MAIL,
    Column,
    as_id,
    fetch_one,
    is_too_big,
    named,
    wrong,
)
from everlong_engine.store.sqlite.filters import select_runs
from everlong_engine.store.sqlite.rows import read_run
from everlong_engine.store.sqlite.statements import SQL

__all__ = [
    "ALL_ROWS",
    "approval",
    "approvals",
    "attempt_at",
    "attempts_of",
    "blobs_of",
    "event",
    "last_event",
    "list_runs",
    "load_history",
    "load_run",
    "mail_since",
    "many",
    "open_questions",
    "pinned_of",
    "published",
    "shares",
    "versions",
    "workers",
]

ALL_ROWS: Final = 1 << 60


def load_run(tx: Connection, row: RunRow) -> LoadedRun:
    """A run with everything that hangs on it.

    Raises:
        UndecodablePayload: some of it is damaged; who else is there is not concerned.
    """
    try:
        blobs = blobs_of(tx, row)
        history, size = load_history(tx, row, blobs)
        mail = [
            _mail_row(values)
            for values in tx.execute(SQL["mail_of"], (row.shard, row.execution_id)).fetchall()
        ]
        attempts = attempts_of(tx, row.shard, row.run_id)
    except DataError as error:
        raise _too_big(error) from error
    return LoadedRun(row, history, mail, attempts, size, blobs)


def blobs_of(tx: Connection, row: RunRow) -> dict[bytes, bytes]:
    """Spilled payloads, each checked against the digest that it goes by."""
    blobs: dict[bytes, bytes] = {}
    for digest, data in tx.execute(SQL["blobs_of"], (row.shard, row.run_id, row.execution_id)):
        if not isinstance(data, bytes) or sha256(data).digest() != digest:
            raise UndecodablePayload(f"the spilled payload {_hex(digest)} is damaged")
        blobs[digest] = data
    return blobs


def load_history(
    tx: Connection, row: RunRow, blobs: dict[bytes, bytes]
) -> tuple[list[Recorded], int]:
    """A run's events, checked: gapless, each with its checksum; and their size in bytes."""
    history: list[Recorded] = []
    size = expected = 0
    # One after the other, so that nothing is spent on what lies behind a damaged one.
    with closing(tx.execute(SQL["history_of"], (row.shard, row.run_id, 1, ALL_ROWS))) as rows:
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


def _recorded(found: tuple[Any, ...], blobs: dict[bytes, bytes]) -> Recorded:
    seq, kind, at_us, body, stored = found
    try:
        if checksum(seq, kind, body) != stored:
            raise UndecodablePayload(f"event {seq} of the history has a wrong checksum")
        event = decode_event(kind, body, blobs)
        if not 0 <= at_us <= INSTANT_US_MAX or type(at_us) is not int:
            raise UndecodablePayload(reason=f"{at_us} is no instant")
    except TypeError as error:  # A column of another type than it was written with.
        raise UndecodablePayload(f"event {seq!r} of the history is damaged: {error}") from error
    except UndecodablePayload as error:
        if f"event {seq} " in str(error):
            raise
        raise UndecodablePayload(f"event {seq} of the history cannot be read: {error}") from error
    return Recorded(seq, at_us, event)


def _mail_row(values: tuple[Any, ...]) -> MailRow:
    fault = wrong(MAIL, values)
    if fault is not None:
        raise UndecodablePayload(f"message {values[0]} of the inbox is damaged: {fault}")
    return MailRow(*values)


def _too_big(error: DataError) -> UndecodablePayload:
    """Raises what it was given, if it is something else."""
    if not is_too_big(error):
        raise error
    return UndecodablePayload(f"a row of it is larger than {ROW_BYTES_MAX} bytes")


def _hex(digest: object) -> str:
    return digest.hex() if isinstance(digest, bytes) else repr(digest)


def event(tx: Connection, shard: int, run_id: bytes, seq: int) -> Recorded | None:
    """One event, with no more than it refers to. Raises UndecodablePayload."""
    try:
        found = tx.execute(SQL["event_at"], (shard, run_id, seq)).fetchone()
        if found is None:
            return None
        blobs: dict[bytes, bytes] = {}
        for digest in blob_references(found[3]) if isinstance(found[3], bytes) else ():
            (data,) = tx.execute(SQL["blob_at"], (shard, digest)).fetchone() or (None,)
            if not isinstance(data, bytes) or sha256(data).digest() != digest:
                raise UndecodablePayload(f"the spilled payload {_hex(digest)} is damaged")
            blobs[digest] = data
        return _recorded(found, blobs)
    except DataError as error:
        raise _too_big(error) from error


def last_event(tx: Connection, row: RunRow) -> Recorded | None:
    """How a run ended. Raises UndecodablePayload."""
    try:
        found = tx.execute(SQL["last_event"], (row.shard, row.run_id)).fetchone()
        return None if found is None else _recorded(found, blobs_of(tx, row))
    except DataError as error:
        raise _too_big(error) from error


def attempts_of(tx: Connection, shard: int, run_id: bytes) -> list[AttemptRow]:
    return [_attempt(values) for values in tx.execute(SQL["attempts_of"], (shard, run_id))]


def attempt_at(
    tx: Connection, shard: int, run_id: bytes, activity_id: int, attempt: int
) -> AttemptRow | None:
    found = tx.execute(SQL["attempt_at"], (shard, run_id, activity_id, attempt)).fetchone()
    return None if found is None else _attempt(found)


def _attempt(values: Sequence[Any]) -> AttemptRow:
    fault = wrong(_ATTEMPT, values)
    if fault is not None:
        raise UndecodablePayload(
            f"attempt {values[1]!r:.20} of activity {values[0]!r:.20} is damaged: {fault}"
        )
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


def approval(tx: Connection, shard: int, run_id: bytes, number: int) -> ApprovalRow | None:
    """One approval with its event.

    Raises:
        UndecodablePayload: its own row is damaged, or that of its run.
    """
    name = f"approval {number} of run {named(run_id)}"
    found = fetch_one(tx, SQL["approval_at"], (shard, run_id, number), name)
    row = read_run(tx, shard, run_id)
    if found is None or row is None:
        return None
    fault = wrong(APPROVAL, found)
    if fault is not None:
        raise UndecodablePayload(f"{name} is damaged: {fault}")
    _, seq, answer, request = found
    try:
        event = tx.execute(SQL["event_at"], (shard, run_id, seq)).fetchone()
        if event is None:
            raise UndecodablePayload(f"event {seq} of the history is missing")
        requested = _recorded(event, blobs_of(tx, row))
        if getattr(requested.event, "approval_id", None) != number:
            raise UndecodablePayload(f"event {seq} of the history requests no such approval")
    except DataError as error:
        return ApprovalRow(row, number, None, str(_too_big(error)), answer, request)
    except UndecodablePayload as error:
        return ApprovalRow(row, number, None, str(error), answer, request)
    return ApprovalRow(row, number, requested, "", answer, request)


def approvals(
    tx: Connection,
    namespace: str,
    workflow_id: str | None,
    after: tuple[bytes, int],
    limit: int,
) -> list[ApprovalRow]:
    """Open ones behind a place. Those whose rows cannot be read are left to `verify`, which names
    them."""
    key = (*after, namespace, workflow_id, limit)
    rows: list[ApprovalRow] = []
    for shard, run_id, number in tx.execute(SQL["open_approvals"], key).fetchall():
        with suppress(UndecodablePayload):
            found = approval(tx, shard, run_id, number)
            if found is not None:
                rows.append(found)
    return rows


def published(
    tx: Connection, shard: int, execution_id: bytes, channel: str, number: int, limit: int
) -> list[ItemRow]:
    """Items of a channel from a number on, as many as are to be read at once. Where those are no
    longer kept, from the oldest that is.

    Raises:
        UndecodablePayload: the first of them is damaged, or missing between others. One behind it
            only ends what is read, so that it hides nothing.
    """
    found: list[ItemRow] = []
    size = 0
    key = (shard, execution_id, channel, number, limit)
    try:
        with closing(tx.execute(SQL["published_from"], key)) as rows:
            for values in rows:
                if not found and type(values[1]) is int and values[1] > number:
                    before = (shard, execution_id, channel, number)
                    if tx.execute(SQL["published_before"], before).fetchone() is None:
                        number = values[1]
                item = _item(channel, number + len(found), values)
                found.append(item)
                size += len(item.payload)
                if size >= PUBLISHED_READ_BYTES_MAX:
                    break
    except DataError as error:
        if not found:
            raise _too_big(error) from error
    except UndecodablePayload:
        if not found:
            raise
    return found


def _item(channel: str, number: int, values: tuple[Any, ...]) -> ItemRow:
    name = f"item {number} of the output channel {channel!r:.100}"
    fault = wrong(ITEM, values)
    if fault is not None:
        raise UndecodablePayload(f"{name} is damaged: {fault}")
    item = ItemRow(*values)
    if item.number != number:
        raise UndecodablePayload(f"{name} is missing")
    if checksum(number, _PUBLISHED, item.payload) != item.checksum:
        raise UndecodablePayload(f"{name} has a wrong checksum")
    return item


_PUBLISHED: Final = CODES[ItemPublished]


def list_runs(tx: Connection, wanted: RunFilter, limit: int, after: bytes | None) -> list[RunRow]:
    """Newest first, from behind `after`. Run ids are time-ordered, so they are the order.

    A row that cannot be read stands among them as a blocked one with the reason, so that it hides
    none of the others.
    """
    text, values = select_runs(wanted, limit, after)
    found = tx.execute(text, values).fetchall()
    return [_listed(tx, shard, run_id, wanted.namespace) for shard, run_id in found]


def _listed(tx: Connection, shard: int, run_id: bytes, namespace: str) -> RunRow:
    try:
        row = read_run(tx, shard, run_id)
        if row is None:  # What was made of an id that is no UTF-8 finds nothing.
            raise UndecodablePayload(reason=f"the run's id is {named(run_id)}")
    except UndecodablePayload as error:
        return RunRow(
            shard=0,
            run_id=as_id(run_id) or bytes(16),
            execution_id=bytes(16),
            namespace=namespace,
            workflow_id=_text_of(tx, "workflow_id", shard, run_id),
            type=_text_of(tx, "type", shard, run_id),
            queue="",
            status=RunStatus.BLOCKED,
            next_seq=1,
            lease_token=0,
            owner=None,
            wake_us=None,
            started_us=0,
            closed_us=None,
            losses=0,
            strikes=0,
            probation=Probation.NONE,
            reason=str(error),
            request_id=None,
        )
    return row


def _text_of(tx: Connection, column: str, shard: int, run_id: bytes) -> str:
    # The column is one of ours; every value is a parameter.
    text = f"SELECT substr({column}, 1, 200) FROM runs WHERE shard = ? AND run_id = ?"
    try:
        (value,) = tx.execute(text, (shard, run_id)).fetchone() or ("?",)
    except DataError:
        return "?"
    return value if isinstance(value, str) else repr(value)


def mail_since(tx: Connection, position: int, limit: int) -> list[MailRow]:
    """A hint. Of a damaged message only its place is told: what becomes of its run is decided where
    that is loaded."""
    try:
        found = tx.execute(SQL["mail_since"], (position, limit)).fetchall()
    except DataError as error:
        _too_big(error)
        keys = tx.execute(SQL["mail_behind"], (position, limit)).fetchall()
        whole = {values[0]: values for values in _each(tx, "inbox", "mail_at", keys)}
        found = [whole.get(key, (key, None)) for (key,) in keys]
    return [
        MailRow(*values)
        if len(values) == len(MAIL) and wrong(MAIL, values) is None
        else MailRow(values[0], as_id(values[1]) or bytes(16), 0, b"", _NO_CHECKSUM)
        for values in found
    ]


def open_questions(tx: Connection, limit: int) -> list[Question]:
    """Those that can be answered; the others are nobody's."""
    try:
        found = tx.execute(SQL["open_questions"], (limit,)).fetchall()
    except DataError as error:
        _too_big(error)
        found = _each(tx, "questions", "question_at", tx.execute(SQL["all_questions"]))
    return [Question(*values) for values in found if wrong(_QUESTION, values) is None]


def workers(tx: Connection) -> list[WorkerRow]:
    """Whoever is here; a row that cannot be read is nobody."""
    try:
        found = tx.execute(SQL["list_workers"]).fetchall()
    except DataError as error:
        _too_big(error)
        found = _each(tx, "workers", "worker_at", tx.execute("SELECT worker_id FROM workers"))
    return [row for values in found if (row := _worker_row(values)) is not None]


def _each(tx: Connection, table: str, query: str, keys: Iterable[Any]) -> list[tuple[Any, ...]]:
    """One row after the other, where one of them is too large to be read at all."""
    found: list[tuple[Any, ...]] = []
    for key in list(keys):
        with suppress(UndecodablePayload):
            row = fetch_one(tx, SQL[query], key, table)
            if row is not None:
                found.append(row)
    return found


def _worker_row(values: tuple[Any, ...]) -> WorkerRow | None:
    if wrong(COLUMNS["workers"], values) is not None:
        return None
    try:
        types: object = json.loads(values[8])
        versions: object = json.loads(values[9])
        queues = queues_of(values[7])
    except (ValueError, RecursionError):
        return None
    if not (isinstance(types, list) and isinstance(versions, list)):
        return None
    return WorkerRow(
        worker_id=values[0],
        name=values[1],
        pid=values[2],
        host=values[3],
        started_us=values[4],
        beat_us=values[5],
        dead=bool(values[6]),
        types=tuple(str(one) for one in cast("list[object]", types)),
        versions=tuple(str(one) for one in cast("list[object]", versions)),
        queues=queues,
        slots=values[10],
        busy=values[11],
    )


def versions(tx: Connection, namespace: str) -> list[VersionCount]:
    """The open runs by type and version; what no row of ours says is left out."""
    return [
        VersionCount(*values)
        for values in tx.execute(SQL["open_versions"], (namespace,)).fetchall()
        if wrong(_COUNT, values) is None
    ]


def pinned_of(tx: Connection, worker_id: bytes) -> list[tuple[bytes, str]]:
    """What bears a worker's name and is pinned, with the version."""
    return tx.execute(SQL["pinned_of"], (worker_id,)).fetchall()


def shares(tx: Connection, queue: str, types: Sequence[str], now_us: int) -> list[Share]:
    """How runs of these types lie with workers."""
    found = tx.execute(SQL["shares"], (queue, json.dumps(list(types)), now_us)).fetchall()
    return [Share(*one) for one in found if wrong(_SHARE, one) is None]


_NO_CHECKSUM: Final = -1
_ATTEMPT: Final = COLUMNS["attempts"][2:]
_QUESTION: Final = COLUMNS["questions"][:6]
_TYPE: Final = next(one for one in COLUMNS["runs"] if one.name == "type")
_SHARE: Final = (
    _TYPE,
    COLUMNS["runs"][-1],
    next(one for one in COLUMNS["runs"] if one.name == "owner"),
    Column("count", (int,), 0, 1 << 53),
)
_COUNT: Final = (
    _TYPE,
    COLUMNS["runs"][-1],
    Column("running", (int,), 0, 1 << 53),
    Column("blocked", (int,), 0, 1 << 53),
)


def many(values: Sequence[str] | Sequence[bytes]) -> str:
    """A list as a parameter for `json_each`; bytes are not JSON, so ids are compared as hex."""
    return json.dumps([v.hex() if isinstance(v, bytes) else v for v in values])
