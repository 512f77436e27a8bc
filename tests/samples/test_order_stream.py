import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from everlong import Client, InvalidArguments, Worker, WorkflowCancelled
from samples.order_stream import Order, load, order_stream
from tests.samples.conftest import Start, lines_until


def rows(table: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(table)) as db:
        return list(db.execute("SELECT id, amount FROM orders"))


async def test_orders_of_the_api_are_loaded_into_the_table(start: Start, tmp_path: Path) -> None:
    table = tmp_path / "orders.db"
    api = start("-m", "samples.order_api", "--errors", "0")
    async with api as process, httpx.AsyncClient() as http:
        url = (await lines_until(process, "http"))[-1]
        async with Client.connect(tmp_path / "it.db") as client, Worker(client):
            handles = [
                await client.start(order_stream, url, str(table), max_value="7", id=f"orders-{n}")
                for n in range(20)
            ]
            while len(served := (await http.get(f"{url}/served")).json()["orders"]) < 5:
                pass
            await http.post(f"{url}/close")
            served = (await http.get(f"{url}/served")).json()["orders"]
            while not table.exists() or {str(order) for order, _ in rows(table)} != set(served):
                await http.get(f"{url}/served")
            for handle in handles:
                await handle.cancel("enough for today")
                with pytest.raises(WorkflowCancelled, match="enough for today"):
                    await handle.result()
    assert all(1 <= amount <= 7 for _, amount in rows(table))


async def test_one_key_gets_one_order_whatever_happens(start: Start) -> None:
    async with start("-m", "samples.order_api", "--errors", "0.5") as process:
        url = (await lines_until(process, "http"))[-1]
        async with httpx.AsyncClient(headers={"Idempotency-Key": "the-same"}) as http:
            answers = [await http.get(f"{url}/orders") for _ in range(8)]
            assert (await http.get(f"{url}/orders", headers={"Idempotency-Key": ""})).is_error
    given = [answer.json() for answer in answers if not answer.is_error]
    assert given == given[:1] * len(given)
    assert {answer.status_code for answer in answers} <= {200, 500}


async def test_text_that_is_no_number_is_refused_before_anything_starts(tmp_path: Path) -> None:
    async with Client.connect(tmp_path / "it.db") as client:
        with pytest.raises(InvalidArguments, match="max_value"):
            await client.start(order_stream, "http://localhost", "t.db", max_value="abc", id="x")
        assert not (await client.list()).items


async def test_an_order_that_is_loaded_twice_is_one_row(tmp_path: Path) -> None:
    table = tmp_path / "orders.db"
    for _ in range(2):
        await load(Order(id=1, amount=5), str(table))
    assert rows(table) == [(1, 5)]
