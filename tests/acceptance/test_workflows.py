"""What workflow code may do: wait, race, look at the time, draw lots, record, patch, begin anew."""

# tidy: this file sleeps because its functions are bodies of workflows: those are durable timers

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from everlong import (
    Client,
    EverlongError,
    Signal,
    Worker,
    Workflow,
    WorkflowInfo,
    activity,
    checkpoint,
    continue_as_new,
    info,
    now,
    patched,
    random,
    side_effect,
    uuid4,
    workflow,
)
from everlong_engine.model import limits
from tests.support.hosting import described, hosting, kinds, of_kind

go_on: Signal[int] = Signal("go on", int)


@activity
async def double(x: int) -> int:
    return 2 * x


@activity
async def never() -> None:
    await asyncio.Event().wait()


async def in_gather() -> object:
    return await asyncio.gather(*(double(n) for n in range(5)))


async def in_task_group() -> object:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_doubled(n)) for n in range(3)]
    return [task.result() for task in tasks]


async def _doubled(n: int) -> int:
    return await double(n)


async def in_task_group_with_a_failure() -> object:
    async def fail() -> None:
        await double(1)
        raise ValueError("sibling")

    siblings: list[asyncio.Task[None]] = []
    caught = ""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            siblings.append(group.create_task(asyncio.sleep(3600)))
    except* ValueError as errors:
        caught = str(errors.exceptions[0])
    return [caught, siblings[0].cancelled()]


async def in_wait_for() -> object:
    try:
        await asyncio.wait_for(never(), 0.01)
    except TimeoutError:
        return "late"
    return "done"


async def in_timeout() -> object:
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(3600)
    except TimeoutError:
        return "late"
    return "done"


async def in_as_completed() -> object:
    async def after(seconds: float, name: str) -> str:
        await asyncio.sleep(seconds)
        return name

    jobs = [after(0.03, "third"), after(0.01, "first"), after(0.02, "second")]
    return [await job for job in asyncio.as_completed(jobs)]


async def in_wait() -> object:
    slow, quick = asyncio.create_task(asyncio.sleep(3600)), asyncio.create_task(_doubled(4))
    done, pending = await asyncio.wait([slow, quick], return_when=asyncio.FIRST_COMPLETED)
    slow.cancel()
    return [done == {quick}, pending == {slow}, quick.result()]


async def with_queue_lock_and_event() -> object:
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
    lock, done = asyncio.Lock(), asyncio.Event()
    seen: list[int] = []

    async def consume() -> None:
        while len(seen) < 5:
            async with lock:
                seen.append(await double(await queue.get()))
        done.set()

    consumer = asyncio.create_task(consume())
    for each in range(5):
        await queue.put(each)
    await done.wait()
    await consumer
    return seen


async def with_a_semaphore() -> object:
    limit = asyncio.Semaphore(2)

    async def limited(n: int) -> int:
        async with limit:
            return await double(n)

    return await asyncio.gather(*(limited(n) for n in range(6)))


async def shielded() -> object:
    inner = asyncio.create_task(_doubled(3))
    outer = asyncio.shield(inner)
    outer.cancel()
    return await inner


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        (in_gather, [0, 2, 4, 6, 8]),
        (in_task_group, [0, 2, 4]),
        (in_task_group_with_a_failure, ["sibling", True]),
        (in_wait_for, "late"),
        (in_timeout, "late"),
        (in_as_completed, ["first", "second", "third"]),
        (in_wait, [True, True, 8]),
        (with_queue_lock_and_event, [0, 2, 4, 6, 8]),
        (with_a_semaphore, [0, 2, 4, 6, 8, 10]),
        (shielded, 6),
    ],
)
@pytest.mark.parametrize("cache_size", [1000, 0])
async def test_asyncio_works_durably(
    path: Path, program: Callable[[], Awaitable[object]], outcome: object, cache_size: int
) -> None:
    """With no cache each run is replayed from its history whenever it sleeps."""

    @workflow
    async def flow() -> Any:
        return await program()

    async with hosting(path, cache_size=cache_size) as client:
        handle = await client.start(flow)
        assert await handle.result() == outcome
        assert list(await client.verify()) == []


async def test_a_sleep_is_a_timer_in_the_history_and_never_early(path: Path) -> None:
    @workflow
    async def flow() -> float:
        before = now()
        await asyncio.sleep(0.05)
        return (now() - before).total_seconds()

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert 0.05 <= await handle.result() < 5
        assert await kinds(handle) == ["RunStarted", "TimerStarted", "TimerFired", "RunCompleted"]


async def test_a_timer_survives_a_restart(path: Path) -> None:
    @workflow
    async def flow() -> str:
        await asyncio.sleep(0.1)
        return "woke"

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow)
            (timer,) = (await described(handle, lambda d: d.timers)).timers
        assert timer.due_at == (await handle.describe()).timers[0].due_at
        async with Worker(client):
            assert await handle.result() == "woke"


@pytest.mark.once
async def test_time_chance_and_ids_are_the_same_on_replay(path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    @workflow
    async def flow() -> None:
        drawn = (now(), uuid4(), random().random(), info(WorkflowInfo).run_id)
        seen.append(drawn)
        await go_on.receive()

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow)
        async with Worker(client):
            await handle.signal(go_on, 1)
            await handle.result()
    assert len(seen) == 2
    assert seen[0] == seen[1]
    moment, name, *_ = seen[0]
    assert isinstance(name, UUID)
    assert name.version == 4
    assert moment.tzinfo is UTC
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)


async def test_two_runs_draw_different_lots(path: Path) -> None:
    @workflow
    async def flow() -> str:
        return str(uuid4())

    async with hosting(path) as client:
        assert await client.run(flow) != await client.run(flow)


@pytest.mark.once
async def test_info_tells_where_the_code_is_and_whether_it_replays(path: Path) -> None:
    replaying: list[bool] = []

    @workflow
    async def flow() -> list[str]:
        found = info(WorkflowInfo)
        replaying.append(found.replaying)
        await go_on.receive()
        return [found.workflow_id, found.type]

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow, id="here")
        async with Worker(client):
            await handle.signal(go_on, 1)
            assert await handle.result() == ["here", "flow"]
    assert replaying == [False, True]


async def test_a_side_effect_happens_once_and_is_remembered(path: Path) -> None:
    calls: list[int] = []

    def call() -> int:
        calls.append(1)
        return len(calls)

    @workflow
    async def flow() -> list[int]:
        first = await side_effect(call)
        await go_on.receive()
        return [first, await side_effect(call)]

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow)
        async with Worker(client):
            await handle.signal(go_on, 1)
            assert await handle.result() == [1, 2]


async def test_a_side_effect_that_raises_parks_the_run_since_nothing_is_recorded(
    path: Path,
) -> None:
    works = False

    def setting() -> str:
        if not works:
            raise LookupError("no such setting")
        return "set"

    @workflow
    async def flow() -> str:
        return await side_effect(setting)

    async with hosting(path) as client:
        handle = await client.start(flow)
        blocked = await described(handle, lambda d: d.status == "blocked")
        assert blocked.reason is not None
        assert "no such setting" in blocked.reason
        works = True
        await handle.resume()
        assert await handle.result() == "set"


async def test_patched_leads_old_runs_the_old_way_and_new_ones_the_new(path: Path) -> None:
    def old() -> Workflow[[], list[str]]:
        @workflow(name="flow")
        async def flow() -> list[str]:
            await go_on.receive()
            return [f"old {await double(1)}"]

        return flow

    def new() -> Workflow[[], list[str]]:
        @workflow(name="flow")
        async def flow() -> list[str]:
            done = ["new"] if patched("say new") else []
            await go_on.receive()
            done.append(f"{'new' if patched('say new') else 'old'} {await double(1)}")
            return done

        return flow

    async with Client.connect(path) as client:
        first = old()
        async with Worker(client, workflows=[first]):
            before = await client.start(first)
        second = new_version(new)
        async with Worker(client, workflows=[second]):
            after = await client.start(second)
            for handle in (before, after):
                await handle.signal(go_on, 1)
            assert await before.result() == ["old 2"]
            assert await after.result() == ["new", "new 2"]
            assert "PatchMarked" in await kinds(after)


def new_version(make: Callable[[], Workflow[[], list[str]]]) -> Workflow[[], list[str]]:
    """The next version of a program is a new process, where nothing else has the name."""
    from everlong import registry

    registry.workflows.clear()
    return make()


async def test_continue_as_new_begins_anew_with_changed_parameters(path: Path) -> None:
    @workflow
    async def flow(count: int, label: str) -> str:
        await double(count)
        if count > 0:
            continue_as_new(count=count - 1)
        return f"{label} {count}"

    async with hosting(path) as client:
        handle = await client.start(flow, 3, "down to")
        assert await handle.result() == "down to 0"
        runs = (await client.list(workflow_id=handle.workflow_id)).items
        assert [run.status for run in runs] == ["completed", *["continued_as_new"] * 3]
        assert await kinds(handle) == [
            "RunStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "RunCompleted",
        ]
        earlier = await handle.history(runs[-1].run_id)
        assert earlier[-1].kind == "RunContinuedAsNew"


async def test_nothing_behind_continue_as_new_runs(path: Path) -> None:
    after: list[str] = []

    @workflow
    async def flow(again: bool = True) -> str:
        if again:
            try:
                continue_as_new(again=False)
            except BaseException:
                after.append("caught")
                raise
        return "anew"

    async with hosting(path) as client:
        assert await client.run(flow) == "anew"


async def test_a_checkpoint_begins_anew_only_past_the_threshold(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHECKPOINT_EVENTS", 30)

    @workflow
    async def flow(rounds: int, total: int = 0) -> int:
        while rounds > 0:
            total += await double(rounds)
            rounds -= 1
            await checkpoint(rounds=rounds, total=total)
        return total

    async with hosting(path, cache_size=0) as client:
        handle = await client.start(flow, 60)
        assert await handle.result() == sum(2 * n for n in range(61))
        runs = (await client.list(workflow_id=handle.workflow_id)).items
        assert len(runs) == 5
        assert all(30 <= run.history_events <= 34 for run in runs[1:])
        assert list(await client.verify()) == []


async def test_a_checkpoint_waits_until_nothing_is_in_flight(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHECKPOINT_EVENTS", 1)

    @workflow
    async def flow(first: bool = True) -> str:
        if not first:
            return "anew"
        background = asyncio.create_task(asyncio.sleep(3600))
        await checkpoint(first=False)
        background.cancel()
        await double(1)
        await checkpoint(first=False)
        return "never"

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == "anew"
        runs = (await client.list(workflow_id=handle.workflow_id)).items
        assert len(runs) == 2
        assert runs[-1].history_events > 2


async def test_a_rolled_over_run_sends_its_signals_along(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHECKPOINT_EVENTS", 20)

    @workflow
    async def flow(total: int = 0) -> int:
        while True:
            value = await go_on.receive()
            if value < 0:
                return total
            total += value
            await checkpoint(total=total)

    async with hosting(path) as client:
        handle = await client.start(flow)
        await asyncio.gather(*(handle.signal(go_on, 1) for _ in range(300)))
        await handle.signal(go_on, -1)
        assert await handle.result() == 300


async def test_a_history_at_its_hard_limit_parks_the_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HISTORY_EVENTS_MAX", 20)

    @workflow
    async def flow() -> None:
        while True:
            await double(1)

    async with hosting(path) as client:
        handle = await client.start(flow)
        blocked = await described(handle, lambda d: d.status == "blocked")
        assert blocked.reason is not None
        assert "checkpoint()" in blocked.reason


async def test_a_swallowed_discard_runs_nothing_durable(path: Path) -> None:
    @workflow
    async def flow() -> str:
        try:
            await go_on.receive()
        finally:
            await double(1)
        return "done"

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow)
        assert await of_kind(handle, "ActivityScheduled") == []
        async with Worker(client):
            await handle.signal(go_on, 1)
            assert await handle.result() == "done"


async def test_a_workflow_is_called_bare_in_a_unit_test() -> None:
    @workflow
    async def flow(x: int) -> int:
        return await double(x) + 1

    assert await flow(4) == 9


@pytest.mark.parametrize("call", [uuid4, random, lambda: patched("x"), info])
def test_what_belongs_in_a_workflow_says_so_outside(call: Callable[[], object]) -> None:
    with pytest.raises(EverlongError, match="inside a"):
        call()
