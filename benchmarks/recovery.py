"""What a crash costs: a worker is killed with SIGKILL half way, and a new process goes on.

All runs are accepted before the first worker starts, so that what is lost can be counted exactly:
a run that does not end with the right result, or a step that never happened. Each attempt of a step
writes a line of one width into a ledger outside Everlong; its length says when half is done, and
its content what was lost and what was done twice.
"""

import asyncio
import os
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

from benchmarks._catalogue import Figures
from benchmarks._lanes import in_lanes
from benchmarks._process import finish, start_role
from everlong import Client, EverlongError, Worker, activity, workflow

STEPS = 5
LINE_BYTES = 16
POLL_S = 0.001


@activity
async def recovery_step(ledger: str, run: int, step: int) -> int:
    with Path(ledger).open("ab", buffering=0) as lines:
        lines.write(f"{run:>9} {step:>5}\n".encode())
    return step


@workflow
async def recovery_steps(ledger: str, run: int) -> int:
    total = 0
    for step in range(STEPS):
        total += await recovery_step(ledger, run, step)
    return total


async def measure(folder: Path, size: int) -> Figures:
    ledger = folder / "ledger.txt"
    ledger.touch()
    async with Client.connect(_database(folder)) as client:
        await in_lanes(
            size, lambda run: client.start(recovery_steps, str(ledger), run, id=_id(run))
        )
    await _work_half_and_die(folder, size, ledger)

    began = time.time()
    done = await finish(await start_role("recovery.work", folder, size))
    attempts = Counter(ledger.read_text(encoding="ascii").splitlines())
    async with Client.connect(_database(folder)) as client:
        return {
            "recover_s": await _first_event_after(client, size, began) - began,
            "recover_all_s": done["done_at"] - began,
            "lost": await _unfinished(client, size) + size * STEPS - len(attempts),
            "repeated_attempts": attempts.total() - len(attempts),
        }


async def work(folder: Path, size: int) -> Figures:
    """A process with a worker, until every run is done."""
    async with Client.connect(_database(folder)) as client, Worker(client):
        await in_lanes(size, lambda run: client.get_handle(_id(run)).result())
        return {"done_at": time.time()}


async def _work_half_and_die(folder: Path, size: int, ledger: Path) -> None:
    worker = await start_role("recovery.work", folder, size)
    half = size * STEPS // 2 * LINE_BYTES
    while ledger.stat().st_size < half and worker.returncode is None:  # noqa: ASYNC110 another process's work
        await asyncio.sleep(POLL_S)
    worker.kill()
    await worker.wait()


async def _first_event_after(client: Client, size: int, began: float) -> float:
    """When the new process first recorded something, by the histories themselves."""
    moments: list[float] = []

    async def look(run: int) -> None:
        history = await client.get_handle(_id(run)).history()
        moments.extend(at for event in history if (at := _wall_s(event.at)) >= began)

    await in_lanes(size, look)
    return min(moments)


async def _unfinished(client: Client, size: int) -> int:
    lost = 0

    async def look(run: int) -> None:
        nonlocal lost
        try:
            lost += await client.get_handle(_id(run)).result() != sum(range(STEPS))
        except EverlongError:
            lost += 1

    await in_lanes(size, look)
    return lost


def _wall_s(at: datetime) -> float:
    return at.timestamp()


def _database(folder: Path) -> str:
    return os.fspath(folder / "everlong.db")


def _id(run: int) -> str:
    return f"run-{run}"
