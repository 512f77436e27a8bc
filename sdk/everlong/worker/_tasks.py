"""Takes activities from task queues, for runs that other workers own, and runs them here.

A task that is taken is this worker's until it has settled it or is declared dead. Its retries need
no owner: a failed attempt goes back into the queue with the time of the next one. Only the outcome
that counts goes to the run, as mail.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from everlong._definitions import ActivityDefinition
from everlong._records import Records
from everlong.exceptions import EverlongError, StoreError
from everlong.worker._bench import Bench
from everlong.worker._task_outcomes import Settled, TaskJudge
from everlong_engine import (
    ActivityCancelled,
    ActivityScheduled,
    Alarm,
    AppendResult,
    AttemptRow,
    AttemptState,
    Blobs,
    Engine,
    EntityChanges,
    Refusal,
    RunRow,
    SettleTask,
    TakenTask,
    TaskKey,
    TaskWants,
    WriteResult,
    limits,
)

__all__ = ["TaskAttempt", "TaskTaker"]

logger = logging.getLogger("everlong")

_AGAIN_S: Final = 0.5
_STOP_S: Final = 5.0
_AGAIN_US: Final = 1_000_000
_UNREADABLE_US: Final = 10_000_000
_DETAILS_EVERY_US: Final = 1_000_000
_QUIET: Final = 30
"""Looks of the clock, one a second, that a server is spared while nothing is due."""

_CONFLICT: Final = AppendResult(Refusal.CONFLICT)

_Key = tuple[bytes, int, int]


class TaskAttempt(Struct, eq=False):
    """An attempt whose run is another worker's, or nobody's."""

    taken: TakenTask
    scheduled: ActivityScheduled
    definition: ActivityDefinition
    attempt: int
    started_us: int
    task: "asyncio.Future[Any] | None" = None
    timed_out: str | None = None
    abandoned: bool = False
    """Nobody wants its outcome any more."""
    cancel_asked: bool = False
    left_alone: bool = False
    interrupt: Callable[[], object] | None = None
    details: bytes | None = None
    previous_details: bytes | None = None
    details_stored_us: int = 0
    beat: Alarm | None = None
    limit: Alarm | None = None
    when_stored: Callable[[], None] | None = None
    """Never called: who needs it runs beside its run."""
    entities: EntityChanges | None = None
    """Never there, likewise."""
    settling: bool = False
    """How it ended is on its way into the store."""

    @property
    def place(self) -> RunRow:
        return self.taken.run

    @property
    def origin(self) -> str:
        return self.taken.task.origin

    @property
    def number_in_set(self) -> int:
        return self.attempt - self.taken.task.behind

    @property
    def key(self) -> _Key:
        return self.taken.run.run_id, self.scheduled.activity_id, self.taken.token

    def hand_out(self, number: int) -> int:
        return 0 if self.abandoned or number != self.attempt else self.taken.task.seq


def _key_of(taken: TakenTask) -> TaskKey:
    task = taken.task
    return TaskKey(taken.run.run_id, task.activity_id, task.attempt, taken.token)


class TaskTaker:
    """The tasks of one worker.

    Args:
        hosted: the activities that it may run, by name.
    """

    def __init__(
        self,
        engine: Engine,
        records: Records,
        wants: TaskWants,
        bench: Bench,
        hosted: Mapping[str, ActivityDefinition],
    ) -> None:
        self._engine = engine
        self._records = records
        self._wants = wants
        self._bench = bench
        self._hosted = hosted
        self._judge = TaskJudge(engine, wants.worker)
        self._held: dict[_Key, TaskAttempt] = {}
        self._wake = asyncio.Event()
        self._slots = 0
        """That the line has given for tasks which wait."""
        self._in_line = False
        self._in_doubt = False
        """A look that takes ended without an answer: what it took may bear this worker's name."""
        self._unknown: set[_Key] = set()
        """What bears this worker's name and was not in its hands at the last look."""
        self._loop: asyncio.Task[None] | None = None
        self._alarm: Alarm
        self._next_us: int | None = None
        """When the next task in its queues is due, by the last look."""
        self._quiet = 0
        self._held_back = False
        """The last look has seen tasks that wait for the end of others."""
        self._stopped = False
        self.over = False
        """Everything was handed back: what is not stored now is lost with this worker."""

    # ---------------------------------------------------------------------------------- taking

    def start(self) -> None:
        self._loop = asyncio.get_running_loop().create_task(self._take_for_ever())

    def wake(self) -> None:
        """Something has come into a queue, or may have ended."""
        self._wake.set()

    async def stop_taking(self) -> None:
        """What is being taken at this moment goes back: it has not begun."""
        self._stopped = True
        self._wake.set()
        if self._loop is not None:
            await asyncio.wait([self._loop], timeout=_STOP_S)
            self._loop.cancel()
            await asyncio.wait([self._loop])

    async def _take_for_ever(self) -> None:
        while not self._stopped:
            self._wake.clear()
            next_us: int | None = None
            try:
                if await self._take() > 0:
                    continue
                next_us = self._next_us
                await self._look_after()
            except EverlongError as error:
                logger.warning("cannot look into task queues now: %s", error)
                next_us = self._engine.clock.now_us() + _AGAIN_US
            except Exception:
                # Ours. A worker that takes nothing any more looks healthy, and is not.
                logger.exception("taking tasks failed; trying again")
                next_us = self._engine.clock.now_us() + _AGAIN_US
            if not self._stopped:
                await self._rest(next_us)

    async def _take(self) -> int:
        """Begin what is due, as far as there are slots; how many there were."""
        now_us = self._engine.clock.now_us()
        room = min(self._slots + self._bench.free, limits.TAKE_TASKS_MAX)
        ended = self._engine.tasks_ended
        try:
            taken, self._next_us, held_back = await self._engine.store.take_tasks(
                self._wants, now_us, room
            )
        except BaseException:
            self._in_doubt = True
            raise
        self._held_back = held_back
        if held_back:
            self._engine.tasks_held_back = True
            if self._engine.tasks_ended != ended:  # Perhaps just behind this look.
                self._wake.set()
        self._remember_key(taken)
        if not taken:
            if room > 0:
                self._give_slots_back()
            elif self._next_us is not None and self._next_us <= now_us:
                self._next_us = None
                self._stand_in_line()
        for one in taken:
            self._begin(one, now_us)
        return len(taken)

    def _remember_key(self, taken: Sequence[TakenTask]) -> None:
        """Of whom something was taken last: those behind come first the next time."""
        keys = [one.task.key for one in taken if one.task.key]
        if keys:
            self._wants = replace(self._wants, after=keys[-1])

    def _stand_in_line(self) -> None:
        if not self._in_line:
            self._in_line = True
            self._bench.stand_in_line(self._slot_came)

    def _slot_came(self) -> bool:
        self._in_line = False
        if self._stopped:
            return False
        self._slots += 1
        self._wake.set()
        return True

    def _give_slots_back(self) -> None:
        slots, self._slots = self._slots, 0
        for _ in range(slots):
            self._bench.give_back()

    async def _rest(self, next_us: int | None) -> None:
        """Until something is due or said to be new; a clock looks once a second. A server is not
        asked for that: what others have committed there is seen by whoever watches it."""
        self._quiet = _QUIET if self._engine.shared and not self._held_back else 0
        self._set_alarm(next_us)
        try:
            await self._wake.wait()
        finally:
            self._alarm.cancel()

    def _set_alarm(self, next_us: int | None) -> None:
        self._alarm = self._engine.alarms.at(next_us, partial(self._ring, next_us))

    def _ring(self, next_us: int | None) -> None:
        due = next_us is not None and next_us <= self._engine.clock.now_us()
        looks_after = self._held or self._unknown or self._in_doubt
        if due or looks_after or self._quiet <= 0:
            self._wake.set()
        else:
            self._quiet -= 1
            self._set_alarm(next_us)

    # ---------------------------------------------------------------------------- one attempt

    def _begin(self, taken: TakenTask, now_us: int) -> None:
        if self._slots > 0 and not self._stopped:
            self._slots -= 1
        elif not self._bench.reserve():  # Nor does one that stops give any.
            # It was given away while this was taken.
            self._put_back(taken.run, _key_of(taken), now_us)
            return
        try:
            attempt = self._attempt_of(taken, now_us)
        except EverlongError as error:
            logger.warning("a task of %s cannot be begun here: %s", taken.run.workflow_id, error)
            self._bench.give_back()
            due_us = now_us + _UNREADABLE_US
            self._put_back(taken.run, _key_of(taken), due_us)
            return
        self._held[attempt.key] = attempt
        self._bench.begin(attempt, self)

    def _attempt_of(self, taken: TakenTask, now_us: int) -> TaskAttempt:
        """Raises EverlongError: it cannot be read with the keys that are here."""
        event = self._records.event(taken.run, taken.scheduled)
        assert isinstance(event, ActivityScheduled), "the store has looked"
        attempt = TaskAttempt(
            taken, event, self._hosted[event.activity], taken.task.attempt, now_us
        )
        if taken.details is not None:
            before = replace(
                self._row(attempt, AttemptState.TAKEN, details=taken.details),
                attempt=taken.details_of,
            )
            attempt.previous_details = self._records.open_details(taken.run, before).details
        return attempt

    def _row(self, attempt: TaskAttempt, state: AttemptState, **more: Any) -> AttemptRow:
        return AttemptRow(
            activity_id=attempt.scheduled.activity_id,
            attempt=attempt.attempt,
            state=state,
            started_us=attempt.started_us,
            worker=self._wants.worker,
            **more,
        )

    def store_details(self, attempt: TaskAttempt) -> None:
        """Part of the bench's protocol. About once a second."""
        now_us = self._engine.clock.now_us()
        if attempt.task is None or now_us - attempt.details_stored_us < _DETAILS_EVERY_US:
            return
        attempt.details_stored_us = now_us
        row = self._row(attempt, AttemptState.TAKEN, details=attempt.details)
        self._settle(attempt, Settled(rows=(row,)), keeps=True)

    def has_ended(self, attempt: TaskAttempt, outcome: Any) -> None:
        """Part of the bench's protocol."""
        if not (attempt.abandoned or attempt.settling):
            settled = self._judge.judge(attempt, outcome)
            if settled is not None:
                self._settle(attempt, settled)

    # ------------------------------------------------------------------------------- settling

    def _settle(self, attempt: TaskAttempt, settled: Settled, *, keeps: bool = False) -> None:
        attempt.settling = attempt.settling or not keeps
        run = attempt.taken.run
        blobs: Blobs = {}
        mail = None
        if settled.outcome is not None:
            mail = self._records.outcome(run, settled.outcome, blobs)
        halt = settled.halt
        if halt is not None:
            reason = self._records.pause_reason(run.namespace, run.execution_id, halt.reason)
            halt = replace(halt, reason=reason)
        write = SettleTask(
            shard=run.shard,
            run_id=run.run_id,
            execution_id=run.execution_id,
            activity_id=attempt.scheduled.activity_id,
            token=attempt.taken.token,
            worker_id=self._wants.worker_id,
            now_us=self._engine.clock.now_us(),
            rows=tuple(self._records.attempt(run, row) for row in settled.rows),
            keeps=keeps,
            again=settled.again,
            mail=mail,
            blobs=blobs or None,
            halt=halt,
        )
        self._put(attempt, write)

    def _put(self, attempt: TaskAttempt, write: SettleTask) -> None:
        def answered(result: WriteResult | StoreError) -> None:
            if isinstance(result, StoreError):
                # Full, for example. It is this worker's until that is stored, or it is dead.
                given_up = self.over or attempt.abandoned or self._engine.commits.failed
                if not (write.keeps or given_up):
                    again = partial(self._put, attempt, write)
                    self._engine.alarms.after(_AGAIN_S, again)
                return
            assert isinstance(result, AppendResult)
            if result.refusal is Refusal.CONFLICT:
                # It was to be tried again, and its end is waited for by now.
                attempt.cancel_asked, attempt.settling = True, False
                self._settle(attempt, self._judge.end_of(attempt, write.rows))
            elif result.refusal is not None:
                self._abandon(attempt)
            elif not write.keeps:
                self._held.pop(attempt.key, None)
                self._tell(write)

        self._engine.commits.add(write, answered)

    def _tell(self, write: SettleTask) -> None:
        self._engine.task_ended()
        if write.again is not None:
            self._engine.tasks_changed()
        if write.mail is not None:
            self._engine.mail_arrived()
        elif write.again is None:  # Its run sees to it, and sleeps, perhaps.
            self._engine.wake_hosts()

    def _put_back(self, run: RunRow, task: TaskKey, due_us: int) -> None:
        """It has not begun here, and does not count. If its end is waited for, that is its end."""
        mail = None
        if task.asked:
            end = ActivityCancelled(task.activity_id, "not_begun", task.attempt - 1)
            mail = self._records.outcome(run, end, {})

        def answered(result: WriteResult | StoreError) -> None:
            if isinstance(result, AppendResult) and result.refusal is None:
                self._tell(write)
            elif isinstance(result, StoreError) or result == _CONFLICT:
                self._in_doubt = True  # It bears this worker's name still: look what it is now.
                self._wake.set()

        now_us = self._engine.clock.now_us()
        row = AttemptRow(
            activity_id=task.activity_id,
            attempt=task.attempt,
            state=AttemptState.QUEUED,
            started_us=now_us,
        )
        write = SettleTask(
            shard=run.shard,
            run_id=run.run_id,
            execution_id=run.execution_id,
            activity_id=task.activity_id,
            token=task.token,
            worker_id=self._wants.worker_id,
            now_us=now_us,
            rows=(row,),
            again=None if task.asked else (task.attempt, due_us),
            mail=mail,
        )
        self._engine.commits.add(write, answered)

    # -------------------------------------------------------------------- what nobody wants

    async def _look_after(self) -> None:
        """Stop what nobody wants any more, end what was asked to end, and give back what a claim
        has taken whose answer was lost."""
        held = set(self._held)
        if not (held or self._unknown or self._in_doubt):
            return
        self._in_doubt = False  # Until the look fails, or another one that takes.
        try:
            keys = await self._engine.store.tasks_of(self._wants.worker_id)
        except BaseException:
            self._in_doubt = True
            raise
        known = {(one.run_id, one.activity_id, one.token): one for one in keys}
        for key in held - known.keys():
            attempt = self._held.get(key)
            if attempt is not None and not attempt.settling:
                self._abandon(attempt)
        for key, one in known.items():
            attempt = self._held.get(key)
            if attempt is not None and one.asked:
                self._ask_to_end(attempt)
        await self._give_unknown_back(known)

    async def _give_unknown_back(self, known: Mapping[_Key, TaskKey]) -> None:
        unknown = {key for key in known if key not in self._held}
        for key in unknown & self._unknown:
            run = await self._engine.store.run_by_id(key[0])
            if run is not None:
                self._put_back(run, known[key], self._engine.clock.now_us())
        self._unknown = unknown - self._unknown

    def _ask_to_end(self, attempt: TaskAttempt) -> None:
        if attempt.cancel_asked or attempt.settling:
            return
        attempt.cancel_asked = True
        if attempt.interrupt is not None:
            attempt.interrupt()

    def _abandon(self, attempt: TaskAttempt) -> None:
        attempt.abandoned = True
        self._held.pop(attempt.key, None)
        if attempt.task is not None:
            attempt.task.cancel()

    # ------------------------------------------------------------------------------- stopping

    def hand_back(self) -> None:
        """The worker stops: what has not ended is lost, and tried again elsewhere."""
        self.over = True
        for attempt in list(self._held.values()):
            if attempt.settling:
                continue
            if not attempt.cancel_asked:  # Else it tells its end, or is lost with this worker.
                self._settle(attempt, self._judge.handed_back(attempt))
            if attempt.task is not None:
                attempt.task.cancel()

    def abandon(self) -> None:
        """The lease is lost, or the store: nothing of it is this worker's any more."""
        self._stopped = self.over = True
        if self._loop is not None:
            self._loop.cancel()
        for attempt in list(self._held.values()):
            self._abandon(attempt)
