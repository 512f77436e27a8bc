"""An activity without a further attempt pauses its execution, where its policy says so."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    ActivityInfo,
    ApplicationError,
    Client,
    ExecutionDescription,
    Retry,
    Worker,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowTerminated,
    activity,
    complete_later,
    info,
    map_all,
    saga,
    workflow,
)
from everlong.workflow import Workflow
from everlong_engine import LoadedRun, Pause, Resume
from tests.support.gated_store import LossyStore
from tests.support.hosting import described, hosting, kinds, of_kind, until
from tests.support.process_activities import dies_in_pool

TWICE_THEN_PAUSE = Retry(max_attempts=2, delay=0.0, jitter=0.0, on_exhausted="pause")


class Bank:
    """What the activities of a test meet, and what they did."""

    def __init__(self) -> None:
        self.is_up = False
        self.for_good = False
        self.tried: list[tuple[str, int]] = []
        self.undone: list[str] = []
        self.at_work = asyncio.Event()
        self.may_end = asyncio.Event()


bank = Bank()


@pytest.fixture(autouse=True)
def _anew() -> None:
    global bank  # noqa: PLW0603
    bank = Bank()


@activity(retry=TWICE_THEN_PAUSE)
async def pays(name: str) -> str:
    bank.tried.append((name, info(ActivityInfo).attempt))
    if bank.for_good:
        raise ApplicationError("no such account", retryable=False)
    if not bank.is_up:
        raise ConnectionError("the bank is down")
    return name


@workflow
async def pays_once(name: str = "rent") -> str:
    return await pays(name)


@workflow
async def pays_several() -> list[str]:
    return await asyncio.gather(*(pays(name) for name in ("rent", "water", "power")))


@workflow
async def pays_many() -> list[str]:
    return (await map_all(pays, ["rent", "water", "power"], limit=2)).results


@activity
async def unpays(name: str) -> None:
    bank.undone.append(name)


@workflow
async def pays_in_a_saga() -> str:
    async with saga() as steps:
        steps.undo(unpays, "rent")
        return await pays("rent")


@workflow
async def pays_in_a_child() -> str:
    return await pays_once.options(id="the child that pays")("rent")


ALL: list[Workflow[Any, Any]] = [
    pays_once,
    pays_several,
    pays_many,
    pays_in_a_saga,
    pays_in_a_child,
]


async def halted(handle: WorkflowHandle[Any]) -> ExecutionDescription:
    """Paused, and let go of by its worker."""
    return await described(handle, lambda it: it.status == "paused" and it.owner is None)


async def test_the_execution_is_paused_and_the_code_is_told_nothing(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(pays_once, id="one")
        found = await halted(handle)
        assert await kinds(handle) == ["RunStarted", "ActivityScheduled"]
        assert found.paused is not None
        assert (found.paused.by, found.paused.workflow_id) == ("everlong", "one")
        assert found.paused.reason == (
            "activity pays was tried 2 times, and then failed for good: "
            "builtins.ConnectionError: the bank is down"
        )
        (pending,) = found.activities
        assert (pending.state, pending.attempt, pending.next_at) == ("exhausted", 2, None)
        assert pending.last_error == "builtins.ConnectionError: the bank is down"
        assert [one.workflow_id for one in await client.paused()] == ["one"]
        assert [one.paused for one in (await client.list(status="paused")).items] == [found.paused]
        (scheduled,) = await of_kind(handle, "ActivityScheduled")
        assert [one.state for one in scheduled.attempts] == ["failed", "exhausted"]
        assert await client.verify() == []


async def test_resume_gives_a_fresh_set_of_attempts(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(pays_once, id="one")
        for sets in (1, 2, 3):
            found = await halted(handle)
            assert bank.tried == [("rent", number) for number in range(1, 2 * sets + 1)]
            assert found.paused is not None
            assert f"tried {2 * sets} times" in found.paused.reason
            bank.is_up = sets == 3
            await handle.resume()
        assert await handle.result() == "rent"
        assert bank.tried[-1] == ("rent", 7)
        assert await client.paused() == []
        assert await client.verify() == []


async def test_the_set_is_known_when_most_of_its_attempts_are_not_kept(path: Path) -> None:
    @activity(retry=Retry(max_attempts=25, delay=0, jitter=0, on_exhausted="pause"))
    async def pays_stubbornly() -> int:
        bank.tried.append(("stubborn", info(ActivityInfo).attempt))
        if len(bank.tried) == 3:
            raise ApplicationError("not today", retryable=False)
        raise ConnectionError("the bank is down")

    @workflow
    async def is_stubborn() -> int:
        return await pays_stubbornly()

    async with hosting(path, cache_size=0) as client:
        handle = await client.start(is_stubborn)
        await halted(handle)
        assert len(bank.tried) == 3
        await handle.resume()
        await halted(handle)
        assert len(bank.tried) == 28
        (scheduled,) = await of_kind(handle, "ActivityScheduled")
        assert [one.number for one in scheduled.attempts] == list(range(9, 29))
        await handle.terminate()


async def test_an_error_that_is_not_tried_again_pauses_at_once(path: Path) -> None:
    bank.for_good = True
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(pays_once)
        found = await halted(handle)
        assert bank.tried == [("rent", 1)]
        assert found.paused is not None
        assert "was tried once, and then failed for good" in found.paused.reason
        bank.for_good, bank.is_up = False, True
        await handle.resume()
        assert await handle.result() == "rent"


async def test_by_default_the_failure_is_the_workflows(path: Path) -> None:
    @activity(retry=Retry(max_attempts=2, delay=0, jitter=0))
    async def pays_or_fails() -> None:
        raise ConnectionError("the bank is down")

    @workflow
    async def pays_or_not() -> None:
        await pays_or_fails()

    async with hosting(path) as client:
        with pytest.raises(WorkflowFailed, match="the bank is down"):
            await client.run(pays_or_not)


async def test_a_timeout_pauses_as_well(path: Path) -> None:
    @activity(timeout=0.02, retry=Retry(max_attempts=1, on_exhausted="pause"))
    async def hangs() -> str:
        bank.tried.append(("hangs", info(ActivityInfo).attempt))
        if not bank.is_up:
            await bank.may_end.wait()
        return "at last"

    @workflow
    async def waits_for_what_hangs() -> str:
        return await hangs()

    async with hosting(path) as client:
        handle = await client.start(waits_for_what_hangs)
        found = await halted(handle)
        assert found.paused is not None
        assert "start_to_close timeout" in found.paused.reason
        bank.is_up = True
        await handle.resume()
        assert await handle.result() == "at last"


async def test_an_attempt_that_nobody_completed_elsewhere_pauses(path: Path) -> None:
    @activity(timeout=0.02, retry=Retry(max_attempts=1, on_exhausted="pause"))
    async def asks_the_boss() -> str:
        bank.tried.append((info(ActivityInfo).token, info(ActivityInfo).attempt))
        if len(bank.tried) == 2:
            return "nobody asked"
        return complete_later()

    @workflow
    async def waits_for_the_boss() -> str:
        return await asks_the_boss()

    async with hosting(path) as client:
        handle = await client.start(waits_for_the_boss)
        await halted(handle)
        await handle.resume()
        assert await handle.result() == "nobody asked"


@pytest.mark.file
async def test_a_lost_attempt_that_was_the_last_pauses(path: Path) -> None:
    """With `at_most_once` too: whether it is done again is for people to say."""
    asks = Retry(on_exhausted="pause")

    @workflow
    async def loses_its_process() -> None:
        await dies_in_pool.options(retry=asks, at_most_once=True)(str(path.parent))

    async with hosting(path, processes=1) as client:
        handle = await client.start(loses_its_process)
        for number in (1, 2):
            found = await halted(handle)
            assert found.paused is not None
            assert f"tried {'once' if number == 1 else '2 times'}" in found.paused.reason
            assert Path(path.parent, f"death-{number}").exists()
            await handle.resume()
        await handle.terminate()


async def test_an_attempt_lost_with_its_worker_pauses(path: Path) -> None:
    @activity(retry=Retry(on_exhausted="pause"), at_most_once=True)
    async def is_interrupted() -> str:
        bank.tried.append(("interrupted", info(ActivityInfo).attempt))
        bank.at_work.set()
        await bank.may_end.wait()
        return "done"

    @workflow
    async def waits_for_what_is_interrupted() -> str:
        return await is_interrupted()

    async with Client.connect(path) as client:
        async with Worker(client, stop_timeout=0):
            handle = await client.start(waits_for_what_is_interrupted)
            await bank.at_work.wait()
        bank.may_end.set()
        async with Worker(client):
            found = await halted(handle)
            assert found.paused is not None
            assert "the worker stopped" in found.paused.reason
            assert len(bank.tried) == 1
            await handle.resume()
            assert await handle.result() == "done"


@pytest.mark.parametrize("flow", [pays_several, pays_many])
async def test_several_that_are_exhausted_at_once_go_on_together(path: Path, flow: Any) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(flow)
        found = await halted(handle)
        assert {one.state for one in found.activities} <= {"exhausted", "backing off", "waiting"}
        assert found.paused is not None
        bank.is_up = True
        await handle.resume()
        assert await handle.result() == ["rent", "water", "power"]
        assert await client.verify() == []


async def test_a_saga_does_not_begin_to_undo(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(pays_in_a_saga)
        await halted(handle)
        assert bank.undone == []
        await handle.cancel()
        await handle.resume()
        with pytest.raises(WorkflowCancelled):
            await handle.result()
        assert bank.undone == ["rent"]


async def test_a_cancellation_waits_for_resume_and_no_further_attempt_begins(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(pays_once)
        await halted(handle)
        await handle.cancel("enough")
        await handle.resume()
        with pytest.raises(WorkflowCancelled, match="enough"):
            await handle.result()
        assert len(bank.tried) == 2


async def test_it_is_terminated_at_once(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(pays_once)
        await halted(handle)
        await handle.terminate("over")
        with pytest.raises(WorkflowTerminated):
            await handle.result()
        assert await client.paused() == []
        assert await client.verify() == []


async def test_a_child_is_paused_and_its_parent_waits(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        parent = await client.start(pays_in_a_child)
        child = client.get_handle("the child that pays")
        await until(lambda: _is_there(client, "the child that pays"))
        await halted(child)
        assert (await parent.describe()).status == "running"
        bank.is_up = True
        await child.resume()
        assert await parent.result() == "rent"


async def _is_there(client: Client, workflow_id: str) -> bool:
    return bool((await client.list(workflow_id=workflow_id)).items)


async def test_who_has_paused_it_before_has_given_the_reason(path: Path) -> None:
    @activity(retry=Retry(max_attempts=1, on_exhausted="pause"))
    async def fails_slowly() -> str:
        bank.tried.append(("slowly", info(ActivityInfo).attempt))
        bank.at_work.set()
        await bank.may_end.wait()
        if not bank.is_up:
            raise ConnectionError("the bank is down")
        return "paid"

    @workflow
    async def pays_slowly() -> str:
        return await fails_slowly()

    async with hosting(path) as client:
        handle = await client.start(pays_slowly, id="one")
        await bank.at_work.wait()
        await handle.pause(reason="lunch", by="ann")
        await client.pause(type=pays_slowly, reason="its type")
        bank.may_end.set()
        found = await halted(handle)
        assert found.paused is not None
        assert (found.paused.by, found.paused.reason) == ("ann", "lunch")
        assert found.activities[0].state == "exhausted"
        await handle.resume()
        assert (await handle.describe()).status == "paused"
        bank.is_up = True
        await client.resume(type=pays_slowly)
        assert await handle.result() == "paid"
        assert [number for _, number in bank.tried] == [1, 2]


async def test_a_paused_type_that_goes_on_leaves_what_is_exhausted(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(pays_once)
        await halted(handle)
        await client.pause(type=pays_once)
        assert await client.resume(type=pays_once) == 0
        assert (await handle.describe()).status == "paused"
        bank.is_up = True
        await handle.resume()
        assert await handle.result() == "rent"


async def test_it_outlives_its_worker_and_works_without_a_cache(path: Path) -> None:
    async with hosting(path, workflows=ALL, cache_size=0) as client:
        handle = await client.start(pays_once, id="one")
        await halted(handle)
    async with hosting(path, workflows=ALL, cache_size=0) as client:
        handle = client.get_handle("one", pays_once)
        found = await handle.describe()
        assert found.status == "paused"
        assert found.activities[0].state == "exhausted"
        bank.is_up = True
        await handle.resume()
        assert await handle.result() == "rent"
        assert bank.tried == [("rent", 1), ("rent", 2), ("rent", 3)]


async def test_it_is_paused_once_though_the_answers_are_lost(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        bank.at_work.set()
        handle = await client.start(pays_once)
        lossy = LossyStore(client)
        lossy.lose("submit", times=3)
        await halted(handle)
        bank.is_up = True
        await handle.resume()
        assert await handle.result() == "rent"
        assert await client.verify() == []


async def test_it_goes_on_though_it_is_resumed_before_its_owner_has_looked(path: Path) -> None:
    """The mark of the next attempt is refused; when the owner looks, the pause is over."""

    @activity(retry=Retry(max_attempts=2, delay=0, jitter=0))
    async def fails_once() -> int:
        attempt = info(ActivityInfo).attempt
        if attempt == 1:
            bank.at_work.set()
            await bank.may_end.wait()
            raise ConnectionError("the bank is down")
        return attempt

    @workflow
    async def waits_for_the_second() -> int:
        return await fails_once()

    async with hosting(path) as client:
        handle = await client.start(waits_for_the_second, id="one")
        await bank.at_work.wait()
        engine = client.engine
        load, looks, may_look = engine.store.load, asyncio.Event(), asyncio.Event()

        async def load_late(shard: int, run_id: bytes) -> LoadedRun | None:
            looks.set()
            await may_look.wait()
            return await load(shard, run_id)

        engine.store.load = load_late  # type: ignore[method-assign]
        target = engine.target("default", "one")
        # As from another process: its owner has not heard of it yet.
        await engine.commits.put(Pause(target, engine.clock.now_us(), "ann", "lunch"))
        bank.may_end.set()
        await looks.wait()
        await engine.commits.put(Resume(target, engine.clock.now_us()))
        may_look.set()
        assert await handle.result() == 2


def test_a_choice_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match='give "fail" or "pause"'):
        Retry(on_exhausted="wait")  # type: ignore[arg-type]
