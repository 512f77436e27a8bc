"""Lets runs go: to sleep in the store, blocked by a fault, or because the worker stops.

A release is refused while the inbox holds mail: the mail is fed first. What only this process knows
(outcomes of activities that could not be fed) goes into the inbox in the same transaction.
"""

import asyncio
import logging
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from everlong.exceptions import EverlongError, StoreError, WorkflowClosed, WorkflowNotFound
from everlong.worker._owned import OUTCOMES, Incoming, OwnedRun
from everlong_engine import (
    AppendResult,
    Blobs,
    Message,
    MessageResult,
    Release,
    SignalReceived,
    SignalRejected,
    Target,
    WriteResult,
)

if TYPE_CHECKING:
    from everlong.worker._keeper import RunKeeper

__all__ = ["RunReleaser"]

logger = logging.getLogger("everlong")

_EVICT_LOOK_MAX: Final = 128
_STOP_S: Final = 10.0


class RunReleaser:
    """Hands runs back. One per keeper."""

    def __init__(self, keeper: "RunKeeper") -> None:
        self._keeper = keeper
        self._engine = keeper.engine
        self._leaving = 0
        """How many releases are on their way."""

    def evict(self) -> None:
        """Let the least recently used runs sleep in the store, until the cache fits again."""
        cache = self._keeper.cache
        excess = cache.excess - self._leaving
        if excess <= 0:
            return
        now_us = self._engine.clock.now_us()
        for run in list(islice(cache, _EVICT_LOOK_MAX)):
            if not run.is_idle or run.on_trial or cache.is_pinned(run):
                continue
            wake_us = run.wake_us()
            if wake_us is not None and wake_us <= now_us:
                continue  # It has just been woken for this: released, it would be claimed again.
            self.release(run, wake_us)
            excess -= 1
            if excess <= 0:
                return

    def block(self, run: OwnedRun, fault: EverlongError) -> None:
        """Park a run whose code, or whose history, has a fault. It goes on after a fix."""
        records = self._keeper.records
        stored, reason = records.reason(run, fault), f"{type(fault).__name__}: {fault}"
        logger.error("%s (%s) is blocked: %s", run.workflow_id, run.type, records.logged(fault))
        self._keeper.on_blocked(run, fault)
        for one in run.mailbox:
            if one.on_done is not None:
                one.on_done(EverlongError(f"{run.workflow_id} is blocked: {reason}"))
        run.when_settled(partial(self.release, run, None, blocked=True, reason=stored))

    def release(
        self,
        run: OwnedRun,
        wake_us: int | None,
        *,
        blocked: bool = False,
        reason: str | None = None,
        waits_with: int | None = None,
    ) -> None:
        """Hand a run back, with what is not journaled yet as mail."""
        run.releasing = True
        self._leaving += 1
        self._keeper.cache.used(run)  # Out of the way of the next look.
        run.code.discard()
        blobs: Blobs = {}
        mail = tuple(
            self._keeper.records.outcome(run, one.event, blobs)
            for one in run.mailbox
            if isinstance(one.event, OUTCOMES)
            and one.position is None
            and not (one.stored or one.is_tied)
        )
        not_stored = self._keeper.activities.not_stored(run)
        release = Release(
            run.shard,
            run.run_id,
            run.execution_id,
            run.token,
            run.next_seq,
            0 if (mail or not_stored) and not blocked else wake_us,
            blocked=blocked,
            reason=reason,
            attempts=not_stored + self._keeper.activities.hand_back(run),
            mail=mail,
            blobs=blobs or None,
            waits_with=waits_with,
        )

        def settled(result: WriteResult | StoreError) -> None:
            run.releasing = False
            self._leaving -= 1
            if not run.dropped:
                if isinstance(result, AppendResult) and result.refusal is None:
                    self._keeper.forget(run)
                    if release.wake_us is not None:
                        self._keeper.on_asleep(release.wake_us)
                    if waits_with is None:
                        self._reclaim(run)
                    else:  # Nothing may begin it: what came directly waits with the rest.
                        self._keeper.reject(run)
                        self._keeper.on_room()
                elif not isinstance(result, StoreError):
                    self._keeper.loading.reload(run)
                elif self._keeper.stopping:
                    self.leave_behind(run)
                else:
                    self._keeper.loading.reload_later(run)

        self._engine.commits.add(release, settled)

    def _reclaim(self, run: OwnedRun) -> None:
        """What arrived directly while the run was on its way out needs it back."""
        direct = (one for one in run.mailbox if one.on_done is not None and one.position is None)
        waiting = deque(direct)
        run.mailbox.clear()

        def leave_the_rest(_: object = None) -> None:
            while waiting:
                self.leave_as_mail(run, waiting.popleft())

        if waiting and not self._keeper.stopping and self._keeper.versions.may_drive(run):
            claiming = self._keeper.spawn(self._claim_for(run, waiting))
            # Not in its `finally`: a task that is cancelled before it begins has none.
            claiming.add_done_callback(leave_the_rest)
        else:
            leave_the_rest()
        self._keeper.on_room()

    def leave_as_mail(self, run: OwnedRun, one: Incoming) -> None:
        """What came directly, for a run that is in nobody's hands here any more: the store knows
        whether it is open, and keeps the message if it is."""
        on_done = one.on_done
        assert on_done is not None, "whoever sent something directly waits for its answer"
        event = one.event
        if isinstance(event, SignalRejected):  # Whoever feeds it judges it again.
            event = SignalReceived(event.signal, event.payload)
        blobs: Blobs = {}
        kind, body = self._keeper.records.message(run, event, blobs)
        target = Target(run.shard, run.namespace, run.workflow_id, run.execution_id)
        now_us = self._engine.clock.now_us()

        def settled(result: WriteResult | StoreError) -> None:
            if isinstance(result, StoreError):
                on_done(result)
                return
            assert isinstance(result, MessageResult)
            if result.status is None:
                on_done(WorkflowNotFound(workflow_id=run.workflow_id))
            elif result.position is None and not result.duplicate:
                status = result.status.text
                on_done(WorkflowClosed(workflow_id=run.workflow_id, status=status))
            else:
                on_done(None)
                self._engine.mail_arrived()

        message = Message(target, kind, body, now_us, None, blobs, self._engine.sent())
        self._engine.commits.add(message, settled)

    async def _claim_for(self, run: OwnedRun, waiting: deque[Incoming]) -> None:
        """Bring the run back for what waits for it, and hand that over."""
        keeper = self._keeper
        store = self._engine.store
        try:
            with keeper.loading.claiming(), keeper.cache.pinned(run.execution_id):
                loaded = await store.claim_run(keeper.worker_id, run.shard, run.run_id)
                if loaded is not None:
                    keeper.loading.adopt(loaded)
                current = keeper.cache.get(run.execution_id)
                while waiting and current is not None:
                    keeper.receive(current, waiting.popleft())
        except StoreError as error:
            logger.warning("%s: it cannot be claimed now: %s", run.workflow_id, error)

    async def release_all(self) -> None:
        """Hand everything back: the worker stops.

        What the store takes nothing of now is dropped here; the takeover behind a worker's end
        frees it.
        """
        loop = asyncio.get_running_loop()
        departures: list[asyncio.Future[None]] = []
        self._keeper.loading.hand_back()
        for run in list(self._keeper.cache):
            run.departed = loop.create_future()
            departures.append(run.departed)
            if run.loading:
                self.release_unloaded(run)
            elif not run.releasing:
                run.when_settled(partial(self._release_at_stop, run))
        if departures:
            await asyncio.wait(departures, timeout=_STOP_S)
        await self._engine.commits.drain()

    def release_unloaded(self, run: OwnedRun) -> None:
        """The worker stops, and the run has no code here: where it stands, its row says."""
        self._keeper.spawn(self._release_unloaded(run))

    async def _release_unloaded(self, run: OwnedRun) -> None:
        keeper = self._keeper
        try:
            row = await self._engine.store.latest(
                self._engine.target(run.namespace, run.workflow_id, run.execution_id)
            )
        except EverlongError as error:
            logger.warning("%s: it cannot be handed back in order: %s", run.workflow_id, error)
            row = None
        if run.dropped:
            return
        if row is None or not keeper.loading.is_ours(run, row):
            self.leave_behind(run)
            return
        run.run_id, run.token, run.next_seq = row.run_id, row.lease_token, row.next_seq
        run.loading = False
        self.release(run, 0)

    def leave_behind(self, run: OwnedRun) -> None:
        """The store knows better whose it is, or takes nothing now."""
        self._keeper.loading.end_trial(run)  # A stop in order is no strike.
        self._keeper.forget(run)
        self._keeper.reject(run)

    def _release_at_stop(self, run: OwnedRun) -> None:
        at_work = run.mailbox or not all(
            one.retry_us is not None or one.elsewhere for one in run.attempts.values()
        )
        self.release(run, 0 if at_work else run.wake_us())
