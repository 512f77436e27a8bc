"""What the tests of the command line run: loaded by its file, as users' flows are."""

import asyncio
import os
import threading
from pathlib import Path

from pydantic import BaseModel

from everlong import (
    ApplicationError,
    Query,
    Retry,
    Signal,
    Update,
    activity,
    approval,
    info,
    publish,
    workflow,
)

HOSTILE = "\x1b]0;x\x07\x1b[2J\r\neverlong: all is well \u202e"


class Verdict(BaseModel):
    ok: bool
    by: str = "nobody"


approve = Signal("approve", Verdict)
status = Query("status", str)
raise_to = Update("raise-to", int)


@activity(retry=Retry(max_attempts=3, delay=0.01, jitter=0))
async def charge(order: int) -> str:
    if info().attempt < 2:
        raise ConnectionError(HOSTILE)
    return f"receipt-{order}"


@activity(process=True, timeout=60)
def count_in_process(items: list[str]) -> int:
    print("counting")  # noqa: T201 - flows print
    return len(items)


@workflow
async def order(id: int, items: list[str] = [], limit: int | None = 9) -> dict[str, object]:  # noqa: B006
    receipt = await charge(id)
    await asyncio.sleep(0.01)
    print("hello from the workflow")  # noqa: T201
    return {"receipt": receipt, "items": items, "limit": limit}


@activity(process=True, timeout=60)
def wait_for_a_file(name: str) -> str:
    Path("begun").touch()
    while not Path(name).exists():
        threading.Event().wait(0.02)
    return name


@workflow
async def waiting_in_process() -> str:
    return await wait_for_a_file("go")


@workflow
async def counted(items: list[str]) -> int:
    return await count_in_process(items)


@workflow
async def purchase(amount: int) -> str:
    state = "waiting"

    @status.handler
    def _(loud: bool = False) -> str:
        return f"{state} for {amount}".upper() if loud else f"{state} for {amount}"

    @raise_to.handler
    async def _(price: int) -> int:  # pyright: ignore[reportUnusedFunction]
        nonlocal amount
        amount = price
        return amount

    @raise_to.validator
    def _(price: int) -> None:  # pyright: ignore[reportUnusedFunction]
        if price <= amount:
            raise ValueError(f"it is {amount} already")

    try:
        verdict = await approve.receive()
    except asyncio.CancelledError:
        state = "cleaned up"
        raise
    state = "approved" if verdict.ok else "refused"
    return f"{state} by {verdict.by}"


@workflow
async def refund(amount: int) -> list[object]:
    verdict = await approval(f"Refund {amount}?", data={"amount": amount}, approvers=["ann", "bob"])
    return [verdict.approved, verdict.by, verdict.comment]


@workflow
async def tells(words: list[str]) -> None:
    for word in words:
        await publish("words", word)


@workflow
async def asleep() -> None:
    await asyncio.sleep(3600)


@workflow
async def failing() -> None:
    raise ApplicationError(HOSTILE)


@activity
async def must_be_mended() -> bool:
    return "MENDED" in os.environ


@workflow
async def faulty() -> str:
    mended = await must_be_mended()
    if not os.environ.get("MENDED") and not mended:
        Path("/etc/hostname").read_text()
    return "done"
