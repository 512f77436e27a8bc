"""Poison under kill -9: while it is looked for by halves, nothing is stored twice or set aside that
is sound."""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from everlong import Client
from everlong.streams import StreamControl
from tests.chaos.arena import FULL
from tests.proof.record import record
from tests.support.command_line import begin, worker_ready
from tests.support.hosting import until

KILLS: Final = 40 if FULL else 3
MESSAGES: Final = 3_000 if FULL else 150
POISON: Final = frozenset(range(7, MESSAGES, 60)) | {8, MESSAGES - 1}
CODE: Final = """
from everlong import Retry, Transaction, activity, checkpoint, workflow
from everlong.streams import Lines, Stream, dead_letter

orders = Stream("orders", Lines("orders.txt", int, poll=0.01))
POISON = {poison}

@activity(name="poison_store", transactional=True, retry=Retry(delay=0.01))
async def store(tx: Transaction, numbers: list[int]) -> None:
    if bad := POISON & set(numbers):
        raise ValueError(f"{{min(bad)}} is poison")
    tx.executemany(
        "insert into sink (number) values (:number)", [{{"number": one}} for one in numbers]
    )

@workflow(name="poison_consume")
async def consume(count: int = 0) -> int:
    async for batch in orders.batches(max_messages=40, on_poison=dead_letter(after=3)):
        await store(batch.values)
        count += len(batch)
        await checkpoint(count=count)
    return count
"""


def facts(path: Path) -> tuple[int, int]:
    """Rows of the sink, and of all histories."""
    with closing(sqlite3.connect(path)) as connection:
        rows: int = connection.execute("select count(*) from sink").fetchone()[0]
        events: int = connection.execute("select count(*) from history").fetchone()[0]
        return rows, events


async def test_exactly_the_poisoned_are_set_aside_whenever_the_worker_is_killed(
    tmp_path: Path,
) -> None:
    began, chance, path = time.monotonic(), random.Random(), tmp_path / "everlong.db"
    (tmp_path / "flow.py").write_text(CODE.format(poison=set(POISON)))
    (tmp_path / "orders.txt").write_text("".join(f"{one}\n" for one in range(MESSAGES)))
    async with Client.connect(path) as client:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table sink (number integer primary key)")
        handle = await client.start("poison_consume", id="flow")
        control = StreamControl(handle, "orders")
        sound = MESSAGES - len(POISON)
        in_the_middle = 0
        for _ in range(KILLS):
            before = facts(path)
            worker = begin("worker", "flow.py", "--json", folder=tmp_path)
            await asyncio.to_thread(worker_ready, worker)
            while facts(path) == before and before[0] < sound:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await asyncio.sleep(chance.random() * 0.15)
            worker.kill()
            worker.communicate()
            in_the_middle += 0 < facts(path)[0] < sound
        worker = begin("worker", "flow.py", "--json", folder=tmp_path)
        try:

            async def all_set_aside() -> bool:
                return len(await control.dead_letters()) >= len(POISON)

            await until(all_set_aside)
            await control.drain()
            assert await handle.result() == sound
        finally:
            worker.kill()
            worker.communicate()
        problems = await client.verify()
        letters = [int(one.value) for one in await control.dead_letters()]
    with closing(sqlite3.connect(path)) as connection:
        found = [one for (one,) in connection.execute("select number from sink order by rowid")]
    wanted = [one for one in range(MESSAGES) if one not in POISON]
    record(
        "poison, the worker killed",
        invariants=[2, 3, 13],
        tried="a file with poisoned lines read into a table by plain INSERTs, the worker killed "
        "while the poison is looked for: each sound line is one row, each other one a dead letter",
        times=KILLS,
        broken=len(set(wanted) ^ set(found)) + len(POISON ^ set(letters)) + len(problems),
        seconds=time.monotonic() - began,
        figures={
            "messages": MESSAGES,
            "poisoned": len(POISON),
            "kills in the midst": in_the_middle,
        },
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_poison_kills.py",
    )
    assert sorted(letters) == sorted(POISON)
    assert sorted(found) == wanted
    assert problems == []
    assert in_the_middle > 0
