"""Starts with keys: which execution they come to."""

from collections.abc import Callable
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
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.model.writes import StartResult, StartRun
from everlong_engine.store.memory.data import MemoryData

__all__ = ["start_by_key"]


def start_by_key(
    data: MemoryData, start: StartRun, key: StartKey, begin: Callable[[StartRun], StartResult]
) -> StartResult:
    """`begin` is how one without a key is stored."""
    if key.kind is KeyKind.DEBOUNCE:
        return _debounced(data, start, key, begin)
    return _deduplicated(data, start, key, begin)


def _debounced(
    data: MemoryData, start: StartRun, key: StartKey, begin: Callable[[StartRun], StartResult]
) -> StartResult:
    own = start.run
    name = key.request_name(own.type)
    if name is not None:
        told = data.requests_of_types.get((own.namespace, name))
        execution_id = None if told is None else told_execution(key, told[1])
        known = None if execution_id is None else data.runs.get(execution_id)
        if known is not None:
            same = key.request_id is not None
            return found(known, own=own.execution_id, same_request=same, repeated=True)
    place = (own.namespace, own.type, key.kind, key.key)
    row = data.start_keys.get(place)
    waiting = None if row is None else data.runs.get(row.execution_id)
    if row is not None and waiting is not None and _takes_in(data, waiting):
        row = replace(row, starts=row.starts + 1)
        result = _join(data, start, key, waiting, row)
    else:
        anew, row = started_anew(start)
        begun = begin(anew)
        result = replace_answer(begun, workflow_id=own.workflow_id)
        if not result.created:
            return result
    data.start_keys.put(place, row)
    if name is not None:
        data.requests_of_types.put(
            (own.namespace, name), (key.now_us, answer_of(key, result.execution_id))
        )
    return result


def _takes_in(data: MemoryData, run: RunRow) -> bool:
    kinds = [data.mail.rows[one].kind for one in data.mail_of.keys(run.execution_id)]
    return takes_in(run, kinds, has_turn=run.execution_id in data.turns.rows)


def _join(
    data: MemoryData, start: StartRun, key: StartKey, run: RunRow, row: KeyRow
) -> StartResult:
    """It begins later, and as this start says."""
    body, blobs = to_begin_with(start, run, row)
    mail = {one: data.mail.rows[one] for one in sorted(data.mail_of.keys(run.execution_id))}
    position = next(one for one, message in mail.items() if is_start(message.kind))
    old = mail.pop(position)
    crc = checksum(0, old.kind, body)
    data.mail.put(position, replace(old, body=body, checksum=crc))
    data.put_blobs(run.execution_id, blobs)
    others = [one.body for one in mail.values()]
    data.unuse_blobs(run.execution_id, replaced_blobs(old.body, blobs, others))
    for name in list(data.tags_of.keys(run.run_id)):
        data.tags.remove(name)
    data.change_tags(run.run_id, start.run.tags)
    if run.status is RunStatus.RUNNING:
        data.runs.put(run.run_id, replace(run, wake_us=begins_us(key, row.first_us)))
    return found(run, own=start.run.execution_id, same_request=False)


def _deduplicated(
    data: MemoryData, start: StartRun, key: StartKey, begin: Callable[[StartRun], StartResult]
) -> StartResult:
    own = start.run
    place = (own.namespace, own.type, key.kind, key.key)
    row = data.start_keys.get(place)
    if row is not None and in_window(key, row):
        known = data.runs.get(row.execution_id)
        if known is not None:
            return seen(known, own.execution_id)
    result = begin(replace(start, key=None))
    row = deduplicated(start, key, result)
    if row is not None:
        data.start_keys.put(place, row)
    return replace_answer(result, workflow_id=own.workflow_id)
