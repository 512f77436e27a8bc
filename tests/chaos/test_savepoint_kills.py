"""Savepoints under kill -9: each is there whole or not, and nothing is lost or twice behind one."""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import random
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import pytest

from everlong import Client, WorkflowHandle
from everlong.exceptions import EverlongError, WorkflowCancelled
from everlong.streams import Savepoint, StreamControl
from tests.chaos.arena import FULL
from tests.proof.record import record
from tests.support.command_line import begin, worker_ready

KILLS: Final = 100 if FULL else 10
MESSAGES: Final = 100_000 if FULL else 20_000
LINE_BYTES: Final = 8
CODE: Final = """
from everlong import Retry, Transaction, activity, checkpoint, workflow
from everlong.streams import Lines, Stream

orders = Stream("orders", Lines("orders.txt", int, poll=0.01))

@activity(name="chaos_put", transactional=True, retry=Retry(delay=0.01))
async def put(tx: Transaction, numbers: list[int]) -> None:
    tx.executemany(
        "insert into sink (number) values (:number)", [{{"number": one}} for one in numbers]
    )

@workflow(name="chaos_saved")
async def saved(count: int = 0, total: int = 0) -> int:
    async for batch in orders.batches(max_messages=40):
        await put(batch.values)
        count, total = count + len(batch), total + sum(batch.values)
        await checkpoint(count=count, total=total)
        if count == {messages}:
            break
    return total
"""


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute("select count(*) from sink").fetchone()[0]
        return found


def whole(point: Savepoint) -> bool:
    """How far it had read, and what it carried, are of the same moment."""
    count: int = point.parameters["count"]
    read = point.positions.get("orders", {"0": 0})["0"]
    return (read, point.parameters["total"]) == (LINE_BYTES * count, sum(range(count)))


async def ask(handle: WorkflowHandle[object], name: str, *, stop: bool) -> None:
    """Whoever asks may not hear of it any more."""
    with suppress(EverlongError):
        control = StreamControl(handle, "orders")
        await control.savepoint(name, stop=stop, wait=0.05, request_id=name)


@pytest.mark.timeout(3600 if FULL else 180)
async def test_a_savepoint_is_whole_whenever_the_worker_is_killed(tmp_path: Path) -> None:
    began = time.monotonic()
    chance = random.Random()
    path = tmp_path / "everlong.db"
    (tmp_path / "orders.txt").write_text("".join(f"{n:7}\n" for n in range(MESSAGES)))
    (tmp_path / "flow.py").write_text(CODE.format(messages=MESSAGES))
    broken = at_once = stops = 0
    async with Client.connect(path) as client:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table sink (number integer primary key)")
        handle = await client.start("chaos_saved", id="flow-0")
        for kill in range(KILLS):
            worker = begin("worker", "flow.py", "--json", folder=tmp_path)
            await asyncio.to_thread(worker_ready, worker)
            while rows(path) <= MESSAGES * kill // (KILLS + 1):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            name, stop = f"s{kill}", kill % 3 == 2
            asked = asyncio.ensure_future(ask(handle, name, stop=stop))
            await asyncio.sleep(chance.random() * 0.1)
            worker.kill()
            worker.communicate()
            await asked
            known = await StreamControl(handle, "orders").savepoints()
            at_once += name in {one.name for one in known}
            broken += sum(not whole(one) for one in known) + len(await client.verify())
            if not stop:
                continue
            stops += 1  # The next worker takes it, if this one has not.
            worker = begin("worker", "flow.py", "--json", folder=tmp_path)
            try:
                with pytest.raises(WorkflowCancelled):
                    await handle.result()
            finally:
                worker.kill()
                worker.communicate()
            point = await StreamControl(handle, "orders").find_savepoint(name)
            broken += not whole(point)
            handle = await client.start("chaos_saved", id=f"flow-{stops}", from_savepoint=point)
        worker = begin("worker", "flow.py", "--json", folder=tmp_path)
        try:
            assert await handle.result() == sum(range(MESSAGES))
        finally:
            worker.kill()
            worker.communicate()
        names = [
            one.name
            for flow in range(stops + 1)
            for one in await StreamControl(client.get_handle(f"flow-{flow}"), "orders").savepoints()
        ]
        problems = await client.verify()
    with closing(sqlite3.connect(path)) as connection:
        found = [one for (one,) in connection.execute("select number from sink order by 1")]
    record(
        "savepoints, their worker killed",
        invariants=[2, 3, 4, 8],
        tried="a flow asked for savepoints, with and without an end, and the worker killed at "
        "random moments behind that: each is there whole, and each message is one row",
        times=KILLS,
        broken=broken + len(set(range(MESSAGES)) ^ set(found)) + len(problems),
        seconds=time.monotonic() - began,
        figures={"messages": MESSAGES, "there before the kill": at_once, "flows": stops + 1},
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_savepoint_kills.py",
    )
    assert found == list(range(MESSAGES))
    assert names == [f"s{kill}" for kill in range(KILLS)]
    assert (broken, problems) == (0, [])
    assert stops > 0
