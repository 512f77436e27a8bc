"""The workloads on DBOS: run by its own Python as `dbos_peer.py BENCHMARK FOLDER SIZE`.

Steps and workflows are async functions, as they are for Everlong, in one process with the client.
DBOS leaves SQLite on its rollback journal; WAL, which a file keeps once it is set, makes it a
third faster and is as durable, so it gets WAL. On a server, whose URL lies in the folder then, it
is as installed, and so is the rest.
"""

# The type checkers run without DBOS installed.
# mypy: disable-error-code="import-not-found, untyped-decorator"
# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownArgumentType=false

import asyncio
import gc
import json
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from dbos import DBOS

IN_FLIGHT = 200


@DBOS.step()
async def double(n: int) -> int:
    return 2 * n


@DBOS.workflow()
async def doubled(n: int) -> int:
    return int(await double(n))


@DBOS.workflow()
async def one_by_one(activities: int) -> int:
    total = 0
    for n in range(activities):
        total += await double(n)
    return total


@DBOS.workflow()
async def all_at_once(activities: int) -> int:
    return sum(await asyncio.gather(*(double(n) for n in range(activities))))


async def run(workflow: Callable[[int], Any], n: int) -> int:
    handle = await DBOS.start_workflow_async(workflow, n)
    return int(await handle.get_result())


async def throughput(size: int) -> dict[str, float]:
    latencies_s: list[float] = []
    numbers = iter(range(size))

    async def lane() -> None:
        for n in numbers:
            began = time.perf_counter()
            assert await run(doubled, n) == 2 * n
            latencies_s.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
    elapsed_s = time.perf_counter() - began
    latencies_s.sort()
    return {
        "workflows_per_s": size / elapsed_s,
        "p50_ms": latencies_s[size // 2] * 1_000,
        "p99_ms": latencies_s[size * 99 // 100] * 1_000,
    }


async def sequential(size: int) -> dict[str, float]:
    began = time.perf_counter()
    assert await run(one_by_one, size) == size * (size - 1)
    return {"ms_per_activity": (time.perf_counter() - began) * 1_000 / size}


async def fanout(size: int) -> dict[str, float]:
    began = time.perf_counter()
    assert await run(all_at_once, size) == size * (size - 1)
    return {"activities_per_s": size / (time.perf_counter() - began)}


WORKLOADS: dict[str, Callable[[int], Awaitable[dict[str, float]]]] = {
    "throughput": throughput,
    "sequential": sequential,
    "fanout": fanout,
}


def _store(folder: Path) -> str:
    note = folder / "store.url"
    if note.exists():
        return note.read_text(encoding="utf-8")
    file = folder / "dbos.db"
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    return f"sqlite:///{file}"


async def measure(benchmark: str, folder: Path, size: int) -> dict[str, float]:
    config = {"name": "bench", "system_database_url": _store(folder), "log_level": "ERROR"}
    DBOS(config=config)
    DBOS.launch()
    try:
        await run(doubled, 1)  # imports, migrations and connections are not what is measured
        return await WORKLOADS[benchmark](size)
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    gc.collect()
    gc.freeze()  # As in the process that measures Everlong.
    found = asyncio.run(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
    print(json.dumps(found), flush=True)
