"""The workflows whose runs stand half way in the kept stores. Never change what they decide."""

import asyncio
import os
from pathlib import Path

from everlong import Query, Retry, Signal, activity, checkpoint, side_effect, workflow

verdict = Signal("stores-verdict", bool)
seen = Query("stores-seen", int)


@activity(name="stores.note")
async def note(text: str) -> str:
    return text.upper()


@activity(name="stores.stubborn", retry=Retry(delay=5, backoff=1))
async def stubborn() -> str:
    """Fails while the store is being written; whoever finishes it meets a world that is mended."""
    if os.environ.get("STORES_WRITING"):
        raise ConnectionError("not today")
    return "mended"


@activity(name="stores.endless")
async def endless() -> str:
    """Never ends while the store is being written: its worker is killed under it."""
    if os.environ.get("STORES_WRITING"):
        Path(os.environ["STORES_WRITING"]).touch()
        await asyncio.Event().wait()
    return "after the crash"


@workflow(name="stores.waits_for_signal")
async def waits_for_signal(name: str) -> str:
    text = await note(name)
    approved = await verdict.receive()
    return f"{text} {approved}"


@workflow(name="stores.sleeps")
async def sleeps() -> str:
    await asyncio.sleep(5)
    return await note("woke")


@workflow(name="stores.backs_off")
async def backs_off() -> str:
    return await stubborn()


@workflow(name="stores.dies_in_activity")
async def dies_in_activity() -> str:
    first, second = await asyncio.gather(note("parallel"), endless())
    return f"{first} {second}"


@workflow(name="stores.carries")
async def carries(total: int = 0) -> int:
    """A signal per round; with a low threshold it is in a later run by now."""

    @seen.handler
    def _() -> int:
        return total

    while True:
        if await verdict.receive():
            return total
        total += 1
        await checkpoint(total=total)


@workflow(name="stores.large")
async def large() -> int:
    """Its payloads have left the history for the blob table."""
    text = await note("x" * 100_000)
    number = await side_effect(lambda: 7)
    await verdict.receive()
    return len(await note(text)) + number
