"""What is said of an attempt by whoever completes it elsewhere."""

from msgspec.structs import replace

from everlong_engine.machine.elsewhere import UNWANTED, told_by_mark
from everlong_engine.model.requests import name_of_over, name_of_report
from everlong_engine.model.runs import AttemptState, RunRow
from everlong_engine.model.writes import Beat, NotTaken, Report, ReportResult
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.messages import wake_for_mail

__all__ = ["put_beat", "put_report"]


def put_report(data: MemoryData, report: Report) -> ReportResult:
    """Take the first answer, and know it again."""
    run = _run(data, report)
    if run is None:
        return ReportResult(NotTaken.UNKNOWN)
    key = (run.execution_id, name_of_report(run.run_id, report.activity_id))
    before = data.requests.get(key)
    if before is not None:
        same = before == report.mark
        other = NotTaken.ANSWERED if run.status.is_open else NotTaken.CLOSED
        told = told_by_mark(_told(data, report))
        return ReportResult(None if same else told or other, duplicate=same)
    refused = _refused(data, run, report)
    if refused is None:
        data.requests.put(key, report.mark)
        data.put_mail(run.execution_id, report.kind, report.body, report.blobs)
        wake_for_mail(data, run, report.now_us)
    return ReportResult(refused)


def put_beat(data: MemoryData, beat: Beat) -> ReportResult:
    run = _run(data, beat)
    if run is None:
        return ReportResult(NotTaken.UNKNOWN)
    refused = _refused(data, run, beat)
    key = (beat.run_id, beat.activity_id, beat.attempt)
    row = data.attempts.get(key)
    if refused is None and row is not None and row.state is AttemptState.ELSEWHERE:
        details = row.details if beat.details is None else beat.details
        data.attempts.put(key, replace(row, ended_us=beat.now_us, details=details))
    return ReportResult(refused, unwanted=_told(data, beat) == UNWANTED)


def _told(data: MemoryData, of: Report | Beat) -> bytes | None:
    """The mark that the end of the activity has left."""
    return data.requests.get((of.execution_id, name_of_over(of.run_id, of.activity_id)))


def _run(data: MemoryData, told: Report | Beat) -> RunRow | None:
    run = data.runs.get(told.run_id)
    return run if run is not None and run.execution_id == told.execution_id else None


def _refused(data: MemoryData, run: RunRow, told: Report | Beat) -> NotTaken | None:
    over = told_by_mark(_told(data, told))
    if over is not None:
        return over
    if not run.status.is_open:
        return NotTaken.CLOSED
    keys = data.attempts_of.keys(run.run_id)
    rows = [data.attempts.rows[key] for key in keys if key[1] == told.activity_id]
    newest = max(rows, key=lambda row: row.attempt, default=None)
    if newest is None:
        return None if told.attempt == 1 else NotTaken.OVER
    at_work = newest.state in (AttemptState.STARTED, AttemptState.ELSEWHERE, AttemptState.TAKEN)
    return None if at_work and newest.attempt == told.attempt else NotTaken.OVER
