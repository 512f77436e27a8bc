"""Checks a whole file: every column of every table, gapless sequences, checksums, complete ends,
orphans, SQLite's own check.

Reads in one snapshot, so that what is written meanwhile is no problem, and reports instead of
raising: a damaged row must not hide the others.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from itertools import islice
from pathlib import Path
from sqlite3 import Connection, DatabaseError, DataError
from typing import Any, Final

from everlong_engine.machine.state import tags_behind
from everlong_engine.model.codec import checksum, decode_event
from everlong_engine.model.entities import checked_entity
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import (
    CLOSING,
    CODES,
    INPUTS,
    KINDS,
    ApprovalAnswered,
    ItemPublished,
    RunStarted,
)
from everlong_engine.model.limits import ROW_BYTES_MAX
from everlong_engine.model.queues import starts_from_wire
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.model.tags import Tags, same_tags
from everlong_engine.store.interface import Problem, Trouble
from everlong_engine.store.sqlite.columns import (
    COLUMNS,
    KEYS,
    POSITION_MAX,
    NoUtf8,
    as_id,
    is_too_big,
    named,
    wrong,
)
from everlong_engine.store.sqlite.connection import classify
from everlong_engine.store.sqlite.letters import kept_letter
from everlong_engine.store.sqlite.reads import approval
from everlong_engine.store.sqlite.rows import run_row
from everlong_engine.store.sqlite.statements import SQL
from everlong_engine.store.sqlite.tags import read_tags

__all__ = ["verify"]

_PROBLEMS_MAX: Final = 1000
_EVENT: Final = COLUMNS["history"][2:]

# What hangs on a run or an execution, and by which column.
_HANGING: Final = (
    ("history", "run_id"),
    ("attempts", "run_id"),
    ("tasks", "run_id"),
    ("approvals", "run_id"),
    ("tags", "run_id"),
    ("inbox", "execution_id"),
    ("requests", "execution_id"),
    ("published", "execution_id"),
    ("start_keys", "execution_id"),
    ("entity_states", "execution_id"),
)


def verify(tx: Connection) -> list[Problem]:
    """What is wrong, up to a thousand problems. Empty: all is well."""
    factory, tx.text_factory = tx.text_factory, _text
    found: list[Problem] = []
    try:
        found += [
            Problem(None, f"SQLite: {text}")
            for (text,) in tx.execute("PRAGMA integrity_check").fetchall()
            if text != "ok"
        ]
        if not found:
            found += islice(_problems(tx), _PROBLEMS_MAX)
    except DatabaseError as error:
        if classify(error, Path())[0] is not Trouble.FATAL:
            raise
        found.append(Problem(None, f"SQLite: {error}; what lies behind that cannot be checked"))
    finally:
        tx.text_factory = factory
    return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return NoUtf8(raw.decode("utf-8", "backslashreplace"))


def _problems(tx: Connection) -> Iterator[Problem]:
    for table in COLUMNS:
        if table not in ("runs", "history"):
            yield from _of_table(tx, table)
    yield from _of_positions(tx)
    yield from _of_mail(tx)
    yield from _of_published(tx)
    yield from _of_letters(tx)
    yield from _of_entities(tx)
    yield from _of_approvals(tx)
    yield from _of_orphans(tx)
    yield from _of_links(tx)
    yield from _of_pauses(tx)
    for (shard, run_id), values in _rows(tx, "runs"):
        yield from _of_run(tx, shard, run_id, values)


def _rows(tx: Connection, table: str) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...] | None]]:
    """(key, row) of each; None for a row that is larger than any that is ever written."""
    # Table and column names are our own; there are no values.
    keys = KEYS[table]
    names = ", ".join(keys)
    where = " AND ".join(f"{name} = ?" for name in keys)
    columns = ", ".join(column.name for column in COLUMNS[table])
    with closing(tx.execute(f"SELECT {names} FROM {table} ORDER BY {names}")) as found:
        for key in found:
            # A text that is no UTF-8 is not found by what was made of it.
            if any(isinstance(value, NoUtf8) for value in key):
                yield key, ()
                continue
            try:
                row = tx.execute(f"SELECT {columns} FROM {table} WHERE {where}", key).fetchone()
            except DataError as error:
                if not is_too_big(error):
                    raise
                row = None
            yield key, row


def _fault(table: str, values: tuple[Any, ...] | None) -> str | None:
    if values is None:
        return f"it is larger than {ROW_BYTES_MAX} bytes"
    if not values:
        return "its key holds text that is no UTF-8"
    return wrong(COLUMNS[table], values)


def _of_table(tx: Connection, table: str) -> Iterator[Problem]:
    for key, values in _rows(tx, table):
        fault = _fault(table, values)
        if fault is None and table == "workers" and values is not None:
            fault = _fault_of_types(values[9])
        if fault is None and table == "blobs" and values is not None:
            fault = None if sha256(values[2]).digest() == values[1] else "its content is damaged"
        if fault is None and table == "queue_starts" and values is not None:
            fault = _fault_of_marks(values[-1])
        if fault is not None:
            name = " ".join(map(named, key[1:] or key))
            yield Problem(_owner(table, key), f"the row {name} in {table} is damaged: {fault}")


_OF_SOMEBODY: Final = frozenset(
    {
        *("attempts", "tasks", "approvals", "tags"),
        *("requests", "published", "entity_states", "blob_uses"),
    }
)


def _owner(table: str, key: tuple[Any, ...]) -> bytes | None:
    """The run or the execution that a row belongs to."""
    return as_id(key[1]) if table in _OF_SOMEBODY else None


def _fault_of_types(text: str) -> str | None:
    try:
        types: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"types is no JSON: {error}"
    return None if isinstance(types, list) else "types is no list"


def _fault_of_marks(data: bytes) -> str | None:
    try:
        starts_from_wire(data)
    except UndecodablePayload as error:
        return f"marks hold no starts: {error}"
    return None


def _of_positions(tx: Connection) -> Iterator[Problem]:
    found = tx.execute(SQL["last_position"]).fetchone()
    if found is not None and not (isinstance(found[0], int) and 0 <= found[0] < POSITION_MAX):
        yield Problem(None, f"the inbox has no places left: its counter is at {found[0]!r}")


def _of_run(
    tx: Connection, shard: int, run_id: bytes, values: tuple[Any, ...] | None
) -> Iterator[Problem]:
    owner = as_id(run_id)
    name = named(run_id) if not values else f"{values[4]!s:.100} ({named(run_id)})"
    fault = _fault("runs", values)
    if fault is not None or values is None:
        yield Problem(owner, f"{name}: its row cannot be read: {fault}")
        return
    row = run_row(values)
    try:
        for text in _of_history(tx, row):
            yield Problem(owner, f"{name}: {text}")
    except DataError as error:
        if not is_too_big(error):
            raise
        yield Problem(owner, f"{name}: an event is larger than {ROW_BYTES_MAX} bytes")
    if row.next_seq == 1 and row.status.is_open:
        key = (row.shard, row.execution_id)
        if tx.execute(SQL["mail_positions_of"], key).fetchone() is None:
            yield Problem(owner, f"{name}: it has not begun, and its start is missing")


def _of_history(tx: Connection, row: RunRow) -> Iterator[str]:
    # Digests are checked once for the whole file, not with every run that uses a payload.
    blobs = dict(tx.execute(SQL["blobs_of"], (row.shard, row.run_id, row.execution_id)).fetchall())
    last, closed = 0, False
    tags: Tags | None = None
    with closing(tx.execute(SQL["whole_history_of"], (row.shard, row.run_id))) as events:
        for seq, kind, at_us, body, stored, append_id in events:
            fault = wrong(_EVENT, (seq, kind, at_us, body, stored, append_id))
            if fault is not None:
                yield f"event {seq!r:.30} is damaged: {fault}"
                last = seq if isinstance(seq, int) else last
                continue
            if seq != last + 1:
                yield f"events {last + 1} to {seq - 1} are missing"
            last = seq
            if checksum(seq, kind, body) != stored:
                yield f"event {seq} has a wrong checksum"
                continue
            try:
                event = decode_event(kind, body, blobs)
            except UndecodablePayload as error:
                yield f"event {seq} cannot be read: {error}"
                continue
            if closed:
                yield f"event {seq} stands behind the end of the run"
            if seq == 1 and KINDS[kind] not in INPUTS and KINDS[kind] not in CLOSING:
                yield "the history does not begin with an input"
            if isinstance(event, RunStarted):
                yield from _of_start(row, seq, event)
            if tags is not None or seq == 1:
                tags = tags_behind(tags, event)
            closed = closed or KINDS[kind] in CLOSING
    if last + 1 != row.next_seq:
        yield f"the run expects event {row.next_seq}, its history ends at {last}"
    if closed is row.status.is_open and row.status is not RunStatus.MOVED:
        yield f"the run is {row.status.text}, its history says otherwise"
    if tags is not None:
        yield from _of_tags(tx, row, tags)


def _of_tags(tx: Connection, row: RunRow, tags: Tags) -> Iterator[str]:
    try:
        stored = read_tags(tx, row.shard, row.run_id)
    except UndecodablePayload as error:
        yield f"its tags cannot be read: {error}"
        return
    if not same_tags(stored, sorted(tags)):
        yield "it is found by other tags than its history has"


def _of_start(row: RunRow, seq: int, event: RunStarted) -> Iterator[str]:
    if seq != 1:
        yield f"event {seq} starts the run once more"
    if (event.workflow, event.workflow_id) != (row.type, row.workflow_id):
        yield f"it was started as {event.workflow} {event.workflow_id}, its row says otherwise"


def _of_mail(tx: Connection) -> Iterator[Problem]:
    for _, values in _rows(tx, "inbox"):
        if _fault("inbox", values) is None and values is not None:
            position, _, execution_id, kind, body, stored = values
            if checksum(0, kind, body) != stored:
                yield Problem(execution_id, f"message {position} has a wrong checksum")
                continue
            blobs = dict(tx.execute(SQL["blobs_of"], (0, execution_id, execution_id)).fetchall())
            try:
                decode_event(kind, body, blobs)
            except UndecodablePayload as error:
                yield Problem(execution_id, f"message {position} cannot be read: {error}")


def _of_approvals(tx: Connection) -> Iterator[Problem]:
    """Each has the event that requests it, and an answer that can be read; open runs have open
    ones."""
    for (shard, run_id, number), values in _rows(tx, "approvals"):
        if _fault("approvals", values) is not None or not values:
            continue  # Named with the rows of its table.
        name = f"approval {number} of {named(run_id)}"
        try:
            found = approval(tx, shard, run_id, number)
            if found is None:
                continue  # Its run is not there: named with the orphans.
            if found.requested is None:
                yield Problem(run_id, f"{name}: {found.fault}")
            if found.answer is not None:
                decode_event(CODES[ApprovalAnswered], found.answer, {})
            elif not found.run.status.keeps_id:
                yield Problem(run_id, f"{name} is open, and its run is not")
        except UndecodablePayload as error:
            yield Problem(run_id, f"{name} cannot be read: {error}")


def _of_published(tx: Connection) -> Iterator[Problem]:
    """Each channel counts without a gap; its oldest items may be gone."""
    channel: tuple[Any, ...] = ()
    expected = 0
    for _, values in _rows(tx, "published"):
        if _fault("published", values) is not None or values is None:
            continue  # Named with the rows of its table.
        _, execution_id, name, number, _, payload, stored = values
        if (execution_id, name) != channel:
            channel, expected = (execution_id, name), number
        if number != expected:
            gap = f"items {expected} to {number - 1}"
            yield Problem(execution_id, f"{gap} of the output channel {name!r:.100} are missing")
        expected = number + 1
        if checksum(number, CODES[ItemPublished], payload) != stored:
            text = f"item {number} of the output channel {name!r:.100} has a wrong checksum"
            yield Problem(execution_id, text)


def _of_letters(tx: Connection) -> Iterator[Problem]:
    for _, values in _rows(tx, "outgoing_letters"):
        if _fault("outgoing_letters", values) is not None or values is None:
            continue  # Named with the rows of its table.
        kept = kept_letter(values)
        if not kept.is_whole:
            text = f"letter {kept.position} of the outbox {kept.letter.outbox!r:.100}"
            yield Problem(kept.letter.run_id, f"{text} has a wrong checksum")


def _of_entities(tx: Connection) -> Iterator[Problem]:
    for _, values in _rows(tx, "entity_states"):
        if _fault("entity_states", values) is not None or values is None:
            continue  # Named with the rows of its table.
        try:
            checked_entity(values[2:])
        except UndecodablePayload as error:
            yield Problem(values[1], str(error))


def _of_links(tx: Connection) -> Iterator[Problem]:
    for waited_for, waiter in tx.execute(SQL["idle_links"]).fetchall():
        both = f"{named(waited_for)} and {named(waiter)}"
        text = f"a link between {both} is damaged, or one of both is not open"
        yield Problem(as_id(waiter), text)


def _of_pauses(tx: Connection) -> Iterator[Problem]:
    for (execution_id,) in tx.execute(SQL["idle_pauses"]).fetchall():
        text = f"{named(execution_id)} is said to be paused, and is not"
        yield Problem(as_id(execution_id), text)
    for (run_id,) in tx.execute(SQL["held_by_nobody"]).fetchall():
        text = f"the row of {named(run_id)} and what is paused say different things"
        yield Problem(as_id(run_id), text)


def _of_orphans(tx: Connection) -> Iterator[Problem]:
    # Table and column names are our own; there are no values.
    for table, key in _HANGING:
        text = f"SELECT DISTINCT {key} FROM {table} WHERE {key} NOT IN (SELECT {key} FROM runs)"
        for (owner,) in tx.execute(text).fetchall():
            yield Problem(as_id(owner), f"rows in {table} without a run: of {named(owner)}")
    for (owner,) in tx.execute(SQL["unowned_blob_uses"]).fetchall():
        text = f"a spilled payload is noted for a run that is not there: {named(owner)}"
        yield Problem(as_id(owner), text)
    for (owner,) in tx.execute(SQL["missing_blobs"]).fetchall():
        yield Problem(as_id(owner), "a spilled payload is missing")
    for (digest,) in tx.execute(SQL["unused_blobs"]).fetchall():
        name = digest.hex() if isinstance(digest, bytes) else repr(digest)
        yield Problem(None, f"the spilled payload {name} belongs to nobody")
