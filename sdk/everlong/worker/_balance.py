"""Spreads flows that read streams over the workers of one server.

A flow that reads lies with its worker for years, so whoever comes later would get nothing. Each
worker looks by itself, from time to time: of all flows of a type, its share is their number divided
by that of the workers which may drive them. Who has more hands some back, each at a moment at which
it only waits for a batch: what was read before is done, and stored. Who has its share leaves what
is due to others.

So nobody gives away what would bring him below his share, nor takes what would bring him above it,
and nothing goes to and fro. What others do not take all the same is taken back, and is not offered
again for longer and longer.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from everlong._definitions import QUEUE
from everlong.exceptions import EverlongError
from everlong.worker._fleet import FleetView
from everlong.worker._owned import OpenAttempt, OwnedRun
from everlong_engine import Fleet, newest_versions

if TYPE_CHECKING:
    from everlong.worker._keeper import RunKeeper

__all__ = ["FlowBalance", "excess_of"]

logger = logging.getLogger("everlong")

_EVERY_S: Final = 5.0
_KEEPS_S: Final = 30.0
_KEEPS_MAX_S: Final = 600.0

_Group = tuple[str, str | None]
"""Type and version: None is whatever is the newest."""


def excess_of(counts: Mapping[bytes | None, int], me: bytes, workers: int) -> int:
    """How many flows a worker has above its share; below 0: that it lacks.

    Where they cannot be divided, some have one more than others: as many as are left over, and of
    those that have it the first by their names.

    Args:
        counts: of the flows, by who has them; under None those that are due.
        me: the worker's name.
        workers: how many may have them.
    """
    least, left_over = divmod(sum(counts.values()), max(1, workers))
    has_more = sorted(one for one, count in counts.items() if one is not None and count > least)
    mine = counts.get(me, 0)
    before_me = has_more.index(me) if mine > least else len(has_more)
    return mine - least - (before_me < left_over)


class FlowBalance:
    """One worker's."""

    def __init__(self, keeper: "RunKeeper", wake: Callable[[], None]) -> None:
        self._keeper = keeper
        self._engine = keeper.engine
        self._wake = wake
        self._left_over: set[_Group] = set()
        """What was due at the last look, while this worker had its share of it."""
        self._keeps_until_us: dict[_Group, int] = {}
        self._keeps_s: dict[_Group, float] = {}
        self._workers: dict[_Group, int] = {}
        self._again = asyncio.Event()

    def start(self, fleet: FleetView) -> None:
        """Nothing is to be done where all workers are in one process."""
        if self._engine.shared:
            fleet.on_new = self._again.set  # Somebody has come, or stopped: look at once.
            self._keeper.activities.on_read = self._hand_back
            self._keeper.spawn(self._look_for_ever())

    async def _look_for_ever(self) -> None:
        while not self._keeper.stopping:
            alarm = self._engine.alarms.after(_EVERY_S, self._again.set)
            try:
                await self._again.wait()
            finally:
                alarm.cancel()
            self._again.clear()
            try:
                await self.look()
            except EverlongError as error:
                logger.warning("cannot look how flows are spread now: %s", error)
            except Exception:
                # Ours. Flows would stay where they are, and nobody would know why.
                logger.exception("looking how flows are spread failed")

    async def look(self) -> None:
        """Hand back what is above this worker's share. Raises StoreError."""
        keeper, engine = self._keeper, self._engine
        groups = {(run.type, run.version) for run in keeper.cache if run.reads}
        if not groups:
            self._leave_to_others(())
            return
        types = sorted({kind for kind, _ in groups})
        fleet = await engine.store.fleet()
        now_us = engine.clock.now_us()
        shares = await engine.store.shares(QUEUE, types, now_us)
        left: set[_Group] = set()
        left_over: set[_Group] = set()
        counts: dict[_Group, dict[bytes | None, int]] = {}
        for one in shares:
            counts.setdefault((one.type, one.version), {})[one.owner] = one.count
        for group in groups & counts.keys():
            workers = _workers_for(fleet, group)
            if self._workers.get(group) != workers:
                self._workers[group] = workers
                self._keeps_until_us.pop(group, None)
                self._keeps_s.pop(group, None)
            if workers < 2 or now_us < self._keeps_until_us.get(group, 0):
                continue
            excess = excess_of(counts[group], keeper.worker_id, workers)
            if excess < 0:
                continue
            is_due = None in counts[group]
            if is_due and group in self._left_over:
                self._keep(group, now_us)
                continue
            if is_due:
                left_over.add(group)
            left.add(group)
            self._offer(group, excess)
        self._left_over = left_over
        self._leave_to_others(left)

    def _keep(self, group: _Group, now_us: int) -> None:
        """Others have not taken what was theirs: they are full, or do not answer."""
        keeps_s = self._keeps_s.get(group, _KEEPS_S)
        self._keeps_s[group] = min(2 * keeps_s, _KEEPS_MAX_S)
        self._keeps_until_us[group] = now_us + int(keeps_s * 1_000_000)
        for run in self._keeper.cache:
            if (run.type, run.version) == group:
                run.on_offer = False

    def _leave_to_others(self, groups: Iterable[_Group]) -> None:
        versions = self._keeper.versions
        left = frozenset(groups)
        if left != versions.left_to_others:
            taken_up = versions.left_to_others - left
            versions.left_to_others = left
            if taken_up:
                self._wake()

    def _offer(self, group: _Group, excess: int) -> None:
        """Let go of so many, now or when they come to a read; of no others any more."""
        readers = [
            run for run in self._keeper.cache if (run.type, run.version) == group and run.reads
        ]
        for run in readers:
            run.on_offer = False
        # Who waits goes first: it has nothing to do here.
        for run in sorted(readers, key=self._is_at_work)[:excess]:
            run.on_offer = True
            self._hand_back(run)

    def _hand_back(self, run: OwnedRun) -> None:
        """Unless it is at work: then at its next read, of which one hears before it begins."""
        keeper = self._keeper
        if run.on_offer and not (run.dropped or keeper.stopping or self._is_at_work(run)):
            run.on_offer = False
            logger.info("%s is handed back, for another worker to take", run.workflow_id)
            keeper.leaving.release(run, 0)
            shelf = keeper.activities.bench.pools.shelf
            for key in [key for key in shelf if key[0] == run.execution_id]:
                shelf[key].close()  # What it has read ahead, and its connection.

    def _is_at_work(self, run: OwnedRun) -> bool:
        """Whether it does anything here but wait for a batch."""
        if run.mailbox or run.held_back or run.inflight or not run.may_be_fed():
            return True
        if run.on_trial or run.tentative or self._keeper.cache.is_pinned(run):
            return True
        return not all(map(_only_waits, run.attempts.values()))


def _only_waits(attempt: OpenAttempt) -> bool:
    return attempt.definition.waits or attempt.retry_us is not None or attempt.elsewhere


def _workers_for(fleet: Fleet, group: _Group) -> int:
    """How many of those that are there may drive runs of a type and version."""
    kind, version = group
    wanted = newest_versions(fleet)[0].get(kind) if version is None else version
    return sum(
        one.left_us is not None
        and one.left_us > 0
        and (one.queues is None or QUEUE in one.queues)
        and dict(one.versions).get(kind) == wanted
        for one in fleet.members
    )
