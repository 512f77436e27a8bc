"""Keeps the leases of this process's workers, and takes over from those whose leases have run out.

Only where a store has many owners: a file's lock is a sign of life by itself. A worker without a
confirmed beat for two thirds of a lease lets go of everything it has, since soon it is another's;
as soon as the store answers again it begins anew, under a new name. Nobody is declared dead by
somebody who has not been heard of itself for a whole lease: after an outage all are silent.

A beat also tells when the first lease of all others ends, so a dead worker is found at that moment,
and nobody looks for the dead in between.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from everlong_engine.clock import LoopAlarms
from everlong_engine.model.clock import Alarms, Clock
from everlong_engine.model.errors import StoreError
from everlong_engine.model.limits import CLAIM_RUNS_MAX
from everlong_engine.store.interface import Store

__all__ = ["LeaseKeeper"]

logger = logging.getLogger("everlong")

_BEATS_IN_A_LEASE: Final = 10 / 3
_KEPT: Final = 2 / 3
_BEHIND_S: Final = 0.1
"""How far behind the end of a lease is looked whether anybody has renewed it."""


class Host(Protocol):
    @property
    def worker_id(self) -> bytes: ...
    @property
    def has_begun(self) -> bool: ...
    @property
    def busy(self) -> int: ...
    def lease_lost(self) -> None: ...
    def wake(self) -> None: ...


class LeaseKeeper:
    """Beats while a worker is here."""

    def __init__(
        self,
        store: Store,
        hosts: Sequence[Host],
        clock: Clock,
        lease_s: float,
        alarms: Alarms | None = None,
    ) -> None:
        self._store = store
        self._hosts = hosts
        self._clock = clock
        self._lease_s = lease_s
        self._alarms = alarms or LoopAlarms(clock)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._beat_for_ever())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def run_once(self) -> float:
        """One beat, and a bounded sweep if somebody may be found dead; how many seconds to wait for
        the next.

        Raises:
            StoreError: the store does not answer.
        """
        begun = [host for host in self._hosts if host.has_begun]
        workers = [host.worker_id for host in begun]
        busy = [host.busy for host in begun]
        async with asyncio.timeout(self._lease_s * _KEPT):
            heard = await self._store.beat(workers, busy)
        for host in list(self._hosts):
            if host.worker_id in workers and host.worker_id not in heard.alive:
                logger.warning("a worker was silent for a whole lease: it begins anew")
                host.lease_lost()
        every_s = self._lease_s / _BEATS_IN_A_LEASE
        if heard.sweep_s is None:
            return every_s
        if heard.sweep_s > 0:
            return min(every_s, heard.sweep_s + _BEHIND_S)
        judged = await self._store.take_over(
            list(heard.alive), self._clock.now_us(), CLAIM_RUNS_MAX
        )
        if judged:
            for host in list(self._hosts):
                host.wake()
        # Between batches it beats. Who is next, and when, is told then as well.
        return 0.0 if judged == CLAIM_RUNS_MAX else _BEHIND_S

    async def _beat_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            pause_s = self._lease_s / _BEATS_IN_A_LEASE
            try:
                pause_s = await self.run_once()
                heard = loop.time()
            except Exception as error:
                # Whatever it was: the lease was not renewed, and soon all of it is another's.
                silent_s = loop.time() - heard
                expected = isinstance(error, (StoreError, TimeoutError))
                trace = None if expected else error
                logger.warning("no beat for %.1f s: %s", silent_s, error, exc_info=trace)
                if silent_s >= self._lease_s * _KEPT:
                    for host in list(self._hosts):
                        host.lease_lost()
            await self._alarms.pause(pause_s)
