"""Starts with keys: which execution they come to."""

from collections.abc import Callable
from dataclasses import replace as replace_answer
from sqlite3 import Connection
from typing import Final

from msgspec.structs import replace

from everlong_engine.machine.keys import (
    begins_us,
    deduplicated,
    found,
    in_window,
    is_start,
    replaced_blobs,
    seen,
    started_anew,
    takes_in,
    to_begin_with,
)
from everlong_engine.model.codec import checksum
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.keys import KeyKind, KeyRow, StartKey, answer_of, told_execution
from everlong_engine.model.runs import NewRun, RunRow, RunStatus
from everlong_engine.model.writes import StartResult, StartRun
from everlong_engine.store.sqlite.columns import COLUMNS, check, fetch_one
from everlong_engine.store.sqlite.rows import put_blobs, read_run
from everlong_engine.store.sqlite.statements import SQL, execute_rows
from everlong_engine.store.sqlite.tags import tag_values

__all__ = ["start_by_key"]

_Begin = Callable[[Connection, StartRun], StartResult]
_SHARD: Final = 0
_KEY: Final = COLUMNS["start_keys"][4:]


def start_by_key(tx: Connection, start: StartRun, key: StartKey, begin: _Begin) -> StartResult:
    """`begin` is how one without a key is stored."""
    if key.kind is KeyKind.DEBOUNCE:
        return _debounced(tx, start, key, begin)
    return _deduplicated(tx, start, key, begin)


def _debounced(tx: Connection, start: StartRun, key: StartKey, begin: _Begin) -> StartResult:
    own = start.run
    name = key.request_name(own.type)
    known = None if name is None else _told(tx, own.namespace, name, key)
    if known is not None:
        same = key.request_id is not None
        return found(known, own=own.execution_id, same_request=same, repeated=True)
    row = _read(tx, own, key)
    waiting = None if row is None else read_run(tx, row.shard, row.execution_id)
    if row is not None and waiting is not None and _takes_in(tx, waiting):
        row = replace(row, starts=row.starts + 1)
        result = _join(tx, start, key, waiting, row)
    else:
        anew, row = started_anew(start)
        result = replace_answer(begin(tx, anew), workflow_id=own.workflow_id)
        if not result.created:
            return result
    _put(tx, own, key, row)
    if name is not None:
        answer = answer_of(key, result.execution_id)
        tx.execute(SQL["put_answer_of_key"], (own.namespace, name, key.now_us, answer))
    return result


def _told(tx: Connection, namespace: str, name: str, key: StartKey) -> RunRow | None:
    """What this very start was answered before."""
    told = fetch_one(tx, SQL["find_request_of_types"], (namespace, name), key.key)
    if told is None:
        return None
    if not isinstance(told[0], bytes):
        raise UndecodablePayload(reason="the answer to a debounced start is no bytes")
    execution_id = told_execution(key, told[0])
    return None if execution_id is None else read_run(tx, _SHARD, execution_id)


def _takes_in(tx: Connection, run: RunRow) -> bool:
    key = (run.shard, run.execution_id)
    kinds = [kind for (kind,) in tx.execute(SQL["kinds_of_mail"], key).fetchall()]
    return takes_in(run, kinds, has_turn=tx.execute(SQL["turn_of"], key).fetchone() is not None)


def _join(tx: Connection, start: StartRun, key: StartKey, run: RunRow, row: KeyRow) -> StartResult:
    """It begins later, and as this start says."""
    body, blobs = to_begin_with(start, run, row)
    mail = tx.execute(SQL["mail_of"], (run.shard, run.execution_id)).fetchall()
    position, old = next((one[0], one[3]) for one in mail if is_start(one[2]))
    values = (body, checksum(0, start.kind, body), position, run.execution_id)
    tx.execute(SQL["change_mail"], values)
    put_blobs(tx, run.shard, run.execution_id, blobs)
    others = [one[3] for one in mail if one[0] != position]
    for digest in replaced_blobs(old, blobs, others):
        tx.execute(SQL["unuse_blob"], (run.shard, run.execution_id, digest))
        tx.execute(SQL["drop_blob"], (run.shard, digest))
    tx.execute(SQL["drop_tags"], (run.shard, run.run_id))
    if start.run.tags:
        execute_rows(tx, "put_tags", tag_values(run, start.run.tags))
    if run.status is RunStatus.RUNNING:
        tx.execute(SQL["put_off"], (begins_us(key, row.first_us), run.shard, run.run_id))
    return found(run, own=start.run.execution_id, same_request=False)


def _deduplicated(tx: Connection, start: StartRun, key: StartKey, begin: _Begin) -> StartResult:
    own = start.run
    row = _read(tx, own, key)
    if row is not None and in_window(key, row):
        known = read_run(tx, row.shard, row.execution_id)
        if known is not None:
            return seen(known, own.execution_id)
    result = begin(tx, replace(start, key=None))
    row = deduplicated(start, key, result)
    if row is not None:
        _put(tx, own, key, row)
    return replace_answer(result, workflow_id=own.workflow_id)


def _read(tx: Connection, run: NewRun, key: StartKey) -> KeyRow | None:
    """How a key stands. Raises UndecodablePayload: its row is damaged."""
    values = fetch_one(tx, SQL["start_key"], (run.namespace, run.type, key.kind, key.key), key.key)
    if values is None:
        return None
    check("start_keys", _KEY, values, key.key)
    return KeyRow(*values)


def _put(tx: Connection, run: NewRun, key: StartKey, row: KeyRow) -> None:
    place = (run.namespace, run.type, int(key.kind), key.key)
    values = (row.shard, row.execution_id, row.first_us, row.until_us, row.starts)
    tx.execute(SQL["put_start_key"], (*place, *values))
