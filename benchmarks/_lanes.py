"""Keeping many things in flight: lanes that take the next number as soon as they are free."""

import asyncio
from collections.abc import Awaitable, Callable

IN_FLIGHT = 200


async def in_lanes(count: int, work: Callable[[int], Awaitable[object]]) -> None:
    """Await `work(n)` for each n below `count`, `IN_FLIGHT` at a time."""
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(IN_FLIGHT, count)):
            group.create_task(lane())


def percentile(values: list[float], percent: int) -> float:
    """The value below which `percent` of the values lie (nearest rank)."""
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]
