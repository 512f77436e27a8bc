"""A worker in a process of its own, one of whose keys is stuck until a file is there:
`python -m tests.support.lanes_worker DB GATE`. Says "ready" once it claims."""

import asyncio
import sys
from pathlib import Path
from typing import Final

from everlong import Client, Transaction, Worker, activity, checkpoint, workflow
from everlong.streams import Lines, Message, Stream

__all__ = ["book_all"]

_DB: Final = Path(sys.argv[1] if len(sys.argv) > 2 else "/nowhere/db")
_GATE: Final = Path(sys.argv[2] if len(sys.argv) > 2 else "/nowhere/gate")
orders: Stream[list[str]] = Stream("orders", Lines(_DB.parent / "orders.jsonl", list[str]))


@activity
async def pass_gate() -> None:
    while not _GATE.exists():  # noqa: ASYNC110 - the one who opens it is another process
        await asyncio.sleep(0.02)  # tidy: waits because a kill must find it at work


@activity(transactional=True)
async def book(tx: Transaction, customer: str, number: str) -> None:
    row = {"customer": customer, "number": number}
    tx.execute("insert into sink (customer, number) values (:customer, :number)", row)


async def one(message: Message[list[str]]) -> None:
    customer, number = message.value
    if customer == "slow":
        await pass_gate()
    await book(customer, number)


@workflow
async def book_all(count: int = 0) -> int:
    async for batch in orders.batches(max_messages=8):
        await batch.by_key(one, key=lambda message: message.value[0], lanes=3)
        count += len(batch)
        await checkpoint(count=count)
    return count


async def main() -> None:
    async with Client.connect(_DB) as client:
        await Worker(client, workflows=[book_all], activities=[pass_gate, book]).run(
            on_ready=lambda: print("ready", flush=True)
        )


if __name__ == "__main__":
    asyncio.run(main())
