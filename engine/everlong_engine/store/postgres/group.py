"""A group of writes: one statement for what most groups hold, one transaction for what is left.

Whoever wrote has no answer yet, so what is judged in the transaction behind is judged as if it had
come later. In it, what many runs do at once (starts, appends) is done by a few statements with many
rows, and what is rare is done one by one.
"""

from collections.abc import Sequence, Set
from functools import partial

from everlong_engine.machine.tasks import marks_ahead
from everlong_engine.model.tasks import SettleTask, WithdrawTask
from everlong_engine.model.writes import (
    Answer,
    AnswerApproval,
    AnswerMail,
    Append,
    AppendResult,
    Ask,
    Beat,
    ForgetMail,
    MarkAttempts,
    Message,
    MessageResult,
    Pause,
    PauseMany,
    Pin,
    Release,
    Report,
    ResetRun,
    Resume,
    ResumeMany,
    StartResult,
    StartRun,
    Terminate,
    Write,
    WriteResult,
)
from everlong_engine.store.postgres.appends import append_all, append_with_statements
from everlong_engine.store.postgres.connection import Line
from everlong_engine.store.postgres.leases import mark_attempts, release_all
from everlong_engine.store.postgres.messages import (
    answer_approval,
    answer_mail,
    ask,
    pin_run,
    put_answer,
    put_message,
    terminate_run,
)
from everlong_engine.store.postgres.one_trip import OneTrip
from everlong_engine.store.postgres.outgoing import send_all
from everlong_engine.store.postgres.pauses import pause_many, pause_run, resume_many, resume_run
from everlong_engine.store.postgres.reports import put_beat, put_report
from everlong_engine.store.postgres.resets import reset_run
from everlong_engine.store.postgres.spread import Spread, parts_of, spans
from everlong_engine.store.postgres.starts import start_runs
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.task_groups import goes_together, queue_all, settle_all
from everlong_engine.store.postgres.tasks import queue_tasks, settle_task, withdraw_task

__all__ = ["commit_group", "commit_spread", "is_for_others"]


class _Group:
    """Writes that are stored together, and how far that has come."""

    def __init__(self, writes: Sequence[Write]) -> None:
        self._writes = writes
        self.results: list[WriteResult] = [None] * len(writes)
        self._left: list[tuple[int, Write]] = []

    @property
    def left(self) -> list[Write]:
        """What is to be judged in a transaction."""
        return [write for _, write in self._left]

    async def at_once(self, tx: Tx) -> bool:
        """One statement; whether it has left anything."""
        done = await OneTrip(self._writes).go(tx, self.results)
        self._left = [(at, write) for at, write in enumerate(self._writes) if at not in done]
        return bool(self._left)

    async def behind(self, tx: Tx) -> None:
        """What is left, in a transaction."""
        judged = await _apply(tx, self.left)
        for (at, _), result in zip(self._left, judged, strict=True):
            self.results[at] = result


async def commit_group(line: Line, writes: Sequence[Write]) -> list[WriteResult]:
    """Store every write; results in the order of the writes.

    If the transaction behind fails, the group is repeated, and what was stored is known again.
    """
    group = _Group(writes)
    await line.in_turn(group.at_once, group.behind)
    return group.results


async def commit_spread(spread: Spread, writes: Sequence[Write]) -> list[WriteResult]:
    """The same, a group of each shard. Those that may reach into other shards come last, one after
    the other: at once they could wait for each other."""
    parts = [(part, _Group([write for _, write in part])) for part in parts_of(writes)]
    groups = [group for _, group in parts]
    async with spread.turn:
        await spread.each([partial(_at_once, group) for group in groups])
        left = [(group, spans(group.left)) for group in groups if group.left]
        await spread.write_each([group.behind for group, why in left if why is None])
        for group, why in left:
            if why is not None:
                await spread.first.write(group.behind, why.value)
    results: list[WriteResult] = [None] * len(writes)
    for part, group in parts:
        for (at, _), result in zip(part, group.results, strict=True):
            results[at] = result
    return results


async def _at_once(group: _Group, line: Line) -> bool:
    return await line.at_once(group.at_once)


def is_for_others(write: Write, result: WriteResult, ours: Set[bytes]) -> bool:
    """Whether a write has left something that others may wait for. `ours` are this process's own
    workers: what is left for them, they know."""
    match write:
        case StartRun():
            return isinstance(result, StartResult) and write.first is None
        case Append():
            return isinstance(result, AppendResult) and (result.delivered or bool(write.tasks))
        case Message():
            return isinstance(result, MessageResult) and result.owner not in ours
        case Release():
            return write.wake_us == 0 or bool(write.mail)
        case MarkAttempts():
            return bool(write.tasks)
        case SettleTask():
            return not write.keeps
        case WithdrawTask() | AnswerMail() | ForgetMail() | Beat():
            return False
        case _:
            return True


async def _apply(tx: Tx, writes: Sequence[Write]) -> list[WriteResult]:
    results: list[WriteResult] = [None] * len(writes)
    starts: list[tuple[int, StartRun]] = []
    appends: list[tuple[int, Append]] = []
    with_statements = False
    for at, write in enumerate(writes):
        match write:
            case Append():
                with_statements = with_statements or bool(write.statements)
                appends.append((at, write))
            case StartRun():
                starts.append((at, write))
            case _:
                pass
    if starts:
        await start_runs(tx, starts, results)
    ahead = marks_ahead(writes)
    await _queue_tasks(tx, writes, sorted(ahead), results)
    if appends:
        append = append_with_statements if with_statements else append_all
        await append(tx, appends, results)
    await send_all(tx, writes, results)
    if len(starts) + len(appends) < len(writes):
        releases: list[tuple[int, Release]] = []
        rest: list[tuple[int, Write]] = []
        for at, write in enumerate(writes):
            if isinstance(write, Release):
                releases.append((at, write))
            elif not (isinstance(write, (Append, StartRun)) or at in ahead):
                rest.append((at, write))
        settles = [(at, write) for at, write in rest if isinstance(write, SettleTask)]
        if len(settles) == len(rest) and goes_together([write for _, write in rest]):
            await settle_all(tx, settles, results)
        else:
            for at, write in rest:
                results[at] = await _apply_one(tx, write)
        if releases:  # Last, so that they see the mail of this very group.
            await release_all(tx, releases, results)
    return results


async def _queue_tasks(
    tx: Tx, writes: Sequence[Write], ahead: Sequence[int], results: list[WriteResult]
) -> None:
    marks = [(at, mark) for at in ahead if isinstance(mark := writes[at], MarkAttempts)]
    if goes_together([mark for _, mark in marks]):
        await queue_all(tx, marks, results)
    else:
        for at, mark in marks:
            results[at] = await queue_tasks(tx, mark)


async def _apply_one(tx: Tx, write: Write) -> WriteResult:
    match write:
        case Message():
            return await put_message(tx, write)
        case MarkAttempts():
            return await (queue_tasks if write.tasks else mark_attempts)(tx, write)
        case WithdrawTask():
            return await withdraw_task(tx, write)
        case SettleTask():
            return await settle_task(tx, write)
        case AnswerApproval():
            return await answer_approval(tx, write)
        case Terminate():
            return await terminate_run(tx, write)
        case Pause():
            return await pause_run(tx, write)
        case PauseMany():
            return await pause_many(tx, write)
        case Resume():
            return await resume_run(tx, write)
        case ResetRun():
            return await reset_run(tx, write)
        case ResumeMany():
            return await resume_many(tx, write)
        case Pin():
            return await pin_run(tx, write)
        case Ask():
            return await ask(tx, write)
        case Answer():
            await put_answer(tx, write)
            return None
        case AnswerMail():
            await answer_mail(tx, write)
            return None
        case Report():
            return await put_report(tx, write)
        case Beat():
            return await put_beat(tx, write)
        case ForgetMail():
            await tx.run("delete_mail", (write.position, write.execution_id))
            return None
        case Append() | StartRun() | Release():
            raise AssertionError("these are applied in bulk")
