"""What a sleeping run costs: in starts per second, in memory and on disk.

A start counts until the run is asleep, not only until it is accepted. Memory is that of a fresh
process that holds all of them, less that of a fresh process whose store is empty; both have run one
workflow, so that what everybody pays once is in both.
"""

import asyncio
import gc
import os
import resource
import time
from pathlib import Path

from benchmarks._catalogue import Figures
from benchmarks._lanes import in_lanes
from benchmarks._process import finish, start_role
from everlong import Client, Worker, workflow

HOUR_S = 3_600.0
SETTLE_S = 1.0

_STATM = Path("/proc/self/statm")


class _Asleep:
    """Counts the runs of this process that have reached their timer."""

    def __init__(self) -> None:
        self.count = 0
        self.target = 0
        self.all = asyncio.Event()

    def add(self) -> None:
        self.count += 1
        if self.count == self.target:
            self.all.set()


_asleep = _Asleep()


@workflow
async def sleepers_sleep() -> None:
    _asleep.add()
    await asyncio.sleep(HOUR_S)


@workflow
async def sleepers_nothing() -> None:
    pass


async def measure(folder: Path, size: int) -> Figures:
    empty = folder / "empty"
    empty.mkdir()
    nothing_kb = await _held_kb(empty)
    nothing_bytes = _store_bytes(empty)
    starts_per_s = await _fall_asleep(folder, size)
    sleepers_bytes = _store_bytes(folder)
    sleepers_kb = await _held_kb(folder)
    return {
        "starts_per_s": starts_per_s,
        "kb_per_sleeper": (sleepers_kb - nothing_kb) / size,
        "bytes_per_sleeper": (sleepers_bytes - nothing_bytes) / size,
    }


async def hold(folder: Path, _size: int) -> Figures:
    """The fresh process: open the store, host what is in it, and look at the memory."""
    async with Client.connect(str(folder / "everlong.db")) as client, Worker(client):
        await client.run(sleepers_nothing)
        await asyncio.sleep(SETTLE_S)
        gc.collect()
        return {"rss_kb": _rss_kb()}


async def _fall_asleep(folder: Path, size: int) -> float:
    async with Client.connect(str(folder / "everlong.db")) as client, Worker(client):
        await client.run(sleepers_nothing)
        _asleep.target = size
        began = time.perf_counter()
        await in_lanes(size, lambda number: client.start(sleepers_sleep, id=f"sleeper-{number}"))
        await _asleep.all.wait()
        await client.run(sleepers_nothing)  # commits are made in order: so all timers are on disk
        return size / (time.perf_counter() - began)


async def _held_kb(folder: Path) -> float:
    return (await finish(await start_role("sleepers.hold", folder, 0)))["rss_kb"]


def _store_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("everlong.db*"))


def _rss_kb() -> float:
    if _STATM.exists():
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024  # its peak, in bytes
