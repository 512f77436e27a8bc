"""Watches payments, for ever, for cards that spend too much in a minute; the limit may change.

    python -m samples.fraud_watch watch            # in one terminal: kill -9 it, run it again
    python -m samples.fraud_watch pay ann 700 --at 12:00:05      # in another
    python -m samples.fraud_watch pay ann 500 --at 12:00:30
    python -m samples.fraud_watch pay bob 900 --at 12:01:30
    python -m samples.fraud_watch alarms
    python -m samples.fraud_watch limit 2000       # for each minute that closes from here on

Payments are lines of payments.jsonl. A minute closes when a payment is ten seconds beyond it. An
alarm is a row of the store's own database, stored with the completion of the activity that raises
it: once, whenever the process is killed.
"""

import asyncio
import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated

import typer
from pydantic import AwareDatetime, BaseModel, PositiveInt

from everlong import Client, Signal, Transaction, Worker, activity, checkpoint, workflow
from everlong.streams import Batch, Lines, Stream, Tumbling, Window, Windows, merge

STORE, PAYMENTS = "fraud.db", Path("payments.jsonl")


class Payment(BaseModel):
    card: str
    amount: PositiveInt
    at: AwareDatetime


class Limit(BaseModel):
    amount: PositiveInt


payments = Stream("payments", Lines(PAYMENTS, Payment))
limit_set = Signal("limit", Limit)
by_minute: Tumbling[int] = Tumbling(60, lateness=10)


@activity(transactional=True)
async def raise_alarm(tx: Transaction, window: Window[int], limit: int) -> None:
    tx.execute(
        "CREATE TABLE IF NOT EXISTS alarms (card TEXT, minute TEXT, amount INTEGER, cap INTEGER)"
    )
    tx.execute(
        "INSERT INTO alarms VALUES (:card, :minute, :sum, :cap)",
        {"card": window.key, "minute": f"{window.start:%H:%M}", "sum": window.value, "cap": limit},
    )


@workflow
async def watch(limit: int = 1000, windows: Windows[int] = Windows()) -> None:  # noqa: B008
    async for found in merge(payments.batches(), limit_set):
        match found:
            case Batch():
                for payment in found.values:
                    by_minute.put(windows, payment.card, payment.at, payment.amount)
            case Limit():
                limit = found.amount
        for window in by_minute.closed(windows):
            if window.value > limit:
                await raise_alarm(window, limit)
        await checkpoint(limit=limit, windows=windows)


app = typer.Typer(add_completion=False, help=__doc__)


@app.callback()
def place(folder: Annotated[Path, typer.Option(help="Where the files are.")] = Path()) -> None:
    os.chdir(folder)


@app.command("watch")
def host() -> None:
    async def main() -> None:
        async with Client.connect(STORE) as client, Worker(client):
            handle = await client.start(watch, id="watch", if_open="use")
            print("watching", PAYMENTS, flush=True)
            await handle.result()

    asyncio.run(main())


@app.command()
def pay(card: str, amount: int, at: Annotated[str, typer.Option(help="Today, in UTC.")]) -> None:
    when = datetime.combine(datetime.now(UTC), time.fromisoformat(at), UTC)
    with PAYMENTS.open("a") as file:
        print(Payment(card=card, amount=amount, at=when).model_dump_json(), file=file)


@app.command()
def limit(amount: int) -> None:
    async def main() -> None:
        async with Client.connect(STORE) as client:
            await client.get_handle("watch", watch).signal(limit_set, Limit(amount=amount))

    asyncio.run(main())


@app.command()
def alarms() -> None:
    with closing(sqlite3.connect(STORE)) as db:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'alarms'").fetchone():
            for row in db.execute("SELECT * FROM alarms ORDER BY minute, card"):
                print(json.dumps(row))


if __name__ == "__main__":
    app()
