"""What an owner does under its lease beside appending: claims, attempts, hand-backs, takeovers."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from everlong_engine.machine.takeover import judge
from everlong_engine.model.ids import id_text
from everlong_engine.model.limits import ATTEMPTS_KEPT
from everlong_engine.model.runs import AttemptRow, AttemptState, LoadedRun, RunRow, RunStatus
from everlong_engine.model.writes import AppendResult, MarkAttempts, Release, WriteResult
from everlong_engine.store.interface import Wants
from everlong_engine.store.postgres import reads
from everlong_engine.store.postgres.appends import ACCEPTED, FENCED, MAIL
from everlong_engine.store.postgres.pauses import hold
from everlong_engine.store.postgres.rows import columns_of, put_mail, read_run, run_row
from everlong_engine.store.postgres.statements import Tx

__all__ = [
    "attempt_values",
    "bury",
    "claim_one",
    "claim_runs",
    "free_orphans",
    "mark_attempts",
    "park",
    "put_attempts",
    "release_all",
    "take_over",
    "witnesses",
]


logger = logging.getLogger("everlong")

_REASON_CHARS_MAX: Final = 2_000


async def claim_runs(tx: Tx, wants: Wants, now_us: int, limit: int) -> list[LoadedRun]:
    """Take what is due, the longest due first, so that no type of workflow starves another."""
    claimed = [] if wants.held is None else await _claim_again(tx, wants.worker_id, wants.held)
    if limit > 0:
        pinned = columns_of(wants.pinned)
        values = (now_us, wants.queue, wants.types, *pinned, limit, wants.worker_id, wants.fleet)
        due = await tx.all("due_runs", values)
        due.sort(key=lambda one: (one["due_us"], one["shard"], one["run_id"]))
        claimed += await _load(tx, [run_row(one) for one in due])
    return claimed


async def claim_one(tx: Tx, worker_id: bytes, shard: int, run_id: bytes) -> LoadedRun | None:
    """Take one run, if nobody has it and it can be read; the token moves on."""
    taken = await tx.all("claim_run", (worker_id, shard, run_id))
    loaded = await _load(tx, [run_row(one) for one in taken])
    return loaded[0] if loaded else None


async def _claim_again(tx: Tx, worker_id: bytes, held: frozenset[bytes]) -> list[LoadedRun]:
    """What bears the worker's name and is not in its hands."""
    rows: list[RunRow] = []
    for shard, run_id, execution_id in await tx.all("runs_of_owner", (worker_id,)):
        if execution_id not in held:
            taken = await tx.one("claim_again", (shard, run_id, worker_id))
            if taken is not None:
                rows.append(run_row(taken))
    return await _load(tx, rows)


async def _load(tx: Tx, rows: Sequence[RunRow]) -> list[LoadedRun]:
    """Runs that are taken now; one that cannot be read is parked, and stops nobody else."""
    loaded: list[LoadedRun] = []
    for one in await reads.load_runs(tx, rows):
        if isinstance(one, LoadedRun):
            loaded.append(one)
        else:
            row, error = one
            await park(tx, row.shard, row.run_id, error)
    return loaded


async def park(tx: Tx, shard: int, run_id: bytes, error: Exception) -> None:
    """Block what nobody can drive, and nothing else: it must not stop the others."""
    reason = (
        f"what is stored of it cannot be read: {error}. Put back a backup from before the damage "
        "and resume it, or terminate it"
    )
    text = reason if len(reason) <= _REASON_CHARS_MAX else f"{reason[:_REASON_CHARS_MAX]}…"
    await tx.run("park_run", (text, shard, run_id))
    logger.error("run %s is blocked: %s", id_text(run_id), text)


async def take_over(tx: Tx, now_us: int, limit: int) -> int:
    """Judge runs of dead workers, and free them for claims. The dead are marked dead before, in a
    transaction of their own: whoever wakes up finds that out with its next beat."""
    explained, names = await witnesses(tx)
    orphans = [run_row(values) for values in await tx.all("orphans", (limit,))]
    return await free_orphans(tx, orphans, names, now_us, explained=explained)


async def witnesses(tx: Tx) -> tuple[bool, dict[bytes, str]]:
    """Whether a suspect that was driven may explain this death, and what workers are called. It
    comes last, so that it explains all others."""
    names = {worker.worker_id: worker.name for worker in await reads.workers(tx)}
    return await tx.one("driven_suspect") is not None, names


async def free_orphans(
    tx: Tx, orphans: Sequence[RunRow], names: Mapping[bytes, str], now_us: int, *, explained: bool
) -> int:
    """Runs of dead workers, whose rows are locked; how many."""
    for one in await reads.load_runs(tx, orphans):
        if isinstance(one, LoadedRun):
            await _free(tx, one, names, now_us, explained=explained)
        else:
            row, error = one
            await park(tx, row.shard, row.run_id, error)
    return len(orphans)


async def bury(tx: Tx, alive: Sequence[bytes]) -> None:
    """Whoever has not been heard of for a whole lease is dead from here on."""
    buried = [row[0] for row in await tx.all("bury_workers", (alive,))]
    if buried:
        await tx.run("forget_notices", (buried,))


async def _free(
    tx: Tx, loaded: LoadedRun, names: Mapping[bytes, str], now_us: int, *, explained: bool
) -> None:
    row = loaded.row
    verdict = judge(loaded, names.get(row.owner or b"", "unknown"), now_us, explained=explained)
    await put_attempts(tx, MarkAttempts(row.shard, row.run_id, row.lease_token, verdict.lost))
    values = (verdict.wake_us, int(verdict.status), verdict.losses, verdict.strikes, verdict.reason)
    await tx.run("take_orphan", (*values, row.shard, row.run_id, row.lease_token))


async def mark_attempts(tx: Tx, mark: MarkAttempts) -> AppendResult:
    key = (mark.shard, mark.run_id, mark.token)
    await tx.rows("lock_runs", [key[:2]])
    found = await tx.one("check_lease", key)
    if found is None or (mark.begins and found[0] != RunStatus.RUNNING):
        return FENCED
    if mark.probation is not None:
        await tx.run("mark_probation", (int(mark.probation), *key))
    if mark.halt is not None and not await _was_exhausted(tx, mark):
        row = await read_run(tx, mark.shard, mark.run_id)
        assert row is not None, "its lease has just been checked"
        await hold(tx, row, mark.halt.now_us, mark.halt.by, mark.halt.reason)
    await put_attempts(tx, mark)
    if mark.mail:
        row = await read_run(tx, mark.shard, mark.run_id)
        assert row is not None, "its lease has just been checked"
        for kind, body in mark.mail:
            await put_mail(tx, mark.shard, row.execution_id, kind, body, mark.blobs)
    return ACCEPTED


async def _was_exhausted(tx: Tx, mark: MarkAttempts) -> bool:
    """Whether the commit of this mark succeeded before, and its answer was lost."""
    for row in mark.attempts:
        newest = await tx.one("newest_attempt", (mark.shard, mark.run_id, row.activity_id))
        if newest is None or newest[0] < row.attempt:
            return False
        if newest[0] == row.attempt and newest[1] != AttemptState.EXHAUSTED:
            return False
    return True


async def put_attempts(tx: Tx, mark: MarkAttempts) -> None:
    """Write attempt rows, and keep the last few of each activity."""
    last = {(row.activity_id, row.attempt): row for row in mark.attempts}
    if len(last) < len(mark.attempts):  # Each word may keep what the one before has said.
        for row in mark.attempts:
            await tx.rows("put_attempts", [attempt_values(mark.shard, mark.run_id, row)])
    elif last:
        rows = [attempt_values(mark.shard, mark.run_id, row) for row in mark.attempts]
        await tx.rows("put_attempts", rows)
    for row in mark.attempts:
        if row.attempt > ATTEMPTS_KEPT:
            oldest = row.attempt - ATTEMPTS_KEPT
            await tx.run("trim_attempts", (mark.shard, mark.run_id, row.activity_id, oldest))


def attempt_values(shard: int, run_id: bytes, row: AttemptRow) -> tuple[Any, ...]:
    """Parameters of `put_attempts`. PostgreSQL keeps no NUL in a text, and errors say anything."""
    return (
        shard,
        run_id,
        row.activity_id,
        row.attempt,
        int(row.state),
        row.started_us,
        row.ended_us,
        row.retry_us,
        _plain(row.error_type),
        _plain(row.error),
        _plain(row.traceback),
        _plain(row.worker),
        row.details,
    )


def _plain(text: str) -> str:
    return text.replace("\0", "\\0")


async def release_all(
    tx: Tx, releases: list[tuple[int, Release]], results: list[WriteResult]
) -> None:
    """Hand runs back; those that just fall asleep go in one statement, if each is there once."""
    one_each = len({release.run_id for _, release in releases}) == len(releases)
    runs = sorted({(release.shard, release.run_id) for _, release in releases})
    await tx.rows("lock_runs", runs)
    asleep: list[tuple[int, Release]] = []
    for at, release in releases:
        falls_asleep = not (release.blocked or release.mail or release.wake_us == 0)
        if falls_asleep and await _has_mail(tx, release):
            results[at] = await _unless_done(tx, release, MAIL)
        elif falls_asleep and one_each and not release.attempts:
            asleep.append((at, release))
        else:
            results[at] = await _release_one(tx, release)
    if asleep:
        rows = [(one.shard, one.run_id, one.token, one.base, one.wake_us) for _, one in asleep]
        hit = {row[0] for row in await tx.rows("sleep_runs", rows)}
        for at, release in asleep:
            accepted = release.run_id in hit
            results[at] = ACCEPTED if accepted else await _unless_done(tx, release, FENCED)


async def _unless_done(tx: Tx, release: Release, refusal: AppendResult) -> AppendResult:
    """The answer to a hand-back that is refused now, but may have been done before."""
    key = (release.shard, release.run_id, release.token, release.base)
    done = await tx.one("was_handed_back", key) is not None
    return ACCEPTED if done else refusal


async def _has_mail(tx: Tx, release: Release) -> bool:
    key = (release.shard, release.execution_id)
    if release.waits_with is None:
        return await tx.one("has_mail", key) is not None
    found = await tx.all("mail_positions_of", key)
    return any(position > release.waits_with for (position,) in found)


async def _release_one(tx: Tx, release: Release) -> AppendResult:
    status = RunStatus.BLOCKED if release.blocked else RunStatus.RUNNING
    hit = await tx.one(
        "release_run",
        (
            release.wake_us,
            int(status),
            release.reason,
            release.shard,
            release.run_id,
            release.token,
            release.base,
        ),
    )
    if hit is None:
        return await _unless_done(tx, release, FENCED)
    if release.attempts:
        await put_attempts(
            tx, MarkAttempts(release.shard, release.run_id, release.token, release.attempts)
        )
    for kind, body in release.mail:
        await put_mail(tx, release.shard, release.execution_id, kind, body, release.blobs)
    return ACCEPTED
