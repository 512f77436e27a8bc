"""Messages of one batch at work at the same time: in order by key, or in no order.

Nothing here remembers anything. What is done are activities on record, so a replay goes through the
same lanes and finds their results; what a crash interrupts is begun again, and nothing else. The
position moves with a whole batch, and the next one is not read before this one is done: there is
never a message behind it that is done while one before it is not.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Final, TypeVar

from everlong.exceptions import InvalidArguments

__all__ = ["LANES", "in_lanes"]

M = TypeVar("M")
R = TypeVar("R")

LANES: Final = 16
_LANES_MAX: Final = 1_000


async def in_lanes(
    messages: Sequence[M],
    key_of: Callable[[M], Hashable],
    work: Callable[[M], Awaitable[R]],
    lanes: int,
) -> list[R]:
    """Do all of them, one at a time of each key, of so many keys at once.

    A key whose work fails goes no further; the others do, so that nothing is left half done. Then
    the error is raised; several come as an ExceptionGroup.
    """
    if not 1 <= lanes <= _LANES_MAX:
        raise InvalidArguments(f"lanes={lanes}: give 1 to {_LANES_MAX:,}")
    queues: dict[Hashable, list[tuple[int, M]]] = {}
    for at, message in enumerate(messages):
        queues.setdefault(key_of(message), []).append((at, message))
    done: dict[int, R] = {}
    failed: list[Exception] = []
    waiting = iter(queues.values())

    async def lane(queue: Iterable[tuple[int, M]]) -> None:
        try:
            for at, message in queue:
                done[at] = await work(message)
        except Exception as error:
            failed.append(error)

    async def lane_after_lane() -> None:
        for queue in waiting:  # Shared by all: whoever is free takes the next key.
            await lane(queue)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(lanes, len(queues))):
            group.create_task(lane_after_lane())
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise ExceptionGroup(f"{len(failed)} of {len(queues)} keys failed", failed)
    return [done[at] for at in range(len(messages))]
