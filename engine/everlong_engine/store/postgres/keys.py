"""Starts with keys: which execution they come to.

Whoever comes here holds the lock of the key, so that starts with one key are judged one after the
other; what they find of an execution is read behind the lock of its row, which whoever claims it
takes, too.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace as replace_answer

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
from everlong_engine.model.keys import KeyKind, KeyRow, StartKey, answer_of, told_execution
from everlong_engine.model.runs import NewRun, RunRow, RunStatus
from everlong_engine.model.writes import StartResult, StartRun
from everlong_engine.store.postgres.rows import put_blobs, read_run, run_row
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.tags import tag_values

__all__ = ["start_by_key"]

_Begin = Callable[[Tx, StartRun], Awaitable[StartResult]]


async def start_by_key(tx: Tx, start: StartRun, key: StartKey, begin: _Begin) -> StartResult:
    """`begin` is how one without a key is stored."""
    if key.kind is KeyKind.DEBOUNCE:
        return await _debounced(tx, start, key, begin)
    return await _deduplicated(tx, start, key, begin)


async def _debounced(tx: Tx, start: StartRun, key: StartKey, begin: _Begin) -> StartResult:
    own = start.run
    name = key.request_name(own.type)
    known = None if name is None else await _told(tx, own.namespace, name, key)
    if known is not None:
        same = key.request_id is not None
        return found(known, own=own.execution_id, same_request=same, repeated=True)
    row = await _read(tx, own, key)
    waiting = None if row is None else await read_run(tx, row.shard, row.execution_id)
    if row is not None and waiting is not None and await _takes_in(tx, waiting):
        row = replace(row, starts=row.starts + 1)
        result = await _join(tx, start, key, waiting, row)
    else:
        anew, row = started_anew(start)
        result = replace_answer(await begin(tx, anew), workflow_id=own.workflow_id)
        if not result.created:
            return result
    await _put(tx, own, key, row)
    if name is not None:
        answer = answer_of(key, result.execution_id)
        await tx.run("put_answer_of_key", (own.namespace, name, key.now_us, answer))
    return result


async def _told(tx: Tx, namespace: str, name: str, key: StartKey) -> RunRow | None:
    """What this very start was answered before."""
    told = await tx.one("find_request_of_types", (namespace, name))
    execution_id = None if told is None else told_execution(key, told[0])
    found = None if execution_id is None else await tx.one("run_by_id", (execution_id,))
    return None if found is None else run_row(found)


async def _takes_in(tx: Tx, run: RunRow) -> bool:
    key = (run.shard, run.execution_id)
    kinds = [kind for (kind,) in await tx.all("kinds_of_mail", key)]
    return takes_in(run, kinds, has_turn=await tx.one("turn_of", key) is not None)


async def _join(tx: Tx, start: StartRun, key: StartKey, run: RunRow, row: KeyRow) -> StartResult:
    """It begins later, and as this start says."""
    body, blobs = to_begin_with(start, run, row)
    mail = await tx.rows("mail_of", [(run.shard, run.execution_id)])
    position, old = next((one[0], one[3]) for one in mail if is_start(one[2]))
    values = (body, checksum(0, start.kind, body), position, run.execution_id, run.shard)
    await tx.run("change_mail", values)
    await put_blobs(tx, run.shard, run.execution_id, blobs)
    others = [one[3] for one in mail if one[0] != position]
    unused = sorted(replaced_blobs(old, blobs, others))
    if unused:
        await tx.rows("unuse_these", [(run.shard, run.execution_id, one) for one in unused])
        await tx.rows("lock_blobs", [(run.shard, one) for one in unused])
        await tx.rows("drop_blobs", [(run.shard, one) for one in unused])
    await tx.run("drop_tags", (run.shard, run.run_id))
    if start.run.tags:
        await tx.rows("put_tags", tag_values(run, start.run.tags))
    if run.status is RunStatus.RUNNING:
        await tx.run("put_off", (begins_us(key, row.first_us), run.shard, run.run_id))
    return found(run, own=start.run.execution_id, same_request=False)


async def _deduplicated(tx: Tx, start: StartRun, key: StartKey, begin: _Begin) -> StartResult:
    own = start.run
    row = await _read(tx, own, key)
    if row is not None and in_window(key, row):
        known = await read_run(tx, row.shard, row.execution_id)
        if known is not None:
            return seen(known, own.execution_id)
    result = await begin(tx, replace(start, key=None))
    row = deduplicated(start, key, result)
    if row is not None:
        await _put(tx, own, key, row)
    return replace_answer(result, workflow_id=own.workflow_id)


async def _read(tx: Tx, run: NewRun, key: StartKey) -> KeyRow | None:
    values = await tx.one("start_key", (run.namespace, run.type, int(key.kind), key.key))
    return None if values is None else KeyRow(*values)


async def _put(tx: Tx, run: NewRun, key: StartKey, row: KeyRow) -> None:
    place = (run.namespace, run.type, int(key.kind), key.key)
    values = (row.shard, row.execution_id, row.first_us, row.until_us, row.starts)
    await tx.run("put_start_key", (*place, *values))
