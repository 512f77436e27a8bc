"""Starts that are one: debounced, deduplicated."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from everlong import (
    Client,
    Debounce,
    Dedup,
    Signal,
    Worker,
    WorkflowCancelled,
    WorkflowMoved,
    WorkflowPool,
    activity,
    workflow,
)
from everlong.codec import Encrypt, new_key
from everlong.interceptors import Interceptor, Next, StartWorkflow
from everlong.testing import Environment
from everlong.workflow import Workflow
from tests.support.hosting import described, hosting

SOON = Debounce(0.3, key="a", at_most=20)
HOUR = timedelta(hours=1)
go: Signal[str] = Signal("go on with what was debounced", str)


def always(_: object) -> str:
    return "doc"


def indexing(began: list[str], **options: Any) -> Workflow[Any, Any]:
    @workflow(**options)
    async def reindex(doc: str, words: str = "") -> str:
        began.append(doc)
        return f"{doc}{len(words)}"

    return reindex


def held(began: list[str], **options: Any) -> Workflow[Any, Any]:
    @workflow(**options)
    async def holds(doc: str) -> str:
        began.append(doc)
        return f"{doc} {await go.receive()}"

    return holds


async def test_many_starts_are_one_with_the_newest_arguments(path: Path) -> None:
    began: list[str] = []
    flow = indexing(began)
    async with hosting(path, workflows=[flow]) as client:
        handles = [
            await client.start(flow, f"v{one}", debounce=SOON, tags={"v": one}) for one in range(5)
        ]
        assert len({one.workflow_id for one in handles}) == 1
        found = await handles[0].describe()
        assert found.begins_at is not None
        assert found.debounced is not None
        assert (found.debounced.key, found.debounced.starts) == ("a", 5)
        assert found.debounced.latest_at == found.debounced.first_at + timedelta(seconds=20)
        assert (found.input, found.tags) == ({"doc": "v4", "words": ""}, {"v": 4})
        (listed,) = (await client.list()).items
        assert listed.begins_at == found.begins_at
        assert [await one.result() for one in handles] == ["v40"] * 5
        assert began == ["v4"]
        done = await handles[0].describe()
        assert (done.debounced, done.begins_at) == (found.debounced, None)
        assert done.tags == {"v": 4}
        assert await client.verify() == []


async def test_keys_and_workflows_are_apart(path: Path) -> None:
    began: list[str] = []
    flow, other = indexing(began), held(began)
    async with Client.connect(path) as client:
        first = await client.start(flow, "x", debounce=SOON)
        others = [
            await client.start(flow, "x", debounce=Debounce(0.3, key="b")),
            await client.start(flow, "x", debounce=Debounce(0.3)),
            await client.start(other, "x", debounce=SOON),
            await client.start(flow, "x"),
        ]
        same = await client.start("reindex", doc="y", debounce=Debounce(9, key="a"))
        assert same.workflow_id == first.workflow_id
        assert len({one.workflow_id for one in (first, *others)}) == 5


async def test_what_comes_while_it_is_at_work_makes_the_next_one(path: Path) -> None:
    began: list[str] = []
    flow = held(began)
    quick = Debounce(0.05, key="a")
    async with hosting(path, workflows=[flow]) as client:
        first = await client.start(flow, "one", debounce=quick)
        await described(first, lambda it: it.history_events)
        second = await client.start(flow, "two", debounce=quick)
        third = await client.start(flow, "three", debounce=quick)
        assert first.workflow_id != second.workflow_id == third.workflow_id
        await described(second, lambda it: it.history_events)
        assert began == ["one", "three"]  # Both are under way.
        for handle in (first, second):
            await handle.signal(go, "!")
        assert [await one.result() for one in (first, second, third)] == [
            "one !",
            "three !",
            "three !",
        ]


@pytest.mark.once
async def test_with_a_pool_they_come_one_after_the_other(path: Path) -> None:
    began: list[str] = []
    pool = WorkflowPool("one reindexing each", key_concurrency=1)
    flow = held(began, pool=pool, key=always, priority=3)
    quick = Debounce(0.05, key="a")
    async with hosting(path, workflows=[flow]) as client:
        first = await client.start(flow, "one", debounce=quick)
        await described(first, lambda it: it.history_events)
        second = await client.start(flow, "two", debounce=quick)
        await described(second, lambda it: it.waits_for_turn)
        # It has been taken up, and its place in the pool is told by what it begins with.
        third = await client.start(flow, "three", debounce=quick)
        assert third.workflow_id != second.workflow_id
        for handle in (first, second, third):
            await handle.signal(go, "!")
        assert await third.result() == "three !"
        assert began == ["one", "two", "three"]


@pytest.mark.parametrize("worker_first", [True, False])
async def test_it_is_cancelled_while_it_waits(path: Path, worker_first: bool) -> None:
    began: list[str] = []
    flow = held(began)
    slow = Debounce(HOUR, key="a")
    async with Client.connect(path) as client:
        first = await client.start(flow, "one", debounce=slow)
        joined = await client.start(flow, "two", debounce=slow)
        if not worker_first:
            await joined.cancel("not needed")
        async with hosting(path, workflows=[flow]):
            if worker_first:
                await joined.cancel("not needed")
            after = await client.start(flow, "three", debounce=slow)
            assert after.workflow_id != first.workflow_id
            with pytest.raises(WorkflowCancelled, match="not needed"):
                await first.result()
            assert began == []
            assert (await after.describe()).begins_at is not None


@pytest.mark.once
async def test_a_pause_does_not_let_it_begin_early(path: Path) -> None:
    began: list[str] = []
    flow = indexing(began)
    slow = Debounce(HOUR, key="a")
    async with hosting(path, workflows=[flow]) as client:
        handle = await client.start(flow, "one", debounce=slow)
        await handle.pause()
        joined = await client.start(flow, "two", debounce=slow)
        assert joined.workflow_id == handle.workflow_id
        at = (await handle.describe()).begins_at
        await handle.resume()
        await described(handle, lambda it: it.owner is None and it.begins_at == at)
        assert began == []


async def test_a_request_that_is_repeated_has_one_effect(path: Path) -> None:
    began: list[str] = []
    flow = indexing(began)
    slow = Debounce(0.2, key="a")
    async with hosting(path, workflows=[flow]) as client:
        first = await client.start(flow, "one", debounce=slow, request_id="r1")
        await client.start(flow, "two", debounce=slow, request_id="r2")
        again = await client.start(flow, "one", debounce=slow, request_id="r1")
        assert again.run_id == first.run_id
        assert await first.result() == "two0"
        late = await client.start(flow, "two", debounce=slow, request_id="r2")
        assert await late.result() == "two0"
        assert began == ["two"]


async def test_what_was_started_with_a_key_that_was_seen_is_the_same(path: Path) -> None:
    began: list[str] = []
    flow = indexing(began)
    async with hosting(path, workflows=[flow]) as client:
        day = Dedup("order 7", within=timedelta(days=1))
        first = await client.start(flow, "one", id="mine", dedup=day)
        assert await first.result() == "one0"
        again = await client.start(flow, "two", dedup=day, if_open="terminate")
        assert (again.workflow_id, again.run_id) == ("mine", first.run_id)
        assert await again.result() == "one0"
        other = await client.start(flow, "three", dedup=Dedup(7, within=1))
        assert await other.result() == "three0"
        assert began == ["one", "three"]


async def test_arguments_that_are_encrypted_come_together_too(path: Path) -> None:
    began: list[str] = []
    flow = indexing(began)
    key = Encrypt({"one": new_key()})
    async with Client.connect(path, codecs=[key]) as client:
        large = "x" * 100_000
        handles = [
            await client.start(flow, one, large, debounce=SOON, memo={"of": one})
            for one in ("a secret", "another secret", "the last secret")
        ]
        handle = handles[0]
        found = await handle.describe()
        assert (found.input["doc"], found.memo) == ("the last secret", {"of": "the last secret"})
        async with Client.connect(path) as blind:
            shown = await blind.get_handle(handle.workflow_id).describe()
            assert "secret" not in str(shown)
        async with Worker(client, workflows=[flow]):
            assert await handle.result() == "the last secret100000"
        assert (await handle.describe()).memo == {"of": "the last secret"}
        assert await client.verify() == []


async def test_interceptors_see_each_start_and_may_change_it(path: Path) -> None:
    began: list[str] = []
    flow = indexing(began)

    class Shouting(Interceptor):
        async def start_workflow(self, call: StartWorkflow, next: Next[StartWorkflow]) -> Any:
            return await next(replace(call, args=(str(call.args[0]).upper(),)))

    async with Client.connect(path, interceptors=[Shouting()]) as client:
        await client.start(flow, "one", debounce=SOON)
        handle = await client.start(flow, "two", debounce=SOON)
        assert (await handle.describe()).input == {"doc": "TWO", "words": ""}


@pytest.mark.once
async def test_it_outlives_its_worker(path: Path) -> None:
    began: list[str] = []
    flow = indexing(began)
    quick = Debounce(0.2, key="a")
    async with hosting(path, workflows=[flow]) as client:
        await client.start(flow, "one", debounce=quick)
    async with hosting(path, workflows=[flow], cache_size=0) as client:
        handle = await client.start(flow, "two", debounce=quick)
        assert await handle.result() == "two0"


async def test_it_is_moved_while_it_waits(path: Path, tmp_path: Path) -> None:
    began: list[str] = []
    flow = indexing(began)
    slow = Debounce(1.0, key="a")
    there = tmp_path / "there.db"
    async with Client.connect(path) as client, Client.connect(there) as to:
        handle = await client.start(flow, "one", debounce=slow)
        await client.start(flow, "two", debounce=slow)
        await client.move(handle.workflow_id, to)
        after = await client.start(flow, "three", debounce=slow)
        assert after.workflow_id != handle.workflow_id
        with pytest.raises(WorkflowMoved):
            await handle.result()
        keyed = await client.start(flow, "x", id="keyed", dedup=Dedup("k", within=60))
        await client.move("keyed", to)
        with pytest.raises(WorkflowMoved):
            await client.start(flow, "y", dedup=Dedup("k", within=60))
        assert keyed.workflow_id == "keyed"
    async with hosting(there, workflows=[flow]) as client:
        moved = client.get_handle(handle.workflow_id)
        assert (await moved.describe()).begins_at is not None
        assert await moved.result() == "two0"
        assert await client.verify() == []


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(gaps=st.lists(st.integers(0, 90), min_size=1, max_size=8), cap=st.none() | st.just(100))
def test_on_the_virtual_clock_each_begins_when_it_should(gaps: list[int], cap: int | None) -> None:
    """Against a model of an hour's starts: nothing is lost, nothing begins early or late."""

    async def tried() -> None:
        begun: list[tuple[list[int], float]] = []

        @activity
        async def note(number: int) -> None:
            begun.append(([number], (env.now - zero).total_seconds()))

        @workflow
        async def notes(number: int) -> None:
            await note(number)

        async with Environment(workflows=[notes], activities=[note]) as env:
            zero = env.now
            expected: list[tuple[int, float]] = []
            now, first, due = 0.0, 0.0, -1.0
            for number, gap in enumerate(gaps):
                await env.sleep(gap)
                now += gap
                if due < 0 or now >= due:  # A worker is there, and has taken it up when it was due.
                    first, expected = now, [*expected, (number, 0.0)]
                due = now + 60 if cap is None else min(now + 60, first + cap)
                expected[-1] = (number, due)
                debounce = Debounce(60, key="k", at_most=cap)
                await env.client.start(notes, number, debounce=debounce)
            await env.sleep(3600)
            assert [(one[0], at) for one, at in begun] == expected

    asyncio.run(tried())


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"debounce": 5}, "give a Debounce, such as"),
    ({"dedup": "key"}, "give a Dedup, such as"),
    ({"debounce": SOON, "dedup": Dedup("k", within=1)}, "not both"),
    ({"debounce": SOON, "id": "mine"}, "debounce does not go with id: each execution"),
    ({"debounce": SOON, "if_open": "fail"}, "debounce does not go with if_open"),
    ({"debounce": SOON, "if_closed": "fail"}, "debounce does not go with if_closed"),
    ({"debounce": SOON, "start_delay": 1}, "does not go with start_delay: when it begins is told"),
    ({"debounce": SOON, "signal": (go, "x")}, "use the handle"),
    ({"dedup": Dedup("k", within=1), "signal": (go, "x")}, "dedup does not go with signal"),
]


@pytest.mark.parametrize(("how", "text"), REFUSED)
async def test_what_makes_no_sense_is_refused(path: Path, how: dict[str, Any], text: str) -> None:
    flow = indexing([])
    async with Client.connect(path) as client:
        with pytest.raises((ValueError, TypeError), match=text):
            await client.start(flow, "one", **how)
        assert (await client.list()).items == []


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Debounce(0), "more than 0 seconds"),
        (lambda: Debounce(-1), "between 0 seconds and 100 years"),
        (lambda: Debounce(5, key="a\nb"), "printable"),
        (lambda: Debounce(5, key="a" * 1000), "printable"),
        (lambda: Debounce(5, at_most=4), "shorter than the span"),
        (lambda: Dedup("", within=5), "printable"),
        (lambda: Dedup("k", within=0), "more than 0 seconds"),
    ],
)
def test_options_that_are_none_are_refused(make: Any, text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        make()
