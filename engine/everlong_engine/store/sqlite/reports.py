"""What is said of an attempt by whoever completes it elsewhere. None of it needs a lease."""

from sqlite3 import Connection
from typing import Any

from everlong_engine.machine.elsewhere import UNWANTED, told_by_mark
from everlong_engine.model.requests import name_of_over, name_of_report
from everlong_engine.model.runs import AttemptState
from everlong_engine.model.writes import Beat, NotTaken, Report, ReportResult
from everlong_engine.store.sqlite.rows import put_mail, read_run
from everlong_engine.store.sqlite.statements import SQL

__all__ = ["put_beat", "put_report"]


def put_report(tx: Connection, report: Report) -> ReportResult:
    """The first answer wins. It is left as mail, with what it takes to know it again."""
    run = read_run(tx, report.shard, report.run_id)
    if run is None or run.execution_id != report.execution_id:
        return ReportResult(NotTaken.UNKNOWN)
    name = name_of_report(report.run_id, report.activity_id)
    key = (report.shard, report.execution_id, name)
    before = tx.execute(SQL["find_request"], key).fetchone()
    if before is not None:
        same = before[0] == report.mark
        other = NotTaken.ANSWERED if run.status.is_open else NotTaken.CLOSED
        told = _told(tx, report)
        return ReportResult(None if same else told_by_mark(told) or other, duplicate=same)
    refused = _refused(tx, report, _told(tx, report), is_open=run.status.is_open)
    if refused is not None:
        return ReportResult(refused)
    tx.execute(SQL["insert_request"], (*key, report.mark))
    put_mail(tx, report.shard, report.execution_id, report.kind, report.body, report.blobs)
    tx.execute(SQL["wake_run"], (report.now_us, report.shard, report.run_id))
    return ReportResult()


def put_beat(tx: Connection, beat: Beat) -> ReportResult:
    run = read_run(tx, beat.shard, beat.run_id)
    if run is None or run.execution_id != beat.execution_id:
        return ReportResult(NotTaken.UNKNOWN)
    told = _told(tx, beat)
    refused = _refused(tx, beat, told, is_open=run.status.is_open)
    if refused is None:
        values = (beat.now_us, beat.details, *_key(beat), beat.attempt)
        tx.execute(SQL["beat_attempt"], values)
    return ReportResult(refused, unwanted=told == UNWANTED)


def _told(tx: Connection, of: Report | Beat) -> object:
    """The mark that the end of the activity has left."""
    key = (of.shard, of.execution_id, name_of_over(of.run_id, of.activity_id))
    found = tx.execute(SQL["find_request"], key).fetchone()
    return None if found is None else found[0]


def _refused(tx: Connection, of: Report | Beat, told: object, *, is_open: bool) -> NotTaken | None:
    over = told_by_mark(told)
    if over is not None:
        return over
    if not is_open:
        return NotTaken.CLOSED
    newest = tx.execute(SQL["newest_attempt"], _key(of)).fetchone()
    if newest is None:  # It began with its schedule.
        return None if of.attempt == 1 else NotTaken.OVER
    attempt, state = newest
    at_work = state in (AttemptState.STARTED, AttemptState.ELSEWHERE, AttemptState.TAKEN)
    return None if at_work and attempt == of.attempt else NotTaken.OVER


def _key(of: Report | Beat) -> tuple[Any, ...]:
    return of.shard, of.run_id, of.activity_id
