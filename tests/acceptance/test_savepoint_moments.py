"""Savepoints at any moment: what was read before one and behind it is each message once."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from everlong import activity, checkpoint, workflow
from everlong.streams import Memory, Savepoint, Stream, StreamControl
from everlong.testing import amnesia
from tests.support.hosting import hosting, until

EXAMPLE: Final = count()

Turn = tuple[int, int, int, int]
turns = st.lists(
    st.tuples(
        st.integers(0, 9),  # messages that come before the savepoint is asked for
        st.integers(0, 9),  # messages that come with it
        st.integers(1, 4),  # in a batch
        st.integers(1, 3),  # batches from checkpoint to checkpoint
    ),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=25,
    phases=[Phase.reuse, Phase.generate],  # What is lost is waited for.
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(turns=turns, stop=st.booleans(), forgets=st.booleans(), cache_size=st.sampled_from([0, 100]))
async def test_each_message_is_read_once_before_and_behind_savepoints(
    path: Path, turns: list[Turn], stop: bool, forgets: bool, cache_size: int
) -> None:
    """A chain of flows, each from a savepoint of the one before. With `stop` each message has its
    effect once; without it, the flow before reads on, and still each of them knows each once."""
    numbers = Stream(f"numbers-{next(EXAMPLE)}", source := Memory(int))
    effects: list[int] = []
    put = 0

    def more(how_many: int) -> None:
        nonlocal put
        source.put(*range(put, put + how_many))
        put += how_many

    @activity(name="spm_effect")
    async def effect(values: list[int]) -> None:
        effects.extend(values)

    @workflow(name="spm_reads")
    async def reads(size: int, every: int, seen: list[int] | None = None) -> list[int]:
        seen, batches = seen or [], 0
        async for batch in numbers.batches(max_messages=size):
            await effect(batch.values)
            seen, batches = seen + batch.values, batches + 1
            if batches % every == 0:
                await checkpoint(seen=seen)
        return seen

    async def taken(control: StreamControl, name: str, at_once: int) -> Savepoint:
        asked = asyncio.ensure_future(control.savepoint(name, stop=stop))
        more(at_once)
        while not (await asyncio.wait([asked], timeout=0.02))[0]:
            more(1)  # Until it comes to a checkpoint.
        return asked.result()

    with amnesia() if forgets else nullcontext():
        async with hosting(
            path, workflows=[reads], activities=[effect], cache_size=cache_size
        ) as client:
            point: Savepoint | None = None
            for number, (before, at_once, size, every) in enumerate(turns):
                changed = {"size": size, "every": every}
                handle = await client.start(
                    reads, from_savepoint=point, **changed, id=f"{numbers.name}-{number}"
                )
                more(before)
                point = await taken(numbers.control(handle), f"s{number}", at_once)
                assert consistent(point, numbers.name)
                if not stop:
                    await numbers.control(handle).drain()
            last = await client.start(
                reads, from_savepoint=point, size=3, every=1, id=f"{numbers.name}-last"
            )
            more(1)
            await until(lambda: read_up_to(numbers.control(last), put - 1))
            await numbers.control(last).drain()
            assert await last.result() == list(range(put))
    if stop:
        assert effects == list(range(put))


def consistent(point: Savepoint, stream: str) -> bool:
    """What it carried is just what it had read."""
    seen: Sequence[int] = point.parameters["seen"] or ()
    after = point.positions.get(stream, {"0": -1})["0"]
    return list(seen) == list(range(int(after) + 1))


async def read_up_to(control: StreamControl, position: int) -> bool:
    found = await control.position()
    return found is not None and found.after == {"0": position}
