"""Transactional activities under kill -9: every row once, by plain INSERTs that never collide."""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from everlong import Client
from tests.chaos.arena import FULL
from tests.proof.record import record
from tests.support.command_line import begin, worker_ready

KILLS: Final = 100 if FULL else 4
FLOWS: Final = 4
ROWS_OF_A_KILL: Final = 400
CODE: Final = """
from everlong import Retry, Transaction, activity, checkpoint, workflow

@activity(name="chaos_book", transactional=True, retry=Retry(delay=0.01))
async def book(tx: Transaction, flow: int, first: int, rows: int) -> int:
    tx.executemany(
        "insert into bookings (flow, number) values (:flow, :number)",
        [{"flow": flow, "number": number} for number in range(first, first + rows)],
    )
    return rows

@workflow(name="chaos_booking")
async def booking(flow: int, rows: int, first: int = 0) -> int:
    while first < rows:
        first += await book(flow, first, min(rows - first, 1 + first % 7))
        if first % 5 == 0:
            await checkpoint(flow=flow, rows=rows, first=first)
    return first
"""


def booked(path: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("select flow, number from bookings order by 1, 2").fetchall()


@pytest.mark.timeout(3600 if FULL else 120)
async def test_each_row_is_there_once_whenever_the_worker_is_killed(tmp_path: Path) -> None:
    began = time.monotonic()
    chance = random.Random()
    path = tmp_path / "everlong.db"
    (tmp_path / "booking.py").write_text(CODE)
    rows = KILLS * ROWS_OF_A_KILL // FLOWS
    in_the_middle = 0
    async with Client.connect(path) as client:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table bookings (flow, number, primary key (flow, number))")
        handles = [
            await client.start("chaos_booking", id=f"booking-{flow}", flow=flow, rows=rows)
            for flow in range(FLOWS)
        ]
        for kill in range(KILLS):
            worker = begin("worker", "booking.py", "--json", folder=tmp_path)
            await asyncio.to_thread(worker_ready, worker)
            while len(booked(path)) < rows * FLOWS * kill // (KILLS + 1) + 1:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await asyncio.sleep(chance.random() * 0.02)
            worker.kill()
            worker.communicate()
            in_the_middle += len(booked(path)) not in (0, rows * FLOWS)
            assert await client.verify() == []
        worker = begin("worker", "booking.py", "--json", folder=tmp_path)
        try:
            assert [await one.result() for one in handles] == [rows] * FLOWS
        finally:
            worker.kill()
            worker.communicate()
        problems = await client.verify()
    found = booked(path)
    wanted = [(flow, number) for flow in range(FLOWS) for number in range(rows)]
    broken = len(set(wanted) ^ set(found)) + len(found) - len(set(found)) + len(problems)
    record(
        "transactional activities, their worker killed",
        invariants=[2, 3, 4],
        tried="plain INSERTs that commit with their activities, and the worker killed at random "
        "moments: each row is there once",
        times=KILLS,
        broken=broken,
        seconds=time.monotonic() - began,
        figures={"rows": len(found), "kills in their midst": in_the_middle},
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_transactional.py",
    )
    assert found == wanted
    assert problems == []
    assert in_the_middle > 0
