"""A worker as a program of its own: until a signal ends it in order, and a second one at once."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, Protocol

__all__ = ["Served", "serve"]


class Served(Protocol):
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


async def serve(
    workers: Sequence[Served],
    failed: Callable[[], "asyncio.Future[None] | None"],
    on_ready: Callable[[], None] | None,
) -> None:
    """Start them in their order, and stop them in it when it is time.

    Args:
        failed: what ends the last of them, once it has started: a store that cannot be trusted.
        on_ready: called once a signal would end them in order.
    """
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    signals = 0

    def stop(*_: Any) -> None:
        # Not through the loop: a workflow that never yields would keep the second one out too.
        nonlocal signals
        signals += 1
        if signals > 1:
            os.write(2, b"second signal: leaving at once; the next worker takes over\n")
            os._exit(130)
        loop.call_soon_threadsafe(asked.set)

    before: dict[int, Any] = {}
    try:
        for one in workers:
            await one.start()
        broken = failed()
        assert broken is not None, "it has started"
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, stop)
        if on_ready is not None:
            on_ready()
        waiting = loop.create_task(asked.wait())
        ends: list[asyncio.Future[Any]] = [waiting, broken]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
    finally:
        for one in workers:
            await one.stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, before.get(number, signal.SIG_DFL))
    if broken.done():
        broken.result()
