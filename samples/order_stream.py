"""An endless flow that polls an API for orders and loads each one into a table, exactly once.

    python -m samples.order_api 8000                       # in one terminal
    python -m samples.order_stream http://127.0.0.1:8000   # in another: kill it, run it again

`make demo` does both, and kills the flow's process again and again. Two keys make "exactly once"
out of "at least once": the API gives the same order to the same idempotency key, which stays the
same over attempts and crashes, and the table knows an order by its id.
"""

import argparse
import asyncio
import sqlite3
from contextlib import closing

import httpx
from pydantic import BaseModel

from everlong import ActivityInfo, Client, Retry, Worker, activity, checkpoint, info, workflow


class Order(BaseModel):
    id: int
    amount: int


@activity(retry=Retry(max_attempts=6, delay=10.0, backoff=1.0), timeout=5.0)
async def extract(url: str, max_value: int) -> Order | None:
    """The next order, or None. Five more tries, ten seconds apart, when the API is down."""
    async with httpx.AsyncClient() as http:
        response = await http.get(
            f"{url}/orders",
            params={"max_value": max_value},
            headers={"Idempotency-Key": info(ActivityInfo).idempotency_key},
        )
    data = response.raise_for_status().json()
    return Order(**data) if data else None


@activity(timeout=30.0)
def load(order: Order, table: str) -> None:
    """A plain function, so it runs in a thread. A repeated attempt changes nothing."""
    with closing(sqlite3.connect(table, timeout=20)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, amount INTEGER)")
        row = (order.id, order.amount)
        db.execute("INSERT INTO orders VALUES (?, ?) ON CONFLICT DO NOTHING", row)


@workflow
async def order_stream(url: str, table: str, max_value: int = 20, loaded: int = 0) -> None:
    while True:
        if order := await extract(url, max_value):
            await load(order, table)
            loaded += 1
        await asyncio.sleep(1)
        await checkpoint(loaded=loaded)


async def main(url: str, db: str, table: str, max_value: str, streams: int) -> None:
    async with Client.connect(db) as client:
        for number in range(1, streams + 1):
            # A stream that is open already is left as it is: the worker goes on with it.
            await client.start(order_stream, url, table, max_value=max_value, id=f"orders-{number}")
        await Worker(client).run()  # Until Ctrl-C or SIGTERM.


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="Load orders from an API, for ever.")
    options.add_argument("url")
    options.add_argument("--db", default="order_stream.db", help="Everlong's store")
    options.add_argument("--table", default="orders.db", help="where the orders are loaded to")
    options.add_argument("--max-value", default="20", help="largest amount of an order")
    options.add_argument("--streams", type=int, default=1)
    asyncio.run(main(**vars(options.parse_args())))
