"""Activities that other workers run: how the owner of a run sends them, and takes them back.

What a task queue holds is the next attempt of an activity. From the commit that puts it there until
its outcome comes as mail nothing of it is here but its time limits, so its run may sleep.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from everlong._definitions import OWN
from everlong._records import Records
from everlong.exceptions import StoreError
from everlong.worker._attempt_rules import always_matters, waits_in_line
from everlong.worker._owned import OpenAttempt
from everlong_engine import (
    AttemptRow,
    AttemptState,
    Engine,
    NewTask,
    Refusal,
    Withdrawn,
    WithdrawTask,
    WriteResult,
)

if TYPE_CHECKING:
    from everlong.worker._activities import ActivityRunner

__all__ = ["QueueDesk"]

_AGAIN_US: Final = 500_000
_OFFER_US: Final = 1_000_000
"""That an activity waits for a slot before it is offered to other workers."""


class QueueDesk:
    """One per runner."""

    def __init__(
        self,
        runner: "ActivityRunner",
        engine: Engine,
        records: Records,
        may_help: Callable[[], bool],
    ) -> None:
        self._runner = runner
        self._engine = engine
        self._records = records
        self._may_help = may_help
        self._in_line: deque[tuple[int, OpenAttempt, int]] = deque()
        """(since when, attempt, its number) of what waits for a slot here."""
        self._looks = False

    # ------------------------------------------------------------------ where slots are short

    def stand_by(self, attempt: OpenAttempt) -> None:
        """It waits for a slot here. If none comes, whoever has one may run it: unless the store or
        the version of its code ties it to this worker."""
        definition = attempt.definition
        tied = definition.transactional or definition.name.startswith(OWN)
        alone = not self._engine.shared and len(self._engine.hosts) < 2
        if tied or alone or attempt.run.version is not None:
            return
        self._in_line.append((self._engine.clock.now_us(), attempt, attempt.attempt))
        self._look_later()

    def _look_later(self) -> None:
        if not self._looks:
            self._looks = True
            look_us = self._engine.clock.now_us() + _OFFER_US
            self._runner.deadlines.add(look_us, self._look, matters=always_matters)

    def _look(self) -> None:
        """Offer what has waited for long enough, if there is anybody."""
        self._looks = False
        until_us = self._engine.clock.now_us() - _OFFER_US
        offers = self._may_help() and not self._runner.bench.stopping
        while self._in_line:
            since_us, attempt, number = self._in_line[0]
            waits = waits_in_line(attempt, number)
            if waits and (since_us > until_us or not offers):
                self._look_later()
                return
            self._in_line.popleft()
            if waits:
                attempt.in_line = False
                self.put(attempt)

    # ---------------------------------------------------------------------- what stands there

    def put(self, attempt: OpenAttempt) -> None:
        """Its next attempt is for whoever takes from its queue."""
        scheduled, run = attempt.scheduled, attempt.run
        now_us = self._engine.clock.now_us()
        waits = AttemptRow(
            activity_id=scheduled.activity_id,
            attempt=attempt.attempt,
            state=AttemptState.QUEUED,
            started_us=now_us,
            details=attempt.previous_details,
        )
        task = NewTask(
            activity_id=scheduled.activity_id,
            attempt=attempt.attempt,
            queue=scheduled.options.queue or run.queue,
            activity=scheduled.activity,
            due_us=now_us,
            seq=attempt.seq,
            origin=attempt.origin,
            behind=attempt.set_began_behind,
            rank=-scheduled.options.priority,
            key=scheduled.options.key,
        )
        attempt.queued = True
        # What ends it behind this takes the task along, and leaves a mark for who has its token.
        run.queued.add(scheduled.activity_id)
        run.handed_out.add(scheduled.activity_id)

        def is_there() -> None:
            self._watch(attempt)
            self._engine.tasks_changed()

        self._runner.mark(
            attempt, self._records.attempt(run, waits), is_there, begins=True, tasks=(task,)
        )

    def restore(self, attempt: OpenAttempt, newest: AttemptRow) -> None:
        """It is in a queue, or with whoever took it from there."""
        attempt.queued = True
        attempt.run.queued.add(attempt.scheduled.activity_id)
        if newest.state is AttemptState.TAKEN:
            attempt.started_us = newest.started_us
        self._watch(attempt)
        if attempt.cancel_asked and newest.state is AttemptState.QUEUED:
            self.withdraw(attempt, partial(self._runner.outcomes.ended, attempt, "not_begun"))

    def _watch(self, attempt: OpenAttempt) -> None:
        self._runner.elsewhere.watch_queued(attempt)

    def withdraw(self, attempt: OpenAttempt, then: Callable[[], None], number: int = 0) -> None:
        """Take it out of its queue, unless somebody has it, who will tell how it ended.

        Args:
            number: only if it is this attempt that waits there.
        """
        run = attempt.run

        def settled(result: WriteResult | StoreError) -> None:
            if run.dropped or attempt.abandoned:
                return
            if isinstance(result, StoreError):
                if not self._engine.commits.failed:
                    again_us = self._engine.clock.now_us() + _AGAIN_US
                    deadlines = self._runner.deadlines
                    again = partial(self.withdraw, attempt, then, number)
                    deadlines.add(again_us, again, matters=always_matters)
                return
            assert isinstance(result, Withdrawn)
            if result.refusal is None:
                attempt.attempt = result.attempt  # As many as before it have been tried elsewhere.
                then()
            elif result.refusal is Refusal.CONFLICT:
                attempt.started_us = attempt.started_us or self._engine.clock.now_us()

        activity_id = attempt.scheduled.activity_id
        mark = WithdrawTask(run.shard, run.run_id, run.token, activity_id, number)
        self._engine.commits.add(mark, settled)
