"""Deletes closed runs whose retention has passed, a bounded sweep at a time.

A cursor walks over the runs in the order of their start and begins again at the end, so an old run
that is still open is stepped over and holds nobody up.
"""

import asyncio
import logging
from typing import Final

from everlong_engine.clock import LoopAlarms
from everlong_engine.model.clock import Alarms, Clock
from everlong_engine.model.errors import StoreError
from everlong_engine.model.limits import PRUNE_RUNS_MAX, PRUNE_SHARE
from everlong_engine.store.interface import Store

__all__ = ["HistoryPruner"]

logger = logging.getLogger("everlong")

_LEAST_S: Final = 0.01
_SWEEP_S: Final = 1.0
_ROUND_S: Final = 60.0
_START: Final = (-1, b"")


class HistoryPruner:
    """Sweeps while a worker is here; other processes never delete."""

    def __init__(
        self, store: Store, clock: Clock, retention_us: int, alarms: Alarms | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._alarms = alarms or LoopAlarms(clock)
        self._retention_us = retention_us
        self._cursor: tuple[int, bytes] = _START
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._sweeps())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def run_once(self) -> int:
        """One bounded sweep; how many runs went."""
        horizon = self._clock.now_us() - self._retention_us
        end, pruned = await self._store.prune(self._cursor, horizon, PRUNE_RUNS_MAX)
        self._cursor = _START if end is None else end
        return pruned

    async def sweep(self) -> tuple[int, float]:
        """`run_once`, and in how many seconds the next one should come."""
        began_us = self._clock.now_us()
        pruned = await self.run_once()
        took_s = (self._clock.now_us() - began_us) / 1_000_000
        if self._cursor == _START:
            return pruned, _ROUND_S
        if pruned == 0:
            return pruned, _SWEEP_S
        return pruned, min(max(took_s * (1 / PRUNE_SHARE - 1), _LEAST_S), _SWEEP_S)

    async def _sweeps(self) -> None:
        while True:
            try:
                _, pause_s = await self.sweep()
            except StoreError as error:
                logger.warning("cannot prune closed runs now: %s", error)
                pause_s = _ROUND_S if self._cursor == _START else _SWEEP_S
            except Exception:
                logger.exception("a sweep failed; the next one begins anew")
                self._cursor, pause_s = _START, _ROUND_S
            await self._alarms.pause(pause_s)
