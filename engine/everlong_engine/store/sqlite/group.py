"""A group of writes in one transaction: plain functions on a `sqlite3.Connection`.

Runs on the writer's thread in production and inline in simulation. No user code runs in here but
the statements of transactional activities, within bounds, and nothing waits. What many runs do at
once (starts, appends, closings) is done by a few statements with many rows; what is rare is done
one by one.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from sqlite3 import Connection
from typing import TypeVar

from everlong_engine.machine.tasks import marks_ahead
from everlong_engine.model.tasks import SettleTask, WithdrawTask
from everlong_engine.model.writes import (
    Answer,
    AnswerApproval,
    AnswerMail,
    Append,
    Ask,
    Beat,
    ForgetMail,
    MarkAttempts,
    Message,
    Pause,
    PauseMany,
    Pin,
    Release,
    Report,
    ResetRun,
    Resume,
    ResumeMany,
    StartRun,
    Terminate,
    Write,
    WriteResult,
)
from everlong_engine.store.sqlite.appends import append_all, append_with_statements
from everlong_engine.store.sqlite.leases import mark_attempts, release_all
from everlong_engine.store.sqlite.messages import (
    answer_approval,
    answer_mail,
    ask,
    pin_run,
    put_answer,
    put_message,
    terminate_run,
)
from everlong_engine.store.sqlite.outgoing import send_all
from everlong_engine.store.sqlite.pauses import pause_many, pause_run, resume_many, resume_run
from everlong_engine.store.sqlite.reports import put_beat, put_report
from everlong_engine.store.sqlite.resets import reset_run
from everlong_engine.store.sqlite.starts import start_runs
from everlong_engine.store.sqlite.statements import SQL
from everlong_engine.store.sqlite.tasks import queue_tasks, settle_task, withdraw_task

__all__ = ["apply_group", "transaction"]

T = TypeVar("T")


def transaction(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Run `work` in one immediate transaction; any exception rolls back and goes on."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            # What went wrong first is what counts; SQLite itself has rolled back by then.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise
    return result


def apply_group(connection: Connection, writes: Sequence[Write]) -> list[WriteResult]:
    """Apply every write, in one transaction; results in the order of the writes."""
    return transaction(connection, lambda tx: _apply(tx, writes))


def _apply(tx: Connection, writes: Sequence[Write]) -> list[WriteResult]:
    results: list[WriteResult] = [None] * len(writes)
    starts: list[tuple[int, StartRun]] = []
    appends: list[tuple[int, Append]] = []
    append = append_all
    for at, write in enumerate(writes):
        match write:
            case Append():
                appends.append((at, write))
                if write.statements:
                    append = append_with_statements
            case StartRun():
                starts.append((at, write))
            case _:
                pass
    if starts:
        start_runs(tx, starts, results)
    ahead = marks_ahead(writes)
    for at in sorted(ahead):
        results[at] = _apply_one(tx, writes[at])
    if appends:
        append(tx, appends, results)
    send_all(tx, writes, results)
    if len(starts) + len(appends) < len(writes):
        releases: list[tuple[int, Release]] = []
        for at, write in enumerate(writes):
            if isinstance(write, Release):
                releases.append((at, write))
            elif not (isinstance(write, (Append, StartRun)) or at in ahead):
                results[at] = _apply_one(tx, write)
        if releases:  # Last, so that they see the mail of this very group.
            release_all(tx, releases, results)
    return results


def _apply_one(tx: Connection, write: Write) -> WriteResult:
    match write:
        case Message():
            return put_message(tx, write)
        case MarkAttempts():
            return queue_tasks(tx, write) if write.tasks else mark_attempts(tx, write)
        case WithdrawTask():
            return withdraw_task(tx, write)
        case SettleTask():
            return settle_task(tx, write)
        case AnswerApproval():
            return answer_approval(tx, write)
        case Terminate():
            return terminate_run(tx, write)
        case Pause():
            return pause_run(tx, write)
        case PauseMany():
            return pause_many(tx, write)
        case Resume():
            return resume_run(tx, write)
        case ResetRun():
            return reset_run(tx, write)
        case ResumeMany():
            return resume_many(tx, write)
        case Pin():
            return pin_run(tx, write)
        case Ask():
            return ask(tx, write)
        case Answer():
            put_answer(tx, write)
            return None
        case AnswerMail():
            answer_mail(tx, write)
            return None
        case Report():
            return put_report(tx, write)
        case Beat():
            return put_beat(tx, write)
        case ForgetMail():
            tx.execute(SQL["delete_mail"], (write.position, write.execution_id))
            return None
        case Append() | StartRun() | Release():
            raise AssertionError("these are applied in bulk")
