"""Tags and memo: given with a start, set from inside, and kept by the execution."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    EverlongError,
    InvalidTag,
    NotSerializable,
    PayloadTooLarge,
    Signal,
    TagValue,
    Worker,
    continue_as_new,
    info,
    set_memo,
    set_tags,
    workflow,
)
from tests.support.hosting import described, hosting, of_kind

go: Signal[str] = Signal("tags.go", str)
AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
TAGS: dict[str, TagValue] = {
    "customer": "c1",
    "order.id": 17,
    "amount": 9.5,
    "urgent": True,
    "due": AT,
}


@workflow(name="tags.waits")
async def waits() -> dict[str, Any]:
    await go.receive()
    return dict(info().tags)


@workflow(name="tags.follows")
async def follows(runs: int = 0) -> list[Any]:
    """What it is told becomes its tags."""

    while (word := await go.receive()) != "end":
        if word == "anew":
            continue_as_new(runs=runs + 1)
        set_tags(customer=word, late=None, runs=runs)
        set_memo({"told": word})
    return sorted(info().tags.items())


async def tags_in_list(client: Client, workflow_id: str) -> list[dict[str, Any]]:
    return [dict(one.tags) for one in (await client.list(workflow_id=workflow_id)).items]


async def test_tags_of_every_type_come_back_as_they_were_given(path: Path) -> None:
    async with hosting(path, workflows=[waits]) as client:
        handle = await client.start(waits, id="w", tags=TAGS, memo={"note": [1, AT]})
        found = await described(handle, lambda it: it.history_events)
        assert found.tags == TAGS
        assert {name: type(one) for name, one in found.tags.items()} == {
            name: type(one) for name, one in TAGS.items()
        }
        assert found.memo == {"note": [1, AT]}
        assert await tags_in_list(client, "w") == [TAGS]
        await handle.signal(go, "on")
        assert await handle.result() == TAGS


async def test_tags_are_there_before_any_worker_is(path: Path) -> None:
    async with Client.connect(path) as client:
        handle = await client.start("tags.waits", id="w", tags=TAGS, memo="wait for it")
        found = await handle.describe()
        assert (found.tags, found.memo) == (TAGS, "wait for it")
        assert await tags_in_list(client, "w") == [TAGS]
        async with Worker(client, workflows=[waits]):
            await handle.signal(go, "on")
            assert await handle.result() == TAGS
        assert not await client.verify()


async def test_one_that_never_began_is_still_found(path: Path) -> None:
    async with Client.connect(path) as client:
        handle = await client.start("tags.waits", id="w", tags=TAGS)
        await handle.terminate()
        assert (await handle.describe()).tags == TAGS
        assert await tags_in_list(client, "w") == [TAGS]
        assert not await client.verify()


async def test_code_changes_its_tags_and_its_memo(path: Path) -> None:
    async with hosting(path, workflows=[follows]) as client:
        handle = await client.start(follows, id="f", tags={"late": True, "kept": "yes"})
        await handle.signal(go, "c1")
        await handle.signal(go, "c2")
        found = await described(handle, lambda it: it.memo == {"told": "c2"})
        assert found.tags == {"kept": "yes", "customer": "c2", "runs": 0}
        assert await tags_in_list(client, "f") == [{"kept": "yes", "customer": "c2", "runs": 0}]
        first, second = await of_kind(handle, "TagsSet")
        assert first.fields["tags"] == {"customer": "c1", "late": None, "runs": 0}
        assert second.fields["tags"] == {"customer": "c2"}
        assert not await client.verify()


async def test_tags_that_are_so_already_are_not_recorded(path: Path) -> None:
    @workflow(name="tags.same")
    async def same() -> None:
        set_tags(a=1, b="x")
        set_tags(a=1)
        set_tags(a=1.0)  # Another type is another value.
        set_tags(b=None, c=None)
        set_tags({})
        set_memo("m")
        set_memo("m")

    async with hosting(path, workflows=[same]) as client:
        handle = await client.start(same, id="s")
        await handle.result()
        told = [event.fields["tags"] for event in await of_kind(handle, "TagsSet")]
        assert told == [{"a": 1, "b": "x"}, {"a": 1.0}, {"b": None}]
        assert len(await of_kind(handle, "MemoSet")) == 1
        (found,) = await tags_in_list(client, "s")
        assert (found, type(found["a"])) == ({"a": 1.0}, float)


async def test_tags_and_memo_stay_when_a_run_begins_anew(path: Path) -> None:
    async with hosting(path, workflows=[follows]) as client:
        handle = await client.start(follows, id="f", tags={"late": True})
        for word in ("c1", "anew", "anew"):
            await handle.signal(go, word)
        found = await described(handle, lambda it: it.input == {"runs": 2})
        assert found.tags == {"customer": "c1", "runs": 0}
        assert found.memo == {"told": "c1"}
        await handle.signal(go, "c2")
        await handle.signal(go, "end")
        assert await handle.result() == [["customer", "c2"], ["runs", 2]]
        # A run that has ended is found by what it had at its end.
        assert await tags_in_list(client, "f") == [
            {"customer": "c2", "runs": 2},
            {"customer": "c1", "runs": 0},
            {"customer": "c1", "runs": 0},
        ]
        assert not await client.verify()


async def test_a_worker_that_comes_later_knows_the_tags(path: Path) -> None:
    async with Client.connect(path) as client:
        async with Worker(client, workflows=[follows]):
            handle = await client.start(follows, id="f")
            await handle.signal(go, "c1")
            await described(handle, lambda it: it.memo is not None)
        async with Worker(client, workflows=[follows]):
            await handle.signal(go, "end")
            assert await handle.result() == [["customer", "c1"], ["runs", 0]]


async def test_children_have_the_tags_that_they_were_given(path: Path) -> None:
    @workflow(name="tags.parent")
    async def parent() -> dict[str, Any]:
        set_tags(role="parent")
        child = await waits.options(id="kid", tags=TAGS, memo="of a child").start()
        await child.signal(go, "on")
        return await child.result()

    async with hosting(path, workflows=[parent, waits]) as client:
        assert await client.run(parent, id="p") == TAGS
        found = await client.get_handle("kid").describe()
        assert (found.tags, found.memo) == (TAGS, "of a child")
        assert await tags_in_list(client, "kid") == [TAGS]
        assert not await client.verify()


async def test_an_execution_that_is_used_keeps_its_own_tags(path: Path) -> None:
    async with hosting(path, workflows=[waits]) as client:
        await client.start(waits, id="w", tags={"a": 1})
        await client.start(waits, id="w", tags={"a": 2, "b": 3})
        assert await tags_in_list(client, "w") == [{"a": 1}]


async def test_what_will_not_do_is_refused_and_nothing_is_stored(path: Path) -> None:
    async with Client.connect(path) as client:
        for tags in ({"a b": 1}, {"a": None}, {"a": [1]}, {f"t{n}": n for n in range(33)}, "a=1"):
            with pytest.raises(InvalidTag):
                await client.start("tags.waits", tags=tags)
        with pytest.raises(PayloadTooLarge, match="the memo holds"):
            await client.start("tags.waits", memo="x" * 70_000)
        with pytest.raises(NotSerializable):
            await client.start("tags.waits", memo=object())
        with pytest.raises(InvalidTag):
            waits.options(tags={"a b": 1})
        assert not (await client.list()).items
    with pytest.raises(EverlongError, match="only be called inside a running workflow"):
        set_tags(a=1)
    with pytest.raises(EverlongError, match="only be called inside a running workflow"):
        set_memo(1)


async def test_code_may_catch_what_is_refused_and_keeps_what_it_had(path: Path) -> None:
    @workflow(name="tags.refused")
    async def refused() -> list[str]:
        told: list[str] = []
        for changes in ({"a": [1]}, {"a b": None}, {f"t{n}": n for n in range(33)}, 7):
            try:
                set_tags({"good": 1, **changes} if isinstance(changes, dict) else changes)  # type: ignore[arg-type,dict-item]
            except InvalidTag as error:
                told.append(str(error))
        try:
            set_memo("x" * 70_000)
        except PayloadTooLarge as error:
            told.append(str(error))
        await asyncio.sleep(0)
        return [*told, *info().tags]

    async with hosting(path, workflows=[refused]) as client:
        handle = await client.start(refused, id="r", tags={"kept": 1})
        told = await handle.result()
        assert len(told) == 6
        assert told[-1] == "kept"
        assert not await of_kind(handle, "TagsSet")


async def test_a_reset_goes_back_to_the_tags_of_its_point(path: Path) -> None:
    async with hosting(path, workflows=[follows]) as client:
        handle = await client.start(follows, id="f", tags={"late": True}, memo="first")
        await handle.signal(go, "c1")
        await handle.signal(go, "c2")
        await described(handle, lambda it: it.memo == {"told": "c2"})
        (_, changed) = await of_kind(handle, "TagsSet")
    async with Client.connect(path) as client:  # Nobody goes on with them.
        again = await client.get_handle("f").reset(changed.seq - 1, reapply=False)
        found = await again.describe()
        assert (found.tags, found.memo) == ({"customer": "c1", "runs": 0}, {"told": "c1"})
        anew = await again.fork("g", "start", reapply=False)
        found = await anew.describe()
        assert (found.tags, found.memo) == ({"late": True}, "first")
        assert await client.count("tag.customer = 'c1'") == 1
        assert await client.count("tag.customer = 'c2' and status = 'reset'") == 1
        assert not await client.verify()
