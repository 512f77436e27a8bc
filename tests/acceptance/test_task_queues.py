"""Task queues: an activity runs where its queue leads, and is there all that it is elsewhere."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    ActivityError,
    ActivityInfo,
    ActivityLost,
    ActivityTimeout,
    Client,
    DefinitionError,
    ExecutionDescription,
    PendingActivity,
    Retry,
    Signal,
    Transaction,
    Worker,
    WorkflowCancelled,
    WorkflowHandle,
    WorkflowTerminated,
    activity,
    checkpoint,
    complete_later,
    heartbeat,
    info,
    workflow,
)
from everlong.codec import Encrypt
from everlong_engine import TaskWants
from tests.support.hosting import AT_ONCE, ONCE, described, hosting, of_kind, until


@asynccontextmanager
async def apart(path: Path, **options: Any) -> AsyncGenerator[Client, None]:
    """A worker for workflows, and one that takes from the queue "gpu" only."""
    async with (
        Client.connect(path, **options) as client,
        Worker(client, queues=["default"], name="cpu"),
        Worker(client, queues=["gpu"], workflows=[], name="gpu"),
    ):
        yield client


async def pending(handle: WorkflowHandle[Any], state: str) -> PendingActivity:
    """Its one open activity, once it stands so."""

    def is_so(found: ExecutionDescription) -> bool:
        return bool(found.activities) and found.activities[0].state == state

    return (await described(handle, is_so)).activities[0]


class Gate:
    """An activity that says that it is here, and waits until it may go on."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.ended = asyncio.Event()
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1
        self.begun.set()
        try:
            await self.open.wait()
        finally:
            self.ended.set()


# --------------------------------------------------------------------------------- where it runs


async def test_an_activity_runs_on_the_worker_that_takes_from_its_queue(path: Path) -> None:
    gate = Gate()

    @activity(queue="gpu")
    async def render(number: int) -> int:
        await gate()
        return number * 2

    @workflow
    async def flow() -> int:
        return await render(21)

    async with apart(path) as client:
        handle = await client.start(flow)
        await gate.begun.wait()
        found = await pending(handle, "running")
        assert (found.queue, found.worker, found.attempt) == ("gpu", "gpu", 1)
        gate.open.set()
        assert await handle.result() == 42
        scheduled = (await of_kind(handle, "ActivityScheduled"))[0]
        assert scheduled.attempts == ()


async def test_a_call_may_choose_its_queue(path: Path) -> None:
    gate = Gate()

    @activity
    async def render() -> None:
        await gate()

    @workflow
    async def flow() -> None:
        await render.options(queue="gpu")()

    async with apart(path) as client:
        handle = await client.start(flow)
        await gate.begun.wait()
        assert (await pending(handle, "running")).worker == "gpu"
        gate.open.set()
        await handle.result()


async def test_a_worker_takes_from_all_queues_unless_it_names_some(path: Path) -> None:
    @activity(queue="gpu")
    async def render() -> str:
        return "done"

    @workflow
    async def flow() -> str:
        return await render()

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == "done"
        scheduled = (await of_kind(handle, "ActivityScheduled"))[0]
        assert scheduled.fields["began"] is False  # It stood in its queue, as any other call.


async def test_the_queue_of_workflows_is_no_detour(path: Path) -> None:
    @activity(queue="default")
    async def render() -> str:
        return "done"

    @workflow
    async def flow() -> str:
        return await render()

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == "done"
        scheduled = (await of_kind(handle, "ActivityScheduled"))[0]
        assert scheduled.fields["began"] is True


async def test_what_finds_no_slot_is_offered_to_other_workers(path: Path) -> None:
    """And what others have not taken by then is begun here."""
    gates = [Gate() for _ in range(4)]

    @activity
    async def step(number: int) -> int:
        await gates[number]()
        return number

    @workflow
    async def flow() -> list[int]:
        return list(await asyncio.gather(*(step(number) for number in range(4))))

    async with (
        Client.connect(path) as client,
        Worker(client, activity_slots=1, name="owner"),
        Worker(client, workflows=[], activity_slots=2, name="other"),
    ):
        handle = await client.start(flow)
        begun = [asyncio.ensure_future(gate.begun.wait()) for gate in gates]
        async with asyncio.timeout(20):
            while sum(one.done() for one in begun) < 3:
                waiting = [one for one in begun if not one.done()]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        found = (await handle.describe()).activities
        at_work = sorted(one.worker or "" for one in found if one.state == "running")
        assert at_work == ["", "other", "other"]
        for gate in gates:
            gate.open.set()
        assert await handle.result() == [0, 1, 2, 3]
        await asyncio.wait(begun)
        assert [gate.times for gate in gates] == [1, 1, 1, 1]


async def test_what_is_tied_to_its_worker_is_not_offered(path: Path) -> None:
    gate = Gate()

    @activity
    async def holds() -> None:
        await gate()

    @activity(transactional=True)
    async def store(tx: Transaction, number: int) -> None:
        tx.execute("create table if not exists numbers (number integer)")
        tx.execute("insert into numbers values (:number)", {"number": number})

    @workflow
    async def flow() -> None:
        await asyncio.gather(holds(), store(1))

    async with (
        Client.connect(path) as client,
        Worker(client, activity_slots=1, name="owner"),
        Worker(client, workflows=[], name="other"),
    ):
        handle = await client.start(flow)
        await gate.begun.wait()
        await pending_for(1.2)
        assert await client.queues() == []
        gate.open.set()
        await handle.result()


async def pending_for(seconds: float) -> None:
    """Longer than an activity waits for a slot before it is offered."""
    await asyncio.sleep(seconds)  # tidy: waits because nothing says that it is not offered


async def test_what_nobody_takes_waits_visibly_and_survives_restarts(path: Path) -> None:
    @activity(queue="gpu")
    async def render() -> str:
        return "done"

    @workflow
    async def flow() -> str:
        return await render()

    for _ in range(2):
        async with hosting(path, queues=["default"]) as client:
            handle = await client.start(flow, id="one")
            found = await pending(handle, "queued")
            assert (found.queue, found.worker) == ("gpu", None)
    async with hosting(path) as client:
        assert await client.get_handle("one").result() == "done"


async def test_a_worker_without_the_default_queue_drives_no_workflow(path: Path) -> None:
    @workflow
    async def flow() -> str:
        return "done"

    async with Client.connect(path) as client:
        async with Worker(client, queues=["gpu"]):
            handle = await client.start(flow)
            assert (await handle.describe()).history_events == 0
        async with Worker(client):
            assert await handle.result() == "done"


async def test_a_worker_takes_only_activities_that_it_hosts(path: Path) -> None:
    @activity(queue="gpu")
    async def render() -> str:
        return "rendered"

    @activity(queue="gpu")
    async def train() -> str:
        return "trained"

    @workflow
    async def flow() -> str:
        return await train()

    async with (
        hosting(path, queues=["default"]) as client,
        Worker(client, queues=["gpu"], workflows=[], activities=[render]),
    ):
        handle = await client.start(flow)
        await pending(handle, "queued")
        async with Worker(client, queues=["gpu"], workflows=[], activities=[train]):
            assert await handle.result() == "trained"


async def test_a_thousand_calls_go_through_a_queue(path: Path) -> None:
    @activity(queue="gpu")
    async def square(number: int) -> int:
        return number * number

    @workflow
    async def flow() -> int:
        return sum(await asyncio.gather(*(square(number) for number in range(1000))))

    async with apart(path) as client:
        assert await (await client.start(flow)).result() == sum(n * n for n in range(1000))
        assert await client.engine.store.queues() == []


async def test_more_than_there_are_slots_wait_for_one(path: Path) -> None:
    at_work = most = 0

    @activity(queue="gpu")
    async def render() -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1

    @workflow
    async def flow() -> None:
        await asyncio.gather(*(render() for _ in range(50)))

    async with (
        hosting(path, queues=["default"]) as client,
        Worker(client, queues=["gpu"], workflows=[], activity_slots=3),
    ):
        await (await client.start(flow)).result()
    assert most <= 3


# ------------------------------------------------------------------------------- it is an activity


async def test_its_key_is_the_same_over_attempts_and_everywhere(path: Path) -> None:
    keys: list[str] = []

    @activity(retry=AT_ONCE)
    async def render() -> None:
        keys.append(info(ActivityInfo).idempotency_key)
        if len(keys) < 3:
            raise ValueError

    @workflow
    async def flow() -> str:
        await render.options(queue="gpu")()
        return "done"

    async with apart(path) as client:
        handle = await client.start(flow)
        await handle.result()
        assert keys == [f"{handle.run_id}/1"] * 3


async def test_a_failure_is_tried_again_by_its_policy_and_written_down(path: Path) -> None:
    seen: list[tuple[int, object]] = []

    @activity(queue="gpu", retry=AT_ONCE)
    async def render() -> str:
        found = info(ActivityInfo)
        seen.append((found.attempt, found.heartbeat_details))
        heartbeat({"page": found.attempt})
        if found.attempt < 3:
            raise ValueError(f"number {found.attempt}")
        return "done"

    @workflow
    async def flow() -> str:
        return await render()

    async with apart(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == "done"
        assert seen == [(1, None), (2, {"page": 1}), (3, {"page": 2})]
        attempts = (await of_kind(handle, "ActivityScheduled"))[0].attempts
        assert [(one.number, one.state, one.error, one.worker) for one in attempts] == [
            (1, "failed", "number 1", "gpu"),
            (2, "failed", "number 2", "gpu"),
        ]


async def test_the_last_failure_comes_as_its_own_class(path: Path) -> None:
    @activity(queue="gpu", retry=Retry(max_attempts=2, delay=0.0, jitter=0.0))
    async def render() -> None:
        raise LookupError("no such scene")

    @workflow
    async def flow() -> str:
        try:
            await render()
        except LookupError as error:
            return f"caught {error}"
        return "not reached"

    async with apart(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == "caught no such scene"
        failed = (await of_kind(handle, "ActivityFailed"))[0]
        assert failed.fields["attempts"] == 2


@pytest.mark.parametrize("limit", ["start_to_close", "heartbeat"])
async def test_its_time_limits_are_kept_where_it_runs(path: Path, limit: str) -> None:
    options: Any = {"timeout": 0.05} if limit == "start_to_close" else {"heartbeat_timeout": 0.05}

    @activity(queue="gpu", retry=ONCE, **options)
    async def render() -> None:
        await asyncio.Event().wait()

    @workflow
    async def flow() -> str:
        try:
            await render()
        except ActivityTimeout as error:
            return error.kind
        return "not reached"

    async with apart(path) as client:
        assert await (await client.start(flow)).result() == limit


@pytest.mark.parametrize("option", ["schedule_to_start", "schedule_to_close"])
async def test_what_nobody_takes_in_time_times_out(path: Path, option: str) -> None:
    limit: Any = {option: 0.05}

    @activity(queue="gpu", **limit)
    async def render() -> None: ...

    @workflow
    async def flow() -> str:
        try:
            await render()
        except ActivityTimeout as error:
            return error.kind
        return "not reached"

    async with hosting(path, queues=["default"]) as client:
        assert await (await client.start(flow)).result() == option
        assert await client.engine.store.queues() == []


async def test_what_has_begun_in_time_may_take_longer_than_it_might_wait(path: Path) -> None:
    gate = Gate()

    @activity(queue="gpu", schedule_to_start=0.2)
    async def render() -> str:
        await gate()
        return "done"

    @activity
    async def outlast() -> None:
        await asyncio.sleep(0.3)  # tidy: waits because the other one must not wait that long
        gate.open.set()

    @workflow
    async def flow() -> str:
        found, _ = await asyncio.gather(render(), outlast())
        return found

    async with apart(path) as client:
        assert await (await client.start(flow)).result() == "done"


async def test_an_exhausted_activity_pauses_its_execution_and_begins_anew(path: Path) -> None:
    mended = False
    tried: list[int] = []

    @activity(queue="gpu", retry=Retry(max_attempts=2, delay=0.0, jitter=0.0, on_exhausted="pause"))
    async def render() -> str:
        tried.append(info(ActivityInfo).attempt)
        if not mended:
            raise ConnectionError("the disk is not there")
        return "done"

    @workflow
    async def flow() -> str:
        return await render()

    async with apart(path) as client:
        handle = await client.start(flow)
        found = await described(handle, lambda one: one.status == "paused")
        assert found.paused is not None
        assert "the disk is not there" in found.paused.reason
        assert found.activities[0].state == "exhausted"
        mended = True
        await handle.resume()
        assert await handle.result() == "done"
        assert tried == [1, 2, 3]


async def test_it_goes_on_though_its_owner_has_never_heard_of_the_pause(path: Path) -> None:
    tried: list[int] = []

    @activity(queue="gpu", retry=Retry(max_attempts=1, on_exhausted="pause"))
    async def render() -> str:
        tried.append(info(ActivityInfo).attempt)
        if len(tried) == 1:
            raise ConnectionError
        return "done"

    @workflow
    async def flow() -> str:
        return await render()

    async with hosting(path, queues=["default"]) as client:
        handle = await client.start(flow)
        await pending(handle, "queued")
        owner: Any = client.engine.hosts[0]
        look = owner._keeper.deliver

        def is_deaf(mail: object) -> bool:
            return True

        owner._keeper.deliver = is_deaf
        async with Worker(client, queues=["gpu"], workflows=[]):
            await described(handle, lambda one: one.status == "paused")
            owner._keeper.deliver = look
            await handle.resume()
            assert await handle.result() == "done"
    assert tried == [1, 2]


async def test_whoever_has_its_token_may_complete_it_later(path: Path) -> None:
    tokens: list[str] = []
    handed = asyncio.Event()

    @activity(queue="gpu")
    async def ask() -> str:
        tokens.append(info(ActivityInfo).token)
        handed.set()
        complete_later()

    @workflow
    async def flow() -> str:
        return await ask()

    async with apart(path) as client:
        handle = await client.start(flow)
        await handed.wait()
        await pending(handle, "elsewhere")
        await client.complete(tokens[0], "yes")
        assert await handle.result() == "yes"


async def test_what_is_never_completed_times_out_all_the_same(path: Path) -> None:
    @activity(queue="gpu", timeout=0.1, retry=ONCE)
    async def ask() -> str:
        complete_later()

    @workflow
    async def flow() -> str:
        try:
            return await ask()
        except ActivityTimeout as error:
            return error.kind

    async with apart(path) as client:
        assert await (await client.start(flow)).result() == "start_to_close"


async def test_a_token_is_answered_while_the_activity_is_at_work(path: Path) -> None:
    gate, tokens = Gate(), list[str]()

    @activity(queue="gpu")
    async def ask() -> str:
        tokens.append(info(ActivityInfo).token)
        await gate()
        return "too late"

    @workflow
    async def flow() -> str:
        return await ask()

    async with apart(path) as client:
        handle = await client.start(flow)
        await gate.begun.wait()
        await client.complete(tokens[0], "yes")
        assert await handle.result() == "yes"
        await gate.ended.wait()  # Nobody wants it any more.


@pytest.mark.file
async def test_payloads_and_details_stay_secret_on_their_way(path: Path) -> None:
    secret = Encrypt({"k": b"k" * 32})

    @activity(queue="gpu", retry=AT_ONCE)
    async def render(word: str) -> str:
        found = info(ActivityInfo)
        heartbeat(word)
        if found.attempt == 1:
            raise ValueError(word)
        return f"{word}/{found.heartbeat_details}"

    @workflow
    async def flow(word: str) -> str:
        return await render(word)

    async with apart(path, codecs=[secret]) as client:
        handle = await client.start(flow, "TOPSECRET")
        assert await handle.result() == "TOPSECRET/TOPSECRET"
    for file in path.parent.iterdir():
        assert b"TOPSECRET" not in file.read_bytes()


# --------------------------------------------------------------------------------- cancellation


async def test_a_cancelled_call_ends_where_it_runs(path: Path) -> None:
    gate, go = Gate(), Signal("queue_go", None)

    @activity(queue="gpu")
    async def render() -> None:
        await gate()

    @workflow
    async def flow() -> str:
        call = asyncio.ensure_future(render())
        await go.receive()
        call.cancel()
        return "went on"

    async with apart(path) as client:
        handle = await client.start(flow)
        await gate.begun.wait()
        await handle.signal(go)
        assert await handle.result() == "went on"
        await gate.ended.wait()


@pytest.mark.parametrize("hosted", [False, True])
async def test_one_that_has_not_begun_never_begins(path: Path, *, hosted: bool) -> None:
    gate, go = Gate(), Signal("queue_go", None)

    @activity(queue="gpu", on_cancel="wait")
    async def render() -> None:
        await gate()

    @workflow
    async def flow() -> str:
        call = asyncio.ensure_future(render())
        await go.receive()
        call.cancel()
        await asyncio.wait([call])
        return "cancelled" if call.cancelled() else "not"

    async with hosting(path, queues=["default"]) as client:
        handle = await client.start(flow)
        await pending(handle, "queued")
        await handle.signal(go)
        assert await handle.result() == "cancelled"
        ended = (await of_kind(handle, "ActivityCancelled"))[0]
        assert ended.fields["outcome"] == "not_begun"
        if hosted:
            async with Worker(client, queues=["gpu"], workflows=[]):
                assert await client.engine.store.queues() == []
    assert gate.times == 0


async def test_whoever_waits_for_the_end_of_a_cancelled_one_is_told_it(path: Path) -> None:
    gate, go = Gate(), Signal("queue_go", None)

    @activity(queue="gpu", on_cancel="wait")
    async def render() -> None:
        try:
            await gate()
        finally:
            await asyncio.sleep(0)

    @workflow
    async def flow() -> str:
        call = asyncio.ensure_future(render())
        await go.receive()
        call.cancel()
        await asyncio.wait([call])
        return "cancelled" if call.cancelled() else "not"

    async with apart(path) as client:
        handle = await client.start(flow)
        await gate.begun.wait()
        await handle.signal(go)
        assert await handle.result() == "cancelled"
        assert gate.ended.is_set()
        ended = (await of_kind(handle, "ActivityCancelled"))[0]
        assert ended.fields["outcome"] == "stopped"


async def test_one_that_fails_while_its_end_is_waited_for_is_not_tried_again(path: Path) -> None:
    gate, go = Gate(), Signal("queue_go", None)

    @activity(queue="gpu", on_cancel="wait", retry=AT_ONCE)
    async def render() -> None:
        try:
            await gate()
        except asyncio.CancelledError:
            raise ValueError("in its last breath") from None

    @workflow
    async def flow() -> str:
        call = asyncio.ensure_future(render())
        await go.receive()
        call.cancel()
        await asyncio.wait([call])
        return "cancelled" if call.cancelled() else "not"

    async with apart(path) as client:
        handle = await client.start(flow)
        await gate.begun.wait()
        await handle.signal(go)
        assert await handle.result() == "cancelled"
        ended = (await of_kind(handle, "ActivityCancelled"))[0]
        assert ended.fields["outcome"] == "failed"
    assert gate.times == 1


async def test_one_that_was_taken_in_a_lost_answer_ends_unbegun(path: Path) -> None:
    """Its worker has never heard of it, so only the store knows whose it is."""
    go = Signal("queue_go", None)

    @activity(queue="gpu", on_cancel="wait")
    async def render() -> None: ...

    @workflow
    async def flow() -> str:
        call = asyncio.ensure_future(render())
        await go.receive()
        call.cancel()
        await asyncio.wait([call])
        return "cancelled" if call.cancelled() else "not"

    async with (
        hosting(path, queues=["default"]) as client,
        Worker(client, queues=["gpu"], workflows=[], activities=[]) as worker,
    ):
        handle = await client.start(flow)
        await pending(handle, "queued")
        engine = client.engine
        wants = TaskWants(worker.worker_id, "gpu", ("render",))
        await engine.store.take_tasks(wants, engine.clock.now_us(), 1)
        await handle.signal(go)
        await until(lambda: of_kind(handle, "ActivityCancelRequested"))
        taker: Any = worker._taker  # pyright: ignore[reportPrivateUsage]
        taker._in_doubt = True
        worker.wake()
        assert await handle.result() == "cancelled"
        ended = (await of_kind(handle, "ActivityCancelled"))[0]
        assert (ended.fields["outcome"], ended.fields["attempts"]) == ("not_begun", 0)
        assert await engine.store.queues() == []


async def test_an_abandoned_one_is_left_alone(path: Path) -> None:
    gate, go, on = Gate(), Signal("queue_go", None), Signal("queue_on", None)

    @activity(queue="gpu", on_cancel="abandon")
    async def render() -> None:
        await gate()

    @workflow
    async def flow() -> str:
        call = asyncio.ensure_future(render())
        await go.receive()
        call.cancel()
        await on.receive()
        return "went on"

    async with apart(path) as client:
        handle = await client.start(flow)
        await gate.begun.wait()
        await handle.signal(go)
        await until(lambda: of_kind(handle, "ActivityCancelRequested"))
        await client.engine.store.tasks_of(b"")  # A look of anybody changes nothing.
        assert not gate.ended.is_set()
        gate.open.set()
        await gate.ended.wait()
        await handle.signal(on)
        assert await handle.result() == "went on"


async def test_the_end_of_its_run_is_the_end_of_a_task(path: Path) -> None:
    gate = Gate()

    @activity(queue="gpu")
    async def render() -> None:
        await gate()

    @workflow
    async def flow() -> None:
        await render()

    async with apart(path) as client:
        handle = await client.start(flow)
        await gate.begun.wait()
        await handle.terminate("enough")
        with pytest.raises(WorkflowTerminated):
            await handle.result()
        await gate.ended.wait()
        assert await client.engine.store.queues() == []


async def test_a_cancelled_workflow_takes_what_waits_out_of_the_queue(path: Path) -> None:
    @activity(queue="gpu")
    async def render() -> None: ...

    @workflow
    async def flow() -> None:
        await render()

    async with hosting(path, queues=["default"]) as client:
        handle = await client.start(flow)
        await pending(handle, "queued")
        await handle.cancel("enough")
        with pytest.raises(WorkflowCancelled):
            await handle.result()
        assert await client.engine.store.queues() == []


# ---------------------------------------------------------------------------- pauses and restarts


async def test_nothing_is_taken_for_a_paused_execution(path: Path) -> None:
    gate = Gate()

    @activity(queue="gpu")
    async def render() -> str:
        await gate()
        return "done"

    @workflow
    async def flow() -> str:
        return await render()

    gate.open.set()
    async with hosting(path, queues=["default"]) as client:
        handle = await client.start(flow)
        await pending(handle, "queued")
        await handle.pause(reason="a moment")
        async with Worker(client, queues=["gpu"], workflows=[]) as worker:
            other = await client.start(flow)
            assert await other.result() == "done"  # The worker is at work all the same.
            assert gate.times == 1
            await handle.resume()
            assert await handle.result() == "done"
            assert worker is not None


async def test_an_outcome_waits_for_its_paused_execution(path: Path) -> None:
    gate = Gate()

    @activity(queue="gpu")
    async def render() -> str:
        await gate()
        return "done"

    @workflow
    async def flow() -> str:
        return await render()

    async with apart(path) as client:
        handle = await client.start(flow)
        await gate.begun.wait()
        await handle.pause(reason="a moment")
        gate.open.set()
        await gate.ended.wait()

        async def is_settled() -> bool:
            return await client.engine.store.queues() == []

        await until(is_settled)
        assert (await handle.describe()).status == "paused"
        await handle.resume()
        assert await handle.result() == "done"


async def test_its_run_sleeps_meanwhile_and_wakes_for_the_outcome(path: Path) -> None:
    gate = Gate()

    @activity(queue="gpu")
    async def render() -> str:
        await gate()
        return "done"

    @workflow
    async def flow() -> str:
        return await render()

    @workflow
    async def other() -> None: ...

    async with (
        hosting(path, queues=["default"], cache_size=0) as client,
        Worker(client, queues=["gpu"], workflows=[]),
    ):
        handle = await client.start(flow)
        await gate.begun.wait()
        await (await client.start(other)).result()  # It needs the place.
        await described(handle, lambda one: one.owner is None)
        gate.open.set()
        assert await handle.result() == "done"


@pytest.mark.parametrize("at_most_once", [False, True])
async def test_a_worker_that_stops_hands_its_tasks_back(path: Path, *, at_most_once: bool) -> None:
    gate = Gate()

    @activity(queue="gpu", at_most_once=at_most_once)
    async def render() -> str:
        await gate()
        return "done"

    @workflow
    async def flow() -> str:
        try:
            return await render()
        except ActivityLost:
            return "lost"

    async with hosting(path, queues=["default"]) as client:
        async with Worker(client, queues=["gpu"], workflows=[], stop_timeout=0):
            handle = await client.start(flow)
            await gate.begun.wait()
        gate.open.set()
        async with Worker(client, queues=["gpu"], workflows=[]):
            assert await handle.result() == ("lost" if at_most_once else "done")
        attempts = (await of_kind(handle, "ActivityScheduled"))[0].attempts
        assert [(one.number, one.state) for one in attempts] == [(1, "lost")]


async def test_a_worker_that_stops_lets_its_tasks_end_first(path: Path) -> None:
    gate = Gate()

    @activity(queue="gpu")
    async def render() -> str:
        await gate()
        return "done"

    @workflow
    async def flow() -> str:
        return await render()

    async with hosting(path, queues=["default"]) as client:
        async with Worker(client, queues=["gpu"], workflows=[]):
            handle = await client.start(flow)
            await gate.begun.wait()
            asyncio.get_running_loop().call_later(0.05, gate.open.set)
        assert await handle.result() == "done"
    assert gate.times == 1


async def test_a_flow_for_ever_sends_to_a_queue_in_each_of_its_runs(path: Path) -> None:
    seen: list[int] = []
    enough = asyncio.Event()

    @activity(queue="gpu")
    async def render(number: int) -> None:
        seen.append(number)
        if number == 20:
            enough.set()

    @workflow
    async def flow(number: int = 0) -> None:
        while True:
            await render(number)
            number += 1
            await checkpoint(number=number)

    async with apart(path) as client:
        handle = await client.start(flow)
        await enough.wait()
        await handle.terminate("enough")
    assert seen[:21] == list(range(21))


async def test_a_reset_takes_what_waits_out_of_the_queue_and_puts_it_there_anew(
    path: Path,
) -> None:
    @activity
    async def first() -> int:
        return 1

    @activity(queue="gpu")
    async def render(number: int) -> int:
        return number + 1

    @workflow
    async def flow() -> int:
        return await render(await first())

    async with hosting(path, queues=["default"]) as client:
        handle = await client.start(flow)
        await pending(handle, "queued")
        (before,) = await client.engine.store.queues()
        await handle.reset(3)
        await pending(handle, "queued")
        assert await client.engine.store.queues() != []
        assert before.waiting == 1
        async with Worker(client, queues=["gpu"], workflows=[]):
            assert await handle.result() == 2
        assert await client.engine.store.queues() == []


@pytest.mark.parametrize("taken", [False, True])
async def test_an_execution_leaves_its_queue_behind_when_it_moves(
    path: Path, tmp_path: Path, *, taken: bool
) -> None:
    gate = Gate()

    @activity(queue="gpu")
    async def render() -> str:
        await gate()
        return "done"

    @workflow
    async def flow() -> str:
        return await render()

    text = ""
    async with hosting(path, queues=["default"]) as client:
        handle = await client.start(flow, id="w")
        async with Worker(client, queues=["gpu" if taken else "other"], workflows=[]) as worker:
            await pending(handle, "running" if taken else "queued")
            text = await client.export("w")
            assert worker is not None
            gate.open.set()
    async with apart(tmp_path / "other.db") as other:
        await other.import_(text)
        assert await other.get_handle("w").result() == "done"


# ------------------------------------------------------------------------------------ wrong uses


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, 7])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="names no task queue"):

        @activity(queue=name)
        async def render() -> None: ...


async def test_a_worker_refuses_what_is_no_list_of_queues(path: Path) -> None:
    async with Client.connect(path) as client:
        with pytest.raises(TypeError, match="give a list of names"):
            Worker(client, queues="gpu")
        with pytest.raises(ValueError, match="names no task queue"):
            Worker(client, queues=["ok", ""])


def test_a_transactional_activity_stays_with_its_run() -> None:
    with pytest.raises(DefinitionError, match="leave queue="):

        @activity(transactional=True, queue="gpu")  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportCallIssue, reportArgumentType]
        async def store(tx: Transaction) -> None: ...

    @activity(transactional=True)
    async def keep(tx: Transaction) -> None: ...

    with pytest.raises(DefinitionError, match="leave queue="):
        keep.options(queue="gpu")


async def test_an_error_of_another_module_arrives_as_data(path: Path) -> None:
    class Strange(Exception):
        pass

    @activity(queue="gpu", retry=ONCE)
    async def render() -> None:
        raise Strange("odd")

    @workflow
    async def flow() -> str:
        try:
            await render()
        except ActivityError as error:
            return str(error)
        return "not reached"

    async with apart(path) as client:
        assert "odd" in await (await client.start(flow)).result()
