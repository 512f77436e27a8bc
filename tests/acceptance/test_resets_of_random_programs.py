"""Random programs, forked and reset at random points: what is copied is what the code decides."""

from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from everlong import CannotReset, Client, WorkflowClosed, WorkflowHandle, registry
from tests.support.hosting import described, hosting
from tests.support.programs import news, perform, play, random_program

SEEDS = range(4)
PROGRAMS = 6
POINTS = 4


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_point_of_a_random_program_meets_other_decisions(path: Path, seed: int) -> None:
    """A point whose copy the code did not decide just so would block the run."""
    registry.workflows[play.definition.name] = play
    registry.activities[perform.definition.name] = perform
    random = Random(seed)
    begun = 0
    async with hosting(path) as client:
        for number in range(PROGRAMS):
            begun += await _forked(client, random, f"program-{seed}-{number}")
        assert begun >= PROGRAMS
        assert not await client.verify()
        assert not (await client.list(status="blocked")).items


async def _forked(client: Client, random: Random, name: str) -> int:
    """Fork one program, and its forks, at random points; how many of them were points."""
    handle: WorkflowHandle[Any] = await client.start(play, list(random_program(random)), id=name)
    for number in range(random.randrange(4)):
        with suppress(WorkflowClosed):
            await handle.signal(news, f"news {number}")
    events, begun = await _further(handle), 0
    for number in range(POINTS):
        points: list[int | str] = ["last", "start", random.randint(1, events)]
        try:
            handle = await handle.fork(
                f"{name}-{number}", random.choice(points), reapply=random.random() < 0.5
            )
        except CannotReset:
            continue
        events, begun = await _further(handle), begun + 1
    return begun


async def _further(handle: WorkflowHandle[Any]) -> int:
    """How many events it has, some moments after it has begun."""
    found = await described(handle, lambda one: one.history_events > 0)
    for _ in range(10):
        found = await handle.describe()
    assert found.status != "blocked", found.reason
    return found.history_events
