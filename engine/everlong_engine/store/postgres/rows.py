"""Rows that more than one family of writes makes or reads: runs, mail, spilled payloads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from everlong_engine.model.codec import checksum
from everlong_engine.model.events import CODES, CancelRequested
from everlong_engine.model.outgoing import Target
from everlong_engine.model.requests import Sent
from everlong_engine.model.runs import NewRun, Probation, RunRow, RunStatus
from everlong_engine.store.postgres.statements import Tx

__all__ = [
    "columns_of",
    "latest_run",
    "new_run_values",
    "put_answers",
    "put_blobs",
    "put_mail",
    "read_run",
    "run_row",
    "sent_before",
    "told_by_workflow_id",
    "wake_for",
]

_CANCEL_REQUESTED: Final = CODES[CancelRequested]


def run_row(values: tuple[Any, ...]) -> RunRow:
    """A row of `SELECT * FROM runs`."""
    return RunRow(
        shard=values[0],
        run_id=values[1],
        execution_id=values[2],
        namespace=values[3],
        workflow_id=values[4],
        type=values[5],
        queue=values[6],
        status=RunStatus(values[7]),
        next_seq=values[8],
        lease_token=values[9],
        owner=values[10],
        wake_us=values[11],
        started_us=values[12],
        closed_us=values[13],
        losses=values[14],
        strikes=values[15],
        probation=Probation(values[16]),
        reason=values[17],
        request_id=values[18],
        version=values[19],
    )


async def wake_for(tx: Tx, row: RunRow, kind: int, now_us: int) -> None:
    """Have somebody look at a run for the message that was left for it."""
    query = "rouse_run" if kind == _CANCEL_REQUESTED else "wake_run"
    await tx.run(query, (now_us, row.shard, row.run_id))


async def read_run(tx: Tx, shard: int, run_id: bytes) -> RunRow | None:
    """One run by its id; locked, if this writes."""
    found = await tx.one("lock_run" if tx.writes else "get_run", (shard, run_id))
    return None if found is None else run_row(found)


async def latest_run(tx: Tx, target: Target) -> RunRow | None:
    """The newest run of a workflow id, or of one of its executions, also of an earlier one."""
    key: tuple[Any, ...] = (target.shard, target.namespace, target.workflow_id)
    found = await tx.one("lock_latest" if tx.writes else "latest_run", key)
    if found is None:
        return None
    row = run_row(found)
    if target.execution_id in (None, row.execution_id):
        return row
    key = (*key, target.execution_id)
    found = await tx.one("latest_of_execution", key)
    return None if found is None else run_row(found)


async def sent_before(
    tx: Tx, target: Target, row: RunRow, request_id: str | None, sent: Sent | None
) -> RunRow | None:
    """Who was told this before: `row`, the one that is meant now, or an earlier execution of the
    workflow id. None: nobody."""
    name, least = request_id, b""
    if name is None:
        if sent is None:
            return None
        name, least = sent.name, sent.mark
    found = await tx.one("find_request", (row.shard, row.execution_id, name))
    if found is not None:
        return row if found[0] >= least else None
    if target.execution_id is not None:
        return None
    earlier = await told_by_workflow_id(tx, target, name)
    return earlier[0] if earlier is not None and earlier[1] >= least else None


async def told_by_workflow_id(tx: Tx, target: Target, name: str) -> tuple[RunRow, bytes] | None:
    """The newest execution of a workflow id to which this was said, and the answer to it."""
    key = (target.shard, target.namespace, target.workflow_id, name)
    found = await tx.one("user_of_request", key)
    return None if found is None else (run_row(found), found["result"])


def new_run_values(
    run: NewRun,
    status: RunStatus,
    next_seq: int,
    token: int,
    owner: bytes | None,
    wake_us: int | None,
    closed_us: int | None,
) -> tuple[Any, ...]:
    """Parameters of `insert_runs`."""
    return (
        run.shard,
        run.run_id,
        run.execution_id,
        run.namespace,
        run.workflow_id,
        run.type,
        run.queue,
        int(status),
        next_seq,
        token,
        owner,
        wake_us,
        run.started_us,
        closed_us,
        run.request_id,
        run.version,
    )


async def put_mail(
    tx: Tx,
    shard: int,
    execution_id: bytes,
    kind: int,
    body: bytes,
    blobs: Mapping[bytes, bytes] | None,
) -> int:
    """Leave a message; its position."""
    await put_blobs(tx, shard, execution_id, blobs)
    values = (shard, execution_id, kind, body, checksum(0, kind, body))
    position: int = (await tx.one("insert_mail", values))[0]
    return position


async def put_answers(
    tx: Tx, shard: int, execution_id: bytes, answers: Iterable[tuple[str, bytes]]
) -> None:
    """What senders wait for, in place of what they were told before."""
    for name, answer in answers:
        await tx.run("answer_request", (answer, shard, execution_id, name))


async def put_blobs(
    tx: Tx, shard: int, owner_id: bytes, blobs: Mapping[bytes, bytes] | None
) -> None:
    """Store spilled payloads, once per content, and note who refers to them."""
    if blobs:
        await tx.rows("put_blobs", [(shard, digest, data) for digest, data in blobs.items()])
        await tx.rows("use_blobs", [(shard, owner_id, digest) for digest in blobs])


def columns_of(pinned: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Types and their versions, each a parameter."""
    return [kind for kind, _ in pinned], [version for _, version in pinned]
