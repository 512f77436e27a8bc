"""`patched` and `deprecate_patch`: changed code under runs that stand in their middle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from everlong import (
    Client,
    Signal,
    Workflow,
    activity,
    checkpoint,
    deprecate_patch,
    patched,
    registry,
    workflow,
)
from everlong_engine import limits
from tests.support.hosting import hosting, kinds, until

LOOK = pytest.mark.parametrize("cache_size", [0, 100])


def deploy(name: str, function: Callable[..., Any]) -> Workflow[..., Any]:
    """A process that has imported this version only."""
    registry.workflows.pop(name, None)
    made: Workflow[..., Any] = workflow(name=name)(function)
    return made


async def rounds(client: Client, name: str, count: int) -> None:
    """Until the run has received so many signals."""
    handle = client.get_handle(name)

    async def got() -> bool:
        return (await kinds(handle)).count("SignalReceived") == count

    await until(got)


@LOOK
async def test_a_loop_that_began_before_the_patch_goes_the_old_way_to_its_end(
    tmp_path: Path, cache_size: int
) -> None:
    tick = Signal("tick_patch", int)

    @activity
    async def do_patch(what: str) -> str:
        return what

    async def old() -> list[str]:
        done: list[str] = []
        async for number in tick:
            done.append(await do_patch("old"))
            if not number:
                break
        return done

    async def new() -> list[str]:
        done: list[str] = []
        async for number in tick:
            done.append(await do_patch("new" if patched("loop") else "old"))
            if not number:
                break
        return done

    deploy("loop_patched", old)
    async with hosting(tmp_path / "p.db", cache_size=cache_size) as client:
        handle = await client.start("loop_patched", id="l")
        await handle.signal(tick, 1)
        await rounds(client, "l", 1)
    deploy("loop_patched", new)
    for received, number in ((2, 1), (3, 1), (4, 0)):
        async with hosting(tmp_path / "p.db", cache_size=cache_size) as client:
            await client.get_handle("l").signal(tick, number)
            fresh = await client.start("loop_patched", id="fresh")
            await fresh.signal(tick, number)
            if number:
                await rounds(client, "l", received)
            else:
                assert await client.get_handle("l").result() == ["old"] * 4
                assert await fresh.result() == ["new"] * 3
                assert (await kinds(fresh)).count("PatchMarked") == 1


@LOOK
async def test_a_run_that_begins_anew_asks_anew(tmp_path: Path, cache_size: int) -> None:
    tick = Signal("tick_anew", int)

    async def old(seen: list[str] | None = None) -> list[str]:
        async for number in tick:
            seen = [*(seen or []), "old"]
            if not number:
                return seen
            await checkpoint(seen=seen)
        return []

    async def new(seen: list[str] | None = None) -> list[str]:
        async for number in tick:
            seen = [*(seen or []), "new" if patched("anew") else "old"]
            if not number:
                return seen
            await checkpoint(seen=seen)
        return []

    deploy("anew_patched", old)
    async with hosting(tmp_path / "p.db", cache_size=cache_size) as client:
        handle = await client.start("anew_patched", id="a")
        await handle.signal(tick, 1)
        await rounds(client, "a", 1)
    deploy("anew_patched", new)
    async with hosting(tmp_path / "p.db", cache_size=cache_size) as client:
        handle = client.get_handle("a")
        await handle.signal(tick, 1)
        await rounds(client, "a", 2)
    with mock.patch.object(limits, "CHECKPOINT_EVENTS", 1):
        async with hosting(tmp_path / "p.db", cache_size=cache_size) as client:
            handle = client.get_handle("a")
            for number in (1, 0):
                await handle.signal(tick, number)
            assert await handle.result() == ["old", "old", "old", "new"]


@LOOK
async def test_marks_are_taken_where_the_patch_is_deprecated(
    tmp_path: Path, cache_size: int
) -> None:
    tick = Signal("tick_gone", int)

    @activity
    async def do_gone(what: str) -> str:
        return what

    async def with_patch() -> list[str]:
        done = [await do_gone("new" if patched("gone") else "old")]
        await tick.receive()
        return [*done, await do_gone("end")]

    async def deprecated() -> list[str]:
        deprecate_patch("gone")
        done = [await do_gone("new")]
        await tick.receive()
        deprecate_patch("gone")  # Memoised: it marks nothing, however often.
        assert patched("gone")
        return [*done, await do_gone("end")]

    async def without() -> list[str]:
        done = [await do_gone("new")]
        await tick.receive()
        return [*done, await do_gone("end")]

    deploy("gone_patched", with_patch)
    async with hosting(tmp_path / "p.db", cache_size=cache_size) as client:
        marked = await client.start("gone_patched", id="marked")

        async def stands() -> bool:
            return "ActivityCompleted" in await kinds(marked)

        await until(stands)
    deploy("gone_patched", deprecated)
    async with hosting(tmp_path / "p.db", cache_size=cache_size) as client:
        marked = client.get_handle("marked")
        bare = await client.start("gone_patched", id="bare")

        async def stands_too() -> bool:
            return "ActivityCompleted" in await kinds(bare)

        await until(stands_too)
        await marked.signal(tick, 1)
        assert await marked.result() == ["new", "end"]
        assert "PatchMarked" not in await kinds(bare)
    deploy("gone_patched", without)
    async with hosting(tmp_path / "p.db", cache_size=cache_size) as client:
        bare = client.get_handle("bare")
        await bare.signal(tick, 1)
        assert await bare.result() == ["new", "end"]
