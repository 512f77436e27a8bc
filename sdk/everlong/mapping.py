"""One function over many items: a bounded number at once, and a policy for those that fail."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from everlong.exceptions import TooManyFailures

__all__ = ["MapFailure", "MapResult", "map_all"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class MapFailure(Generic[T]):
    """An item that failed for good."""

    index: int
    """Its place among the items, from 0."""
    item: T
    error: Exception


@dataclass(frozen=True, slots=True)
class MapResult(Generic[T, R]):
    """What became of the items of a `map_all`."""

    results: list[R]
    """Of the items that succeeded, in the items' order."""
    failures: list[MapFailure[T]]
    """The others, in the items' order."""


async def map_all(
    function: Callable[[T], Awaitable[R]],
    items: Iterable[T],
    *,
    limit: int = 50,
    tolerate: float | int = 0,
    min_success: int | None = None,
) -> MapResult[T, R]:
    """Await `function(item)` for every item, at most `limit` at once.

    What people get wrong: each item of an activity is two events of the history, so beyond some
    ten thousand items map over chunks, or over child workflows.

        done = await map_all(resize, pictures, limit=20, tolerate=0.05)
        print(len(done.results), [failure.item for failure in done.failures])

    Args:
        function: an activity, or any async function of one item.
        items: read to its end at once.
        limit: how many are on the way at the same time.
        tolerate: how many may fail: a number (int), or a share of all items (float, 0.0 to 1.0).
        min_success: how many must succeed; in place of `tolerate`.

    Raises:
        TooManyFailures: more items failed than may; those on the way were cancelled, and the rest
            was not begun.
        ValueError: an argument is out of its range.
    """
    if limit < 1:
        raise ValueError(f"map_all(limit={limit}): at least one item must be on the way")
    several = list(items)
    tolerated = _tolerated(len(several), tolerate, min_success)
    return await _Work(function, several, tolerated).run(limit)


class _Enough(Exception):
    """More have failed than may."""


class _Work(Generic[T, R]):
    """One call of `map_all`."""

    def __init__(
        self, function: Callable[[T], Awaitable[R]], items: list[T], tolerated: int
    ) -> None:
        self._function = function
        self._items = items
        self._tolerated = tolerated
        self._results: dict[int, R] = {}
        self._failures: dict[int, MapFailure[T]] = {}

    async def run(self, limit: int) -> MapResult[T, R]:
        rest = enumerate(self._items)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(limit, len(self._items))):
                    group.create_task(self._carry_out(rest))
        except* _Enough:
            self._give_up()
        return MapResult(
            [self._results[index] for index in sorted(self._results)],
            [self._failures[index] for index in sorted(self._failures)],
        )

    async def _carry_out(self, rest: Iterator[tuple[int, T]]) -> None:
        """One of those that take the next item when they are done with theirs."""
        for index, item in rest:
            try:
                self._results[index] = await self._function(item)
            except Exception as error:
                self._failures[index] = MapFailure(index, item, error)
                if len(self._failures) > self._tolerated:
                    raise _Enough from error

    def _give_up(self) -> None:
        failures = [self._failures[index] for index in sorted(self._failures)]
        first = next(iter(self._failures.values()))
        raise TooManyFailures(
            failed=len(failures),
            items=len(self._items),
            tolerated=self._tolerated,
            first=f"{type(first.error).__name__}: {first.error}",
            failures=failures,
        ) from first.error


def _tolerated(items: int, tolerate: float | int, min_success: int | None) -> int:
    """How many of so many items may fail."""
    if min_success is not None:
        if tolerate:
            raise ValueError("map_all takes tolerate=… or min_success=…, not both")
        if not 0 <= min_success <= items:
            raise ValueError(f"map_all(min_success={min_success}): there are {items} items")
        return items - min_success
    if isinstance(tolerate, float):
        if not 0.0 <= tolerate <= 1.0:
            raise ValueError(
                f"map_all(tolerate={tolerate}): a float is a share, from 0.0 to 1.0; for a number "
                "of items give an int"
            )
        return int(items * tolerate)
    if tolerate < 0:
        raise ValueError(f"map_all(tolerate={tolerate}): not below 0")
    return tolerate
