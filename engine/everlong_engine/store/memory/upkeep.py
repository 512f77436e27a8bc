"""Sweeping and checking what is stored."""

from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import Final

from everlong_engine.machine.state import tags_behind
from everlong_engine.model.codec import checksum, decode_event
from everlong_engine.model.entities import checked_entity
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import CLOSING, CODES, INPUTS, KINDS, ItemPublished
from everlong_engine.model.ids import first_id_of, id_text
from everlong_engine.model.requests import SENDERS, mark_of, name_of_start
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.model.tags import Tags, same_tags
from everlong_engine.store.interface import Problem
from everlong_engine.store.memory import reads
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.pauses import is_held

__all__ = ["forget_execution", "prune", "verify"]

_PROBLEMS_MAX: Final = 1000


def prune(
    data: MemoryData, cursor: tuple[int, bytes], horizon_us: int, limit: int
) -> tuple[tuple[int, bytes] | None, int]:
    """Look at up to `limit` runs that began before the horizon, from behind the cursor on, and
    delete those that closed before it too, once their execution is over."""
    if cursor[0] < 0:  # A sweep begins.
        _forget_the_dead(data, horizon_us)
    end = (0, first_id_of(horizon_us))
    candidates = sorted(run_id for run_id in data.runs.rows if cursor < (0, run_id) < end)[:limit]
    pruned = 0
    for run_id in candidates:
        run = data.runs.rows[run_id]
        _forget_senders(data, run.execution_id, horizon_us)
        if run.closed_us is not None and run.closed_us < horizon_us and _is_over(data, run):
            _delete(data, run)
            if run.request_id is not None and data.of_execution.keys(run.execution_id):
                # The start is known until the last run of its execution goes.
                key = (run.execution_id, name_of_start(run.request_id))
                data.requests.put(key, run.run_id)
            pruned += 1
    return ((0, candidates[-1]) if len(candidates) == limit else None), pruned


def _is_over(data: MemoryData, run: RunRow) -> bool:
    """Whether no run of the execution lives: request ids and children refer to it until then."""
    return not any(
        data.runs.rows[run_id].status.is_open for run_id in data.of_execution.keys(run.execution_id)
    )


def _forget_senders(data: MemoryData, execution_id: bytes, horizon_us: int) -> None:
    """Those that have sent nothing since then."""
    for key in list(data.requests_of.keys(execution_id)):
        if key[1].startswith(SENDERS) and data.requests.rows[key] < mark_of(horizon_us):
            data.requests.remove(key)


def _delete(data: MemoryData, run: RunRow) -> None:
    """With all that hangs on it; an execution's things go with the last of its runs."""
    data.runs.remove(run.run_id)
    for event in list(data.history_of.keys(run.run_id)):
        data.history.remove(event)
    data.drop_tasks(run.run_id)
    for attempt in list(data.attempts_of.keys(run.run_id)):
        data.attempts.remove(attempt)
    for approval in list(data.approvals_of.keys(run.run_id)):
        data.approvals.remove(approval)
    for tag in list(data.tags_of.keys(run.run_id)):
        data.tags.remove(tag)
    data.drop_blobs(run.run_id)
    if not data.of_execution.keys(run.execution_id):
        for request in list(data.requests_of.keys(run.execution_id)):
            data.requests.remove(request)
        for item in list(data.published_of.keys(run.execution_id)):
            data.published.remove(item)
        for state in list(data.entities_of.keys(run.execution_id)):
            data.entities.remove(state)
        data.forget_mail(run.execution_id)
        data.drop_blobs(run.execution_id)
        if run.execution_id in data.turns.rows:
            data.turns.remove(run.execution_id)
        for key in list(data.keys_of.keys(run.execution_id)):
            data.start_keys.remove(key)


def forget_execution(data: MemoryData, execution_id: bytes) -> None:
    """All that there is of one that has left: it has come back, or another has its id."""
    for run_id in list(data.of_execution.keys(execution_id)):
        _delete(data, data.runs.rows[run_id])


def _forget_the_dead(data: MemoryData, horizon_us: int) -> None:
    """Workers that own nothing any more, and questions whose askers are gone."""
    for worker_id, worker in list(data.workers.rows.items()):
        idle = not (data.of_owner.keys(worker_id) or data.tasks_taken.keys(worker_id))
        if worker.row.dead and worker.row.beat_us < horizon_us and idle:
            data.workers.remove(worker_id)
    for key, (at_us, _) in list(data.requests_of_types.rows.items()):
        if at_us < horizon_us:
            data.requests_of_types.remove(key)
    for question_id, asked in list(data.questions.rows.items()):
        if asked.asked_us < horizon_us:
            data.questions.remove(question_id)


# ---------------------------------------------------------------------------------------- verify


def verify(data: MemoryData) -> list[Problem]:
    """What is wrong, up to a thousand problems. Empty: all is well."""
    return list(islice(_problems(data), _PROBLEMS_MAX))


def _problems(data: MemoryData) -> Iterator[Problem]:
    yield from _of_blobs(data)
    for position, mail in sorted(data.mail.rows.items()):
        if checksum(0, mail.kind, mail.body) != mail.checksum:
            yield Problem(mail.execution_id, f"message {position} has a wrong checksum")
    yield from _of_published(data)
    yield from _of_letters(data)
    yield from _of_entities(data)
    yield from _of_approvals(data)
    yield from _of_orphans(data)
    for _, run in sorted(data.runs.rows.items()):
        held = is_held(data, run.execution_id, run.namespace, run.type)
        if run.status in (RunStatus.RUNNING, RunStatus.PAUSED) and held is not (
            run.status is RunStatus.PAUSED
        ):
            yield Problem(run.run_id, "its row and what is paused say different things")
        name = f"{run.workflow_id} ({id_text(run.run_id)})"
        for text in _of_history(data, run):
            yield Problem(run.run_id, f"{name}: {text}")
        waits_to_begin = run.status.is_open and run.next_seq == 1
        if waits_to_begin and not data.mail_positions(run.execution_id):
            yield Problem(run.run_id, f"{name}: it has not begun, and its start is missing")


def _of_approvals(data: MemoryData) -> Iterator[Problem]:
    for (run_id, number), one in sorted(data.approvals.rows.items()):
        run = data.runs.get(run_id)
        if one.answer is None and run is not None and not run.status.keeps_id:
            name = f"approval {number} of {id_text(run_id)}"
            yield Problem(run_id, f"{name} is open, and its run is not")


def _of_history(data: MemoryData, run: RunRow) -> Iterator[str]:
    blobs = reads.blobs_of(data, run)
    last, closed = 0, False
    tags: Tags | None = None
    for seq, kind, _, body, stored in reads.events_of(data, run.run_id):
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
        if seq == 1 and type(event) not in INPUTS and type(event) not in CLOSING:
            yield "the history does not begin with an input"
        if tags is not None or seq == 1:
            tags = tags_behind(tags, event)
        closed = closed or KINDS[kind] in CLOSING
    if run.next_seq != last + 1:
        yield f"the run expects event {run.next_seq}, its history ends at {last}"
    if run.status.is_open is closed and run.status is not RunStatus.MOVED:
        yield f"the run is {run.status.text}, its history says otherwise"
    if tags is not None and not same_tags(reads.tags_of(data, run.run_id), sorted(tags)):
        yield "it is found by other tags than its history has"


def _of_published(data: MemoryData) -> Iterator[Problem]:
    channel, expected = (b"", ""), 0
    for key, item in sorted(data.published.rows.items()):
        if key[:2] != channel:
            channel, expected = key[:2], item.number
        if item.number != expected:
            gap = f"items {expected} to {item.number - 1}"
            text = f"{gap} of the output channel {item.channel!r:.100} are missing"
            yield Problem(key[0], text)
        expected = item.number + 1
        if checksum(item.number, CODES[ItemPublished], item.payload) != item.checksum:
            text = f"item {item.number} of the output channel {item.channel!r:.100}"
            yield Problem(key[0], f"{text} has a wrong checksum")


def _of_letters(data: MemoryData) -> Iterator[Problem]:
    for position, kept in sorted(data.letters.rows.items()):
        if not kept.is_whole:
            text = f"letter {position} of the outbox {kept.letter.outbox!r:.100}"
            yield Problem(kept.letter.run_id, f"{text} has a wrong checksum")


def _of_entities(data: MemoryData) -> Iterator[Problem]:
    for (execution_id, _), row in sorted(data.entities.rows.items()):
        try:
            checked_entity(row)
        except UndecodablePayload as error:
            yield Problem(execution_id, str(error))


def _of_orphans(data: MemoryData) -> Iterator[Problem]:
    executions = {run.execution_id for run in data.runs.rows.values()}
    hanging = {
        "history": {key[0] for key in data.history.rows} - data.runs.rows.keys(),
        "attempts": {key[0] for key in data.attempts.rows} - data.runs.rows.keys(),
        "tasks": {key[0] for key in data.tasks.rows} - data.runs.rows.keys(),
        "approvals": {key[0] for key in data.approvals.rows} - data.runs.rows.keys(),
        "tags": {key[0] for key in data.tags.rows} - data.runs.rows.keys(),
        "inbox": {mail.execution_id for mail in data.mail.rows.values()} - executions,
        "requests": {key[0] for key in data.requests.rows} - executions,
        "published": {key[0] for key in data.published.rows} - executions,
        "entity_states": {key[0] for key in data.entities.rows} - executions,
    }
    for table, owners in hanging.items():
        for owner in sorted(owners):
            yield Problem(owner, f"rows in {table} without a run")
    users = {owner for owner, _ in data.blob_uses.rows}
    for owner in sorted(users - executions - data.runs.rows.keys()):
        yield Problem(owner, "a spilled payload is noted for a run that is not there")


def _of_blobs(data: MemoryData) -> Iterator[Problem]:
    for owner, digest in sorted(data.blob_uses.rows):
        if digest not in data.blobs.rows:
            yield Problem(owner, "a spilled payload is missing")
    for digest, content in sorted(data.blobs.rows.items()):
        if not data.users_of_blob.keys(digest):
            yield Problem(None, f"the spilled payload {digest.hex()} belongs to nobody")
        if sha256(content).digest() != digest:
            yield Problem(None, f"the spilled payload {digest.hex()} is damaged")
