"""What an owner does under its lease beside appending: claims, attempts, hand-backs, takeovers."""

from collections.abc import Iterable, Sequence
from typing import cast

from msgspec.structs import replace

from everlong_engine.machine.retries import exhausted_at
from everlong_engine.machine.takeover import judge
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import CODES, RunTerminated
from everlong_engine.model.limits import ATTEMPTS_KEPT, STRIKES_TO_POISON
from everlong_engine.model.runs import (
    AttemptRow,
    AttemptState,
    LoadedRun,
    Probation,
    RunRow,
    RunStatus,
)
from everlong_engine.model.writes import AppendResult, MarkAttempts, Refusal, Release
from everlong_engine.store.interface import Wants
from everlong_engine.store.memory import reads
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.pauses import hold, is_held

__all__ = [
    "bury",
    "claim_one",
    "claim_runs",
    "mark_attempts",
    "park",
    "put_attempts",
    "release",
    "resume_blocked",
    "take_over",
]


def claim_runs(data: MemoryData, wants: Wants, now_us: int, limit: int) -> list[LoadedRun]:
    """Take what is due, the longest due first, whatever its type."""
    claimed = [] if wants.held is None else _claim_again(data, wants.worker_id, wants.held)
    ripe = [run_id for wake_us, run_id in reads.due(data, wants) if wake_us <= now_us]
    claimed += [claim_one(data, wants.worker_id, run_id) for run_id in ripe[:limit]]
    return [loaded for loaded in claimed if loaded is not None]


def claim_one(data: MemoryData, worker_id: bytes, run_id: bytes) -> LoadedRun | None:
    """Take one run, if nobody has it and it can be read; the token moves on."""
    run = data.runs.get(run_id)
    if run is None or run.owner is not None or run.status is not RunStatus.RUNNING:
        return None
    return _take(data, run, worker_id)


def _claim_again(
    data: MemoryData, worker_id: bytes, held: frozenset[bytes]
) -> list[LoadedRun | None]:
    """What bears the worker's name and is not in its hands."""
    runs = [data.runs.rows[run_id] for run_id in sorted(data.of_owner.keys(worker_id))]
    return [_take(data, run, worker_id) for run in runs if run.execution_id not in held]


def _take(data: MemoryData, run: RunRow, worker_id: bytes) -> LoadedRun | None:
    taken = replace(
        run,
        owner=worker_id,
        lease_token=run.lease_token + 1,
        wake_us=None,
        probation=Probation.NONE,
    )
    data.runs.put(run.run_id, taken)
    try:
        return reads.load_run(data, taken)
    except UndecodablePayload as error:
        park(data, taken, error)
        return None


def park(data: MemoryData, run: RunRow, error: UndecodablePayload) -> None:
    """Block what nobody can drive, and nothing else."""
    parked = replace(
        run,
        owner=None,
        wake_us=None,
        status=RunStatus.BLOCKED,
        reason=f"what is stored of it cannot be read: {error}",
        probation=Probation.NONE,
    )
    data.runs.put(run.run_id, parked)


# -------------------------------------------------------------------------------------- takeover


def bury(data: MemoryData, worker_id: bytes) -> None:
    """A worker that stopped in order: it is dead, and left nothing."""
    worker = data.workers.get(worker_id)
    if worker is not None:
        dead = replace(worker, row=replace(worker.row, dead=True))
        data.workers.put(worker_id, dead)


def take_over(data: MemoryData, alive: Sequence[bytes], now_us: int, limit: int) -> int:
    """Mark the dead dead, then judge up to `limit` of their runs and free them."""
    fallen = [
        worker_id
        for worker_id, worker in data.workers.rows.items()
        if not worker.row.dead and worker_id not in alive
    ]
    for worker_id in fallen:
        bury(data, worker_id)
    if fallen:  # Notices of terminations were for owners that are dead.
        notices = [
            position
            for position, mail in data.mail.rows.items()
            if mail.kind == CODES[RunTerminated]
        ]
        for position in notices:
            data.mail.remove(position)
    rows = data.workers.rows
    living = {worker_id for worker_id, worker in rows.items() if not worker.row.dead}
    # Of whom nobody has heard is not here either.
    gone = sorted(cast("set[bytes]", set(data.of_owner.groups())) - living - {None})
    orphans = [run_id for worker_id in gone for run_id in sorted(data.of_owner.keys(worker_id))]
    driven = {run_id for run_id in orphans if data.runs.rows[run_id].probation.is_driven}
    # Suspects that were driven come last: until then they may explain this death.
    orphans.sort(key=lambda run_id: run_id in driven)
    for run_id in orphans[:limit]:
        _free(data, data.runs.rows[run_id], now_us, explained=bool(driven))
    return len(orphans[:limit])


def _free(data: MemoryData, run: RunRow, now_us: int, *, explained: bool) -> None:
    try:
        loaded = reads.load_run(data, run)
    except UndecodablePayload as error:
        park(data, run, error)
        return
    assert run.owner is not None
    owner = data.workers.rows.get(run.owner)
    name = "unknown" if owner is None else owner.row.name
    verdict = judge(loaded, name, now_us, explained=explained)
    put_attempts(data, run.run_id, verdict.lost)
    freed = replace(
        run,
        owner=None,
        lease_token=run.lease_token + 1,
        wake_us=verdict.wake_us,
        status=verdict.status,
        losses=verdict.losses,
        strikes=verdict.strikes,
        probation=Probation.NONE,
        reason=verdict.reason,
    )
    data.runs.put(run.run_id, freed)


def resume_blocked(data: MemoryData, wants: Wants, now_us: int) -> None:
    """Other code has come: blocked runs that it may drive are tried again; poison is not."""
    wanted = {*((kind, None) for kind in wants.types), *wants.pinned}
    parked = [
        run
        for run in data.runs.rows.values()
        if run.status is RunStatus.BLOCKED
        and (run.type, run.version) in wanted
        and run.strikes < STRIKES_TO_POISON
    ]
    for run in parked:
        held = is_held(data, run.execution_id, run.namespace, run.type)
        status = RunStatus.PAUSED if held else RunStatus.RUNNING
        awake = replace(run, status=status, wake_us=None if held else now_us, reason=None)
        data.runs.put(run.run_id, awake)


# ----------------------------------------------------------------------------------- under a lease


def mark_attempts(data: MemoryData, mark: MarkAttempts) -> AppendResult:
    run = data.runs.get(mark.run_id)
    if run is None or not run.status.is_open or run.lease_token != mark.token:
        return AppendResult(Refusal.FENCED)
    if mark.begins and run.status is not RunStatus.RUNNING:
        return AppendResult(Refusal.FENCED)
    if mark.probation is not None:
        run = replace(run, probation=mark.probation)
        data.runs.put(run.run_id, run)
    if mark.halt is not None and not _was_exhausted(data, mark):
        hold(data, run, mark.halt.now_us, mark.halt.by, mark.halt.reason)
    put_attempts(data, run.run_id, mark.attempts)
    for kind, body in mark.mail:
        data.put_mail(run.execution_id, kind, body, mark.blobs)
    return AppendResult()


def _was_exhausted(data: MemoryData, mark: MarkAttempts) -> bool:
    """Whether this mark was stored before, and its answer was lost."""
    for row in mark.attempts:
        known = [key for key in data.attempts_of.keys(mark.run_id) if key[1] == row.activity_id]
        newest = max((key[2] for key in known), default=0)
        if newest < row.attempt:
            return False
        state = data.attempts.rows[mark.run_id, row.activity_id, newest].state
        if newest == row.attempt and state is not AttemptState.EXHAUSTED:
            return False
    return True


def put_attempts(data: MemoryData, run_id: bytes, attempts: Iterable[AttemptRow]) -> None:
    """Write attempts, of which the last few of each activity are kept. The details of one stay
    unless there are new ones."""
    for row in attempts:
        key = (run_id, row.activity_id, row.attempt)
        before = data.attempts.get(key)
        if before is not None:
            details = before.details if row.details is None else row.details
            row = replace(row, details=details)  # noqa: PLW2901
        data.attempts.put(key, row)
        known = [key for key in data.attempts_of.keys(run_id) if key[1] == row.activity_id]
        begins = exhausted_at(data.attempts.rows[key] for key in known).get(row.activity_id)
        for old in known:
            if old[2] <= row.attempt - ATTEMPTS_KEPT and old[2] != begins:
                data.attempts.remove(old)


def release(data: MemoryData, release: Release) -> AppendResult:
    """Hand a run back. To fall asleep over mail is refused; to be parked, or looked at again at
    once, is not."""
    run = data.runs.get(release.run_id)
    is_as_known = (
        run is not None
        and run.status.is_open
        and run.lease_token == release.token
        and run.next_seq == release.base
    )
    if is_as_known and run is not None and run.owner is None:
        return AppendResult()  # Done before: only its owner leaves its token behind.
    falls_asleep = not release.blocked and not release.mail and release.wake_us != 0
    known = -1 if release.waits_with is None else release.waits_with
    if falls_asleep and any(one > known for one in data.mail_positions(release.execution_id)):
        return AppendResult(Refusal.MAIL)
    if run is None or not is_as_known:
        return AppendResult(Refusal.FENCED)
    status = RunStatus.BLOCKED if release.blocked else RunStatus.RUNNING
    paused = run.status is RunStatus.PAUSED
    handed_back = replace(
        run,
        owner=None,
        wake_us=None if paused else release.wake_us,
        status=RunStatus.PAUSED if paused else status,
        reason=release.reason,
        probation=Probation.NONE,
    )
    data.runs.put(run.run_id, handed_back)
    put_attempts(data, run.run_id, release.attempts)
    for kind, body in release.mail:
        data.put_mail(release.execution_id, kind, body, release.blobs)
    return AppendResult()
