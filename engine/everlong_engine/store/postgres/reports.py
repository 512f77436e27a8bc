"""What is said of an attempt by whoever completes it elsewhere. None of it needs a lease."""

from typing import Any

from everlong_engine.model.requests import name_of_report
from everlong_engine.model.runs import AttemptState
from everlong_engine.model.writes import Beat, NotTaken, Report, ReportResult
from everlong_engine.store.postgres.rows import put_mail, read_run
from everlong_engine.store.postgres.statements import Tx

__all__ = ["put_beat", "put_report"]


async def put_report(tx: Tx, report: Report) -> ReportResult:
    """The first answer wins. It is left as mail, with what it takes to know it again."""
    run = await read_run(tx, report.shard, report.run_id)
    if run is None or run.execution_id != report.execution_id:
        return ReportResult(NotTaken.UNKNOWN)
    name = name_of_report(report.run_id, report.activity_id)
    key = (report.shard, report.execution_id, name)
    before = await tx.one("find_request", key)
    if before is not None:
        same = before[0] == report.mark
        return ReportResult(None if same else NotTaken.ANSWERED, duplicate=same)
    refused = await _refused(tx, report, is_open=run.status.is_open)
    if refused is not None:
        return ReportResult(refused)
    await tx.run("insert_request", (*key, report.mark))
    await put_mail(tx, report.shard, report.execution_id, report.kind, report.body, report.blobs)
    await tx.run("wake_run", (report.now_us, report.shard, report.run_id))
    return ReportResult()


async def put_beat(tx: Tx, beat: Beat) -> ReportResult:
    run = await read_run(tx, beat.shard, beat.run_id)
    if run is None or run.execution_id != beat.execution_id:
        return ReportResult(NotTaken.UNKNOWN)
    refused = await _refused(tx, beat, is_open=run.status.is_open)
    if refused is None:
        values = (beat.now_us, beat.details, *_key(beat), beat.attempt)
        await tx.run("beat_attempt", values)
    return ReportResult(refused)


async def _refused(tx: Tx, told: Report | Beat, *, is_open: bool) -> NotTaken | None:
    if not is_open:
        return NotTaken.CLOSED
    newest = await tx.one("newest_attempt", _key(told))
    if newest is None:  # It began with its schedule.
        return None if told.attempt == 1 else NotTaken.OVER
    attempt, state = newest
    at_work = state in (AttemptState.STARTED, AttemptState.ELSEWHERE)
    return None if at_work and attempt == told.attempt else NotTaken.OVER


def _key(told: Report | Beat) -> tuple[Any, ...]:
    return told.shard, told.run_id, told.activity_id
