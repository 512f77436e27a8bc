"""A transfer between two accounts: withdraw, deposit, and give back what was taken if that fails.

    python -m samples.order_saga        # in another terminal: kill -9 the process, and run it again

The bank is a file of its own, so that its books can be compared after any number of kills. A
booking bears a key, and booking it twice is booking it once: activities run at least once.
"""

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager

from pydantic import BaseModel, PositiveInt

from everlong import (
    ActivityInfo,
    Client,
    Query,
    Retry,
    Worker,
    WorkflowFailed,
    activity,
    info,
    saga,
    workflow,
)


class Transfer(BaseModel):
    reference: str
    source: str
    target: str
    amount: PositiveInt


class NoSuchAccount(Exception): ...


class NotEnoughMoney(Exception): ...


BANK = """
    CREATE TABLE IF NOT EXISTS bookings (key TEXT PRIMARY KEY, account TEXT, amount INTEGER);
    INSERT OR IGNORE INTO bookings VALUES ('open-ada', 'ada', 1000), ('open-bob', 'bob', 0);
"""
progress = Query("progress", str)
bank_call = activity(
    retry=Retry(delay=0.2, non_retryable=(NoSuchAccount, NotEnoughMoney)), timeout=5.0
)


@contextmanager
def bank() -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect("bank.db")) as books, books:
        books.executescript(BANK)
        books.execute("BEGIN IMMEDIATE")
        yield books
    time.sleep(0.3)  # Long enough to be killed between the booking and its answer.


def book(key: str, account: str, amount: int) -> str:
    with bank() as books:
        if books.execute("SELECT 1 FROM bookings WHERE key = ?", [key]).fetchone() is None:
            of_account = "SELECT sum(amount) FROM bookings WHERE account = ?"
            (balance,) = books.execute(of_account, [account]).fetchone()
            if balance is None:
                raise NoSuchAccount(account)
            if balance + amount < 0:
                raise NotEnoughMoney(f"{account} has {balance}")
            books.execute("INSERT INTO bookings VALUES (?, ?, ?)", [key, account, amount])
    print(f"  {key}: {amount:+} for {account}", flush=True)
    return key


@bank_call
def withdraw(transfer: Transfer) -> str:
    return book(f"{transfer.reference}-out", transfer.source, -transfer.amount)


@bank_call
def deposit(transfer: Transfer) -> str:
    if info(ActivityInfo).attempt == 1:
        raise ConnectionError("the line is busy")  # Tried again by itself.
    return book(f"{transfer.reference}-in", transfer.target, transfer.amount)


@bank_call
def give_back(transfer: Transfer) -> None:
    key = f"{transfer.reference}-out"
    with bank() as books:  # An empty booking also stops a withdrawal that is still on its way.
        books.execute(
            "INSERT INTO bookings VALUES (?, ?, 0) ON CONFLICT DO UPDATE SET amount = 0",
            [key, transfer.source],
        )
    print(f"  {key}: void", flush=True)


@workflow
async def transfer_money(transfer: Transfer) -> str:
    @progress.handler
    def _() -> str:
        return step

    step = "withdrawing"
    async with saga() as steps:
        steps.undo(give_back, transfer)  # First: a withdrawal may take effect although it fails.
        out = await withdraw(transfer)
        step = "depositing"
        into = await deposit(transfer)
    step = "done"
    return f"transferred: {out}, {into}"


async def main() -> None:
    print(f"process {os.getpid()}: kill -9 {os.getpid()}, then run me again", flush=True)
    transfers = [
        Transfer(reference="gift", source="ada", target="bob", amount=250),
        Transfer(reference="typo", source="ada", target="bop", amount=250),
        Transfer(reference="yacht", source="ada", target="bob", amount=9_000),
    ]
    async with Client.connect("transfers.db") as client, Worker(client):
        for transfer in transfers:
            # The same request id: what was begun before a kill is gone on with, never begun anew.
            handle = await client.start(
                transfer_money, transfer, id=transfer.reference, request_id=transfer.reference
            )
            try:
                print(f"{transfer.reference}: {await handle.result()}", flush=True)
            except WorkflowFailed as failed:
                reason = f"{type(failed.__cause__).__name__}: {failed.__cause__}"
                print(f"{transfer.reference}: failed, {reason}", flush=True)
            print(f"  its last word: {await handle.query(progress)}", flush=True)


if __name__ == "__main__":
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else ".")
    asyncio.run(main())
