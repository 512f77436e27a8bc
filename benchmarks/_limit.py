"""What the machine can do: bare sqlite3 with the settings of Everlong (WAL, synchronous=FULL).

Two numbers: how many single-row transactions a second, and how many rows a second in transactions
of 100. The row is like one of the history: a key of shard, run and number, about 120 bytes in all,
spread over 200 runs in flight. No engine that keeps a durable row per step on this disk can pass
the one without batching, nor the other with it. On a server: asyncpg instead, one connection, in
autocommit.
"""

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

ROWS_PER_BATCH = 100
RUNS = 200
BODY_BYTES = 100

_TABLE = """
CREATE TABLE history (
    shard INTEGER, run BLOB, seq INTEGER, body BLOB, PRIMARY KEY (shard, run, seq)
)
"""
_INSERT = "INSERT INTO history VALUES (?, ?, ?, ?)"
_SERVER_TABLE = """
CREATE TABLE bench_limit (
    shard INT, run BYTEA, seq BIGINT, body BYTEA, PRIMARY KEY (shard, run, seq)
)
"""
_SERVER_INSERT = """
INSERT INTO bench_limit SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BYTEA[])
"""

Row = tuple[int, bytes, int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Both numbers; a commit's duration is the first one turned round."""

    commits_per_s: float
    rows_per_s: float
    of: str = "bare sqlite3"

    @property
    def commit_ms(self) -> float:
        return 1_000 / self.commits_per_s


def measure_limit(folder: Path, *, commits: int, batches: int) -> Limit:
    """Measure both in a new database in `folder`, and remove it."""
    file = folder / "limit.db"
    try:
        with closing(sqlite3.connect(file, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(_TABLE)
            rows = _rows()
            singles = [[row] for row in islice(rows, commits)]
            hundreds = [list(islice(rows, ROWS_PER_BATCH)) for _ in range(batches)]
            return Limit(
                commits_per_s=commits / _commit_s(db, singles),
                rows_per_s=batches * ROWS_PER_BATCH / _commit_s(db, hundreds),
            )
    finally:
        for suffix in ("", "-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)


def measure_server_limit(url: str, *, commits: int, batches: int) -> Limit:
    """The same on a server, in a new table of a database, which is removed."""
    return asyncio.run(_measure_server(url, commits, batches))


async def _measure_server(url: str, commits: int, batches: int) -> Limit:
    import asyncpg

    rows = _rows()
    singles = list(islice(rows, commits))
    hundreds = [list(zip(*islice(rows, ROWS_PER_BATCH), strict=True)) for _ in range(batches)]
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_SERVER_TABLE)
        began = time.perf_counter()
        for row in singles:
            await connection.execute("INSERT INTO bench_limit VALUES ($1, $2, $3, $4)", *row)
        singles_s = time.perf_counter() - began
        began = time.perf_counter()
        for columns in hundreds:
            await connection.execute(_SERVER_INSERT, *columns)
        hundreds_s = time.perf_counter() - began
        await connection.execute("DROP TABLE bench_limit")
    finally:
        await connection.close()
    return Limit(
        commits_per_s=commits / singles_s,
        rows_per_s=batches * ROWS_PER_BATCH / hundreds_s,
        of="asyncpg",
    )


def between(before: Limit, after: Limit) -> Limit:
    """The limit that held between two measurements, as far as anybody can know."""
    return Limit(
        commits_per_s=(before.commits_per_s + after.commits_per_s) / 2,
        rows_per_s=(before.rows_per_s + after.rows_per_s) / 2,
        of=before.of,
    )


def _commit_s(db: sqlite3.Connection, batches: list[list[Row]]) -> float:
    began = time.perf_counter()
    for batch in batches:
        db.execute("BEGIN IMMEDIATE")
        db.executemany(_INSERT, batch)
        db.execute("COMMIT")
    return time.perf_counter() - began


def _rows() -> Iterator[Row]:
    source = random.Random(0)
    runs = [source.randbytes(16) for _ in range(RUNS)]
    for number in count():
        run = runs[number % RUNS]
        yield run[0], run, number // RUNS, source.randbytes(BODY_BYTES)
