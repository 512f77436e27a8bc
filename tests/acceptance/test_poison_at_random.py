"""Whatever is poisoned, and however it is cut into batches: each message is somewhere, once."""

import asyncio
from contextlib import nullcontext

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from everlong import WorkflowHandle, activity, checkpoint, workflow
from everlong.streams import Memory, Poison, Stream, StreamControl
from everlong.testing import amnesia
from tests.support.hosting import AT_ONCE, hosting, until

KEYS = "abc"


async def at_rest(
    handle: WorkflowHandle[int], control: StreamControl, count: int, rows: list[int]
) -> bool:
    """Everything has come to its place; whoever is asked lets the flow go on."""
    if (await handle.describe()).paused is not None:
        await handle.resume()
    letters = await control.dead_letters()
    parked = sum(len(one.messages) for one in await control.parked())
    return len(letters) + parked + len(rows) >= count


async def over(handle: WorkflowHandle[int]) -> bool:
    found = await handle.describe()
    if found.paused is not None:
        await handle.resume()
    return found.status == "completed"


@settings(
    max_examples=12,
    phases=[Phase.reuse, Phase.generate],  # What is lost is waited for.
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    messages=st.lists(
        st.tuples(st.sampled_from(KEYS), st.sampled_from([False, False, True])),
        min_size=1,
        max_size=20,
    ),
    size=st.integers(1, 9),
    poison=st.builds(
        Poison, st.sampled_from(["dead_letter", "park_key", "skip"]), st.integers(1, 2)
    ),
    forgets=st.booleans(),
    cache_size=st.sampled_from([0, 100]),
)
async def test_each_message_is_stored_or_set_aside_once(
    tmp_path_factory: pytest.TempPathFactory,
    messages: list[tuple[str, bool]],
    size: int,
    poison: Poison,
    forgets: bool,
    cache_size: int,
) -> None:
    source = Memory(int)
    stream = Stream("numbers", source)
    rows: list[int] = []
    bad = [at for at, (_, is_bad) in enumerate(messages) if is_bad]

    @activity(retry=AT_ONCE)
    async def save(numbers: list[int]) -> None:
        if any(one in bad for one in numbers):
            raise ValueError("poison")
        rows.extend(numbers)

    @workflow
    async def saves(count: int = 0) -> int:
        async for batch in stream.batches(max_messages=size, on_poison=poison):
            await save(batch.values)
            count += len(batch)
            await checkpoint(count=count)
        return count

    for at, (key, _) in enumerate(messages):
        source.put(at, key=key.encode())
    path = tmp_path_factory.mktemp("poison") / "everlong.db"
    wanted = len(messages) - (len(bad) if poison.policy == "skip" else 0)
    with amnesia() if forgets else nullcontext():
        async with hosting(path, workflows=[saves], activities=[save], cache_size=cache_size) as it:
            handle = await it.start(saves)
            control = stream.control(handle)
            async with asyncio.timeout(30):
                await until(lambda: at_rest(handle, control, wanted, rows))
                await control.drain()
                await until(lambda: over(handle))
                assert await handle.result() == len(rows)
            letters = [int(one.value) for one in await control.dead_letters()]
            parked = {
                one.key.decode(): [int(message.value) for message in one.messages]
                for one in await control.parked()
            }
            assert await it.verify() == []
    for key in KEYS:
        lies = [at for at, (other, _) in enumerate(messages) if other == key]
        stored = [one for one in rows if one in lies]
        sound = [one for one in lies if one not in bad]
        if poison.policy == "park_key":
            first = next((at for at, one in enumerate(lies) if one in bad), len(lies))
            assert (stored, parked.get(key, [])) == (lies[:first], lies[first:])
        else:
            assert stored == sound
    assert sorted(letters) == (bad if poison.policy == "dead_letter" else [])
