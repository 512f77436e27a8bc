"""A purchase above a limit waits for a manager's word, or three days; then it is paid or refunded.

    python -m samples.approval

The wait is a plain `asyncio.timeout` around a signal. It costs one row in the store, outlives any
number of restarts, and the process need not even run meanwhile. The compensation is a plain
`except`: whatever goes wrong behind the deposit, the deposit is given back, and that too survives
a crash in its middle.
"""

import asyncio
import sys
from datetime import timedelta

from pydantic import BaseModel

from everlong import Client, Query, Retry, Signal, Worker, activity, workflow

LIMIT = 1_000


class Purchase(BaseModel):
    item: str
    amount: int


class Verdict(BaseModel):
    approved: bool
    by: str


class SupplierRefused(Exception):
    """The supplier does not take the order; asking again will not help."""


verdict = Signal("verdict", Verdict)
status = Query("status", str)


@activity(timeout=10.0)
async def take_deposit(purchase: Purchase) -> str:
    return f"deposit for {purchase.item}"


@activity(retry=Retry(max_attempts=5, non_retryable=(SupplierRefused,)), timeout=10.0)
async def pay(purchase: Purchase) -> None:
    if purchase.item == "unicorn":
        raise SupplierRefused("unicorns are out of stock")


@activity(timeout=10.0)
async def refund(deposit: str) -> None:
    print(f"    gave back the {deposit}")


@workflow
async def approval(purchase: Purchase, patience: timedelta = timedelta(days=3)) -> str:
    state = "taking the deposit"

    @status.handler
    def _() -> str:
        return state

    deposit = await take_deposit(purchase)
    try:
        if purchase.amount > LIMIT:
            state = "waiting for a manager"
            async with asyncio.timeout(patience.total_seconds()):
                answer = await verdict.receive()
            if not answer.approved:
                await refund(deposit)
                return f"refused by {answer.by}"
        state = "paying"
        await pay(purchase)
    except TimeoutError:
        await refund(deposit)
        return f"nobody answered in {patience}"
    except SupplierRefused as reason:
        await refund(deposit)
        return f"not delivered: {reason}"
    return "paid"


async def main(db: str = "approval.db") -> None:
    async with Client.connect(db) as client, Worker(client):
        shopping = {"pencil": 2, "desk": 1_500, "car": 30_000, "unicorn": 5_000}
        handles = [
            await client.start(
                approval, Purchase(item=item, amount=amount), id=f"buy-{item}", if_open="terminate"
            )
            for item, amount in shopping.items()
        ]
        await asyncio.sleep(0.2)  # Or days, and the manager's word comes from another process.
        for handle, amount in zip(handles, shopping.values(), strict=True):
            if amount > LIMIT:
                print(f"{handle.workflow_id}: {await handle.query(status)}")
                await handle.signal(verdict, Verdict(approved=amount < 10_000, by="Ada"))
        for handle in handles:
            print(f"{handle.workflow_id}: {await handle.result()}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
