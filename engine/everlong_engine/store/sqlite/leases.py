"""What an owner does under its lease beside appending: claims, attempts, hand-backs, takeovers."""

import heapq
import logging
from collections.abc import Mapping, Sequence
from sqlite3 import SQLITE_LIMIT_LENGTH, Connection
from typing import Any, Final

from everlong_engine.machine.takeover import judge
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.limits import ATTEMPTS_KEPT
from everlong_engine.model.runs import AttemptState, LoadedRun, RunStatus
from everlong_engine.model.writes import AppendResult, MarkAttempts, Release, WriteResult
from everlong_engine.store.interface import Wants
from everlong_engine.store.sqlite import reads
from everlong_engine.store.sqlite.appends import ACCEPTED, FENCED, MAIL
from everlong_engine.store.sqlite.columns import fetch_one, named
from everlong_engine.store.sqlite.pauses import hold
from everlong_engine.store.sqlite.rows import forget_notices, put_mail, read_run, run_row
from everlong_engine.store.sqlite.statements import SQL, execute_rows

__all__ = [
    "claim_one",
    "claim_runs",
    "mark_attempts",
    "park",
    "put_attempts",
    "release_all",
    "take_over",
]


logger = logging.getLogger("everlong")

_INT_MAX: Final = (1 << 31) - 1
_REASON_CHARS_MAX: Final = 2_000


def claim_runs(tx: Connection, wants: Wants, now_us: int, limit: int) -> list[LoadedRun]:
    """Take what is due, the longest due first, so that no type of workflow starves another."""
    claimed = [] if wants.held is None else _claim_again(tx, wants.worker_id, wants.held)
    due: list[tuple[int, int, bytes]] = []
    for kind in wants.types:
        due += tx.execute(SQL["due_runs"], (now_us, wants.queue, kind, limit)).fetchall()
    if wants.pinned and tx.execute(SQL["any_pinned"]).fetchone() is not None:
        for kind, version in wants.pinned:
            values = (now_us, wants.queue, kind, limit, version)
            due += tx.execute(SQL["due_pinned"], values).fetchall()
    for _, shard, run_id in heapq.nsmallest(limit, due):
        loaded = claim_one(tx, wants.worker_id, shard, run_id)
        if loaded is not None:
            claimed.append(loaded)
    return claimed


def claim_one(tx: Connection, worker_id: bytes, shard: int, run_id: bytes) -> LoadedRun | None:
    """Take one run, if nobody has it and it can be read; the token moves on."""
    return _claim(tx, "claim_run", (worker_id, shard, run_id), shard, run_id)


def _claim_again(tx: Connection, worker_id: bytes, held: frozenset[bytes]) -> list[LoadedRun]:
    """What bears the worker's name and is not in its hands."""
    claimed: list[LoadedRun] = []
    for shard, run_id, execution_id in tx.execute(SQL["runs_of_owner"], (worker_id,)).fetchall():
        if execution_id not in held:
            loaded = _claim(tx, "claim_again", (shard, run_id, worker_id), shard, run_id)
            if loaded is not None:
                claimed.append(loaded)
    return claimed


def _claim(
    tx: Connection, query: str, values: tuple[Any, ...], shard: int, run_id: bytes
) -> LoadedRun | None:
    """A run that is taken now; one that cannot be read is parked."""
    name = f"run {named(run_id)}"
    try:
        found = fetch_one(tx, SQL[query], values, name)
        return None if found is None else reads.load_run(tx, run_row(found))
    except UndecodablePayload as error:
        park(tx, shard, run_id, error)
        return None


def park(tx: Connection, shard: int, run_id: bytes, error: Exception) -> None:
    """Block what nobody can drive, and nothing else: it must not stop the others."""
    reason = (
        f"what is stored of it cannot be read: {error}. Put back a copy of the file from before "
        "the damage and resume it, or terminate it"
    )
    text = reason if len(reason) <= _REASON_CHARS_MAX else f"{reason[:_REASON_CHARS_MAX]}…"
    # Its row may be larger than what is ever read here.
    most = tx.setlimit(SQLITE_LIMIT_LENGTH, _INT_MAX)
    try:
        tx.execute(SQL["park_run"], (text, shard, run_id)).close()
    finally:
        tx.setlimit(SQLITE_LIMIT_LENGTH, most)
    logger.error("run %s is blocked: %s", named(run_id), text)


def take_over(tx: Connection, alive: Sequence[bytes], now_us: int, limit: int) -> int:
    """First the dead are marked dead, then their runs are judged and freed for claims."""
    buried = tx.execute(SQL["bury_workers"], (reads.many(alive),))
    if buried.rowcount:
        forget_notices(tx)
    names = {worker.worker_id: worker.name for worker in reads.workers(tx)}
    # Suspects that were driven come last: until then they may explain this death.
    orphans = tx.execute(SQL["orphans"], (limit,)).fetchall()
    explained = tx.execute(SQL["driven_suspect"]).fetchone() is not None
    for shard, run_id in orphans:
        try:
            _free(tx, shard, run_id, names, now_us, explained=explained)
        except UndecodablePayload as error:
            park(tx, shard, run_id, error)
    return len(orphans)


def _free(
    tx: Connection,
    shard: int,
    run_id: bytes,
    names: Mapping[bytes, str],
    now_us: int,
    *,
    explained: bool,
) -> None:
    row = read_run(tx, shard, run_id)
    assert row is not None, "it was found in this transaction"
    loaded = reads.load_run(tx, row)
    verdict = judge(loaded, names.get(row.owner or b"", "unknown"), now_us, explained=explained)
    put_attempts(tx, MarkAttempts(shard, run_id, row.lease_token, verdict.lost))
    tx.execute(
        SQL["take_orphan"],
        (
            verdict.wake_us,
            int(verdict.status),
            verdict.losses,
            verdict.strikes,
            verdict.reason,
            shard,
            run_id,
            row.lease_token,
        ),
    )


def mark_attempts(tx: Connection, mark: MarkAttempts) -> AppendResult:
    key = (mark.shard, mark.run_id, mark.token)
    found = tx.execute(SQL["check_lease"], key).fetchone()
    if found is None or (mark.begins and found[0] != RunStatus.RUNNING):
        return FENCED
    if mark.probation is not None:
        tx.execute(SQL["mark_probation"], (int(mark.probation), *key))
    if mark.halt is not None and not _was_exhausted(tx, mark):
        row = read_run(tx, mark.shard, mark.run_id)
        assert row is not None, "its lease has just been checked"
        hold(tx, row, mark.halt.now_us, mark.halt.by, mark.halt.reason)
    put_attempts(tx, mark)
    if mark.mail:
        row = read_run(tx, mark.shard, mark.run_id)
        assert row is not None, "its lease has just been checked"
        for kind, body in mark.mail:
            put_mail(tx, mark.shard, row.execution_id, kind, body, mark.blobs)
    return ACCEPTED


def _was_exhausted(tx: Connection, mark: MarkAttempts) -> bool:
    """Whether the commit of this mark succeeded before, and its answer was lost."""
    for row in mark.attempts:
        key = (mark.shard, mark.run_id, row.activity_id)
        newest = tx.execute(SQL["newest_attempt"], key).fetchone()
        if newest is None or newest[0] < row.attempt:
            return False
        if newest[0] == row.attempt and newest[1] != AttemptState.EXHAUSTED:
            return False
    return True


def put_attempts(tx: Connection, mark: MarkAttempts) -> None:
    """Write attempt rows, and keep the last few of each activity."""
    for row in mark.attempts:
        tx.execute(
            SQL["put_attempt"],
            (
                mark.shard,
                mark.run_id,
                row.activity_id,
                row.attempt,
                int(row.state),
                row.started_us,
                row.ended_us,
                row.retry_us,
                row.error_type,
                row.error,
                row.traceback,
                row.worker,
                row.details,
            ),
        )
        if row.attempt > ATTEMPTS_KEPT:
            oldest = row.attempt - ATTEMPTS_KEPT
            tx.execute(SQL["trim_attempts"], (mark.shard, mark.run_id, row.activity_id, oldest))


def release_all(
    tx: Connection, releases: list[tuple[int, Release]], results: list[WriteResult]
) -> None:
    """Hand runs back; those that just fall asleep go in one statement, if each is there once."""
    one_each = len({release.run_id for _, release in releases}) == len(releases)
    inbox_empty = tx.execute(SQL["any_mail"]).fetchone() is None
    asleep: list[tuple[int, Release]] = []
    for at, release in releases:
        falls_asleep = not (release.blocked or release.mail or release.wake_us == 0)
        if falls_asleep and not inbox_empty and _has_mail(tx, release):
            results[at] = _unless_done(tx, release, MAIL)
        elif falls_asleep and one_each and not release.attempts:
            asleep.append((at, release))
        else:
            results[at] = _release_one(tx, release)
    if asleep:
        rows = [(one.shard, one.run_id, one.token, one.base, one.wake_us) for _, one in asleep]
        hit = {row[0] for row in execute_rows(tx, "sleep_runs", rows)}
        for at, release in asleep:
            accepted = release.run_id in hit
            results[at] = ACCEPTED if accepted else _unless_done(tx, release, FENCED)


def _unless_done(tx: Connection, release: Release, refusal: AppendResult) -> AppendResult:
    """The answer to a hand-back that is refused now, but may have been done before."""
    key = (release.shard, release.run_id, release.token, release.base)
    done = tx.execute(SQL["was_handed_back"], key).fetchone() is not None
    return ACCEPTED if done else refusal


def _has_mail(tx: Connection, release: Release) -> bool:
    key = (release.shard, release.execution_id)
    found = tx.execute(SQL["mail_positions_of"], key)
    if release.waits_with is None:
        return found.fetchone() is not None
    return any(position > release.waits_with for (position,) in found.fetchall())


def _release_one(tx: Connection, release: Release) -> AppendResult:
    status = RunStatus.BLOCKED if release.blocked else RunStatus.RUNNING
    hit = tx.execute(
        SQL["release_run"],
        (
            release.wake_us,
            int(status),
            release.reason,
            release.shard,
            release.run_id,
            release.token,
            release.base,
        ),
    ).fetchone()
    if hit is None:
        return _unless_done(tx, release, FENCED)
    if release.attempts:
        put_attempts(
            tx, MarkAttempts(release.shard, release.run_id, release.token, release.attempts)
        )
    for kind, body in release.mail:
        put_mail(tx, release.shard, release.execution_id, kind, body, release.blobs)
    return ACCEPTED
