"""Replaces a running flow by another one, at a savepoint: no order is read twice, and none is lost.

    python -m samples.stream_upgrade work          # in one terminal
    python -m samples.stream_upgrade order ann 700 # in another, as often as you like
    python -m samples.stream_upgrade order bob 300
    python -m samples.stream_upgrade standing
    python -m samples.stream_upgrade upgrade       # from here on each customer counts, too
    python -m samples.stream_upgrade order ann 50
    python -m samples.stream_upgrade standing

Orders are lines of orders.jsonl. The first flow knows how many there were and what they came to;
the second one takes that over, and knows each customer, too. Each order is a row of the store's own
database, of the flow that has read it: a plain INSERT, so an order that was read twice would fail.
"""

import asyncio
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, PositiveInt

from everlong import Client, Query, Transaction, Worker, activity, checkpoint, workflow
from everlong.streams import Lines, Stream

STORE, ORDERS, ID = "orders.db", Path("orders.jsonl"), "orders"


class Order(BaseModel):
    number: PositiveInt
    customer: str
    amount: PositiveInt


orders = Stream("orders", Lines(ORDERS, Order, poll=0.05))
standing = Query("standing", dict[str, int])


@activity(transactional=True)
async def book(tx: Transaction, flow: str, found: list[Order]) -> None:
    tx.executemany(
        "INSERT INTO booked VALUES (:number, :customer, :amount, :flow)",
        [one.model_dump() | {"flow": flow} for one in found],
    )


@workflow
async def first(count: int = 0, total: int = 0) -> None:
    @standing.handler
    def _() -> dict[str, int]:
        return {"count": count, "total": total}

    async for batch in orders.batches():
        await book("first", batch.values)
        count += len(batch)
        total += sum(one.amount for one in batch.values)
        await checkpoint(count=count, total=total)


@workflow
async def second(
    count: int = 0,
    total: int = 0,
    by_customer: dict[str, int] = {},  # noqa: B006 - each run has its own copy
) -> None:
    @standing.handler
    def _() -> dict[str, int]:
        return {"count": count, "total": total} | by_customer

    async for batch in orders.batches():
        await book("second", batch.values)
        count += len(batch)
        total += sum(one.amount for one in batch.values)
        for one in batch.values:
            by_customer[one.customer] = by_customer.get(one.customer, 0) + one.amount
        await checkpoint(count=count, total=total, by_customer=by_customer)


app = typer.Typer(add_completion=False, help=__doc__)


@app.callback()
def place(folder: Annotated[Path, typer.Option(help="Where the files are.")] = Path()) -> None:
    os.chdir(folder)


@app.command()
def work() -> None:
    async def main() -> None:
        async with Client.connect(STORE) as client, Worker(client):
            with closing(sqlite3.connect(STORE)) as db:
                db.execute(
                    "CREATE TABLE IF NOT EXISTS booked"
                    " (number INTEGER PRIMARY KEY, customer TEXT, amount INTEGER, flow TEXT)"
                )
            if not (await client.list(workflow_id=ID, limit=1)).items:
                await client.start(first, id=ID)
            print("reading", ORDERS, flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())


@app.command()
def order(customer: str, amount: int) -> None:
    number = len(ORDERS.read_text().splitlines()) + 1 if ORDERS.exists() else 1
    with ORDERS.open("a") as file:
        print(Order(number=number, customer=customer, amount=amount).model_dump_json(), file=file)


@app.command()
def upgrade() -> None:
    """Stop the first flow where it is, and let the second one go on there."""

    async def main() -> None:
        async with Client.connect(STORE) as client:
            running = orders.control(client.get_handle(ID))
            point = await running.savepoint("before-second", stop=True)
            await client.start(second, id=ID, from_savepoint=point)
            print("the second flow goes on at", point.positions, "with", point.parameters)

    asyncio.run(main())


@app.command("standing")
def show() -> None:
    """What the flow knows, and the orders that each of the two has booked."""

    async def main() -> None:
        async with Client.connect(STORE) as client:
            known = await client.get_handle(ID).query(standing)
        with closing(sqlite3.connect(STORE)) as db:
            rows = db.execute("SELECT flow, group_concat(number, ' ') FROM booked GROUP BY flow")
            print(json.dumps([known, dict(rows.fetchall())]))

    asyncio.run(main())


if __name__ == "__main__":
    app()
