"""What pruning costs those who claim: claims a second with sweeps, and without.

The same loop claims runs and hands them back, over the store of a worker, in short windows: in
every other one its pruner sweeps at the pace that it has in every worker. A window is divided by
the mean of its two neighbours, so what else the machine does meanwhile is in both.
"""

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from statistics import median, quantiles

from benchmarks._catalogue import Figures
from benchmarks._lanes import in_lanes, percentile
from benchmarks._place import store
from everlong import Client, Worker, activity, workflow
from everlong_engine.clock import SystemClock
from everlong_engine.duties.history_pruner import HistoryPruner
from everlong_engine.model.ids import IdSource
from everlong_engine.model.runs import LoadedRun, WorkerRow
from everlong_engine.model.writes import Release
from everlong_engine.store.interface import Store, Wants
from everlong_engine.store.postgres.address import is_url
from everlong_engine.store.postgres.store import PostgresStore
from everlong_engine.store.sqlite.store import SqliteStore

CLAIMED = 200
"""Runs that wait to be claimed, each again and again."""
BATCH = 20
WINDOW_S = 2.0
WINDOW_SHORT_S = 0.2
FEW = 1_000
"""With so few closed runs nothing is measured: it is only tried."""


@activity
async def retention_double(number: int) -> int:
    return 2 * number


@workflow
async def retention_closed(number: int) -> int:
    return await retention_double(number)


@workflow
async def retention_waits() -> None:
    """Nobody drives it: it is claimed, and handed back."""


async def measure(folder: Path, size: int) -> Figures:
    place = store(folder)
    async with Client.connect(place) as client:
        async with Worker(client, workflows=[retention_closed], activities=[retention_double]):
            await in_lanes(size, lambda number: client.run(retention_closed, number))
        for number in range(CLAIMED):
            await client.start(retention_waits, id=f"waits-{number}")
    opened: Store
    if is_url(place):
        opened = await PostgresStore.open(place)
    else:
        opened = await SqliteStore.open(Path(place))
    try:
        opened.acquire()
        return await _Claims(opened).measure(size)
    finally:
        await opened.close()


class _Claims:
    """A worker that does nothing but claim."""

    def __init__(self, opened: Store) -> None:
        self._store = opened
        self._clock = SystemClock()
        self._worker_id = IdSource(Random()).next(self._clock.now_us())
        self._wants = Wants(self._worker_id, "default", ("retention_waits",))
        self._pruner = HistoryPruner(opened, self._clock, retention_us=0)
        self._pruned = 0
        self._sweeping_s = 0.0
        self._over = asyncio.Event()
        self._window_s = WINDOW_S

    async def measure(self, size: int) -> Figures:
        if size <= FEW:
            self._window_s = WINDOW_SHORT_S
        now_us = self._clock.now_us()
        row = WorkerRow(
            worker_id=self._worker_id,
            name="claims",
            pid=1,
            host="here",
            started_us=now_us,
            beat_us=now_us,
            dead=False,
        )
        await self._store.register(row)
        await self._window()  # warm-up
        without = [await self._window()]
        with_it: list[list[float]] = []
        before = 0
        while self._pruned < size:
            sweeping = asyncio.ensure_future(self._prune())
            with_it.append(await self._window())
            self._over.set()
            await sweeping
            without.append(await self._window())
            assert self._pruned > before, "a window in which nothing was pruned says nothing"
            before = self._pruned
        if len(with_it) > 1:  # In the last window there was less and less to prune.
            del with_it[-1], without[-1]
        rates = [len(one) for one in without]
        ratios = [
            2 * len(one) / (earlier + later)
            for one, earlier, later in zip(with_it, rates, rates[1:], strict=False)
        ]
        tenths = quantiles(ratios, n=10) if len(ratios) > 1 else ratios * 9
        return {
            "claims_ratio": median(ratios),
            "claims_ratio_p10": tenths[0],
            "claims_ratio_p90": tenths[8],
            "claims_per_s": median(rates) * BATCH / self._window_s,
            "claims_per_s_pruning": median(map(len, with_it)) * BATCH / self._window_s,
            "claim_p99_ms": percentile([it for one in without for it in one], 99) * 1_000,
            "claim_p99_ms_pruning": percentile([it for one in with_it for it in one], 99) * 1_000,
            "pruned_per_s": self._pruned / self._sweeping_s,
        }

    async def _prune(self) -> None:
        """As the duty does it, until the window is over."""
        self._over.clear()
        began = time.perf_counter()
        while not self._over.is_set():
            pruned, pause_s = await self._pruner.sweep()
            self._pruned += pruned
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), pause_s)
        self._sweeping_s += time.perf_counter() - began

    async def _window(self) -> list[float]:
        """How long each claim took."""
        took_s: list[float] = []
        end = time.perf_counter() + self._window_s
        while time.perf_counter() < end:
            began = time.perf_counter()
            claimed = await self._store.claim(self._wants, self._clock.now_us(), BATCH)
            took_s.append(time.perf_counter() - began)
            assert len(claimed) == BATCH, "there are enough of them, and nobody else claims"
            await self._store.submit([_back(one) for one in claimed])
        return took_s


def _back(run: LoadedRun) -> Release:
    row = run.row
    return Release(row.shard, row.run_id, row.execution_id, row.lease_token, row.next_seq, 0)
