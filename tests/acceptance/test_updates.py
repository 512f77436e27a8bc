"""Updates: judged without a trace, performed once, answered for good."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    DefinitionError,
    EverlongError,
    InvalidArguments,
    PayloadTooLarge,
    Query,
    Signal,
    Update,
    UpdateFailed,
    UpdateHandle,
    UpdateRejected,
    UpdateUnfinished,
    Worker,
    WorkflowAlreadyStarted,
    WorkflowBlocked,
    WorkflowClosed,
    WorkflowHandle,
    WorkflowNotFound,
    activity,
    all_handlers_finished,
    checkpoint,
    continue_as_new,
    wait_condition,
    workflow,
)
from everlong_engine import limits
from tests.support.gated_store import Gate, LossyStore
from tests.support.hosting import described, hosting, kinds, of_kind, until
from tests.support.other_process import other_process

add = Update("acceptance-add", int)
total = Query("acceptance-total", int)
close = Signal("acceptance-close", bool)


class Refused(Exception):
    """Of these tests."""


@activity
async def doubled(number: int) -> int:
    return 2 * number


def adding() -> Any:
    """A workflow that sums what it is sent, each amount doubled by an activity."""

    @workflow
    async def adds(until: int | None = None, start: int = 0) -> int:
        sum_ = start

        @add.handler
        async def _(amount: int, twice: bool = True) -> int:
            nonlocal sum_
            more = await doubled(amount) if twice else amount
            sum_ += more
            return sum_

        @add.validator
        def _(amount: int, twice: bool = True) -> None:
            if amount < 0:
                raise ValueError("the amount must not be negative")

        total.handler(lambda: sum_)
        if until is None:
            await close.receive()
        else:
            await wait_condition(lambda: sum_ >= until)
        await wait_condition(all_handlers_finished)
        return sum_

    return adds


def a_worker(client: Client, *flows: Any, **options: Any) -> Worker:
    return Worker(client, workflows=list(flows), activities=[doubled], **options)


# ------------------------------------------------------------------------------------ one update


async def test_an_update_is_performed_and_answered(path: Path) -> None:
    flow = adding()
    async with Client.connect(path) as client, a_worker(client, flow):
        handle = await client.start(flow, 6)
        assert await handle.update(add, 1) == 2
        assert await handle.update(add, 1, twice=False) == 3
        assert await handle.update("acceptance-add", amount=2) == 7
        assert await handle.result() == 7
    events = [
        "RunStarted",
        "UpdateReceived",
        "ActivityScheduled",
        "ActivityCompleted",
        "UpdateCompleted",
        "UpdateReceived",
        "UpdateCompleted",
    ]
    async with Client.connect(path) as client:
        assert (await kinds(client.get_handle(handle.workflow_id)))[:7] == events


async def test_what_a_validator_refuses_leaves_no_history(path: Path) -> None:
    flow = adding()
    async with Client.connect(path) as client, a_worker(client, flow):
        handle = await client.start(flow)
        with pytest.raises(UpdateRejected, match="must not be negative") as refused:
            await handle.update(add, -1)
        assert isinstance(refused.value.__cause__, ValueError)
        with pytest.raises(UpdateRejected, match="amount"):
            await handle.update(add, "much")
        with pytest.raises(UpdateRejected, match="handles these updates now: acceptance-add"):
            await handle.update("nothing of the kind")
        assert await kinds(handle) == ["RunStarted"]
        assert (await handle.describe()).signals == ()  # Nothing lies in its inbox either.
        await handle.signal(close, True)
        assert await handle.result() == 0


async def test_a_refused_id_stays_refused_and_an_accepted_one_has_one_effect(path: Path) -> None:
    flow = adding()
    async with Client.connect(path) as client, a_worker(client, flow):
        handle = await client.start(flow)
        for amount in (-1, 1):  # The second would pass; but it is the same update.
            with pytest.raises(UpdateRejected):
                await handle.update(add, amount, update_id="refused")
        assert [await handle.update(add, 1, update_id="taken") for _ in range(3)] == [2, 2, 2]
        assert await handle.query(total) == 2
        again = await handle.get_update("taken", add)
        assert await again.result() == 2
        with pytest.raises(WorkflowNotFound, match="knows no update 'unknown'"):
            await (await handle.get_update("unknown")).result()


async def test_five_clients_with_one_id_have_one_effect_and_one_answer(path: Path) -> None:
    flow = adding()
    async with Client.connect(path) as client, a_worker(client, flow):
        await client.start(flow, id="one")

        async def ask() -> int:
            async with Client.connect(path) as other:
                return await other.get_handle("one").update(add, 4, update_id="same")

        assert await asyncio.gather(*(ask() for _ in range(5))) == [8] * 5
        assert await client.get_handle("one").query(total) == 8


async def test_an_exception_out_of_the_handler_fails_the_update_and_not_the_workflow(
    path: Path,
) -> None:
    @workflow(raises=[Refused])
    async def picky() -> str:
        @add.handler
        async def _(amount: int) -> int:
            await doubled(amount)
            raise Refused(amount)

        await close.receive()
        return "well"

    async with Client.connect(path) as client, a_worker(client, picky):
        handle = await client.start(picky)
        for _ in range(2):  # A failure is an answer, too: the same for the same id.
            with pytest.raises(UpdateFailed, match="Refused: 7") as failed:
                await handle.update(add, 7, update_id="bad")
            assert isinstance(failed.value.__cause__, Refused)
            assert failed.value.__cause__.args == (7,)
        await handle.signal(close, True)
        assert await handle.result() == "well"


async def test_start_update_returns_with_the_acceptance(path: Path) -> None:
    may_end = asyncio.Event()

    @activity
    async def hold() -> str:
        await may_end.wait()
        return "held"

    @workflow
    async def slow() -> None:
        @add.handler
        async def _() -> int:
            return len(await hold())

        await close.receive()

    async with hosting(path) as client:
        handle = await client.start(slow)
        sent = await handle.start_update(add, update_id="slow")
        assert (await handle.describe()).updates == ("acceptance-add slow",)
        assert "slow" in repr(sent)
        may_end.set()
        assert await sent.result() == 4
        assert (await handle.describe()).updates == ()


async def test_several_updates_are_at_work_at_once_and_end_in_any_order(path: Path) -> None:
    may_end = {number: asyncio.Event() for number in range(4)}

    @activity
    async def hold(number: int) -> int:
        await may_end[number].wait()
        return number

    @workflow
    async def parallel() -> list[int]:
        ended: list[int] = []

        @add.handler
        async def _(number: int) -> int:
            ended.append(await hold(number))
            return len(ended)

        await wait_condition(lambda: len(ended) == 4)
        await wait_condition(all_handlers_finished)
        return ended

    async with hosting(path) as client:
        handle = await client.start(parallel)
        sent = [await handle.start_update(add, number) for number in range(4)]
        for place, number in enumerate((2, 0, 3, 1)):
            may_end[number].set()
            assert await sent[number].result() == place + 1
        assert await handle.result() == [2, 0, 3, 1]


# ------------------------------------------------------------------------------- replay, crashes


async def test_updates_replay_with_the_cache_off_and_are_not_judged_again(path: Path) -> None:
    judged: list[int] = []

    @workflow
    async def judging() -> int:
        sum_ = 0

        @add.handler
        async def _(amount: int) -> int:
            nonlocal sum_
            more = await doubled(amount)  # Before the sum is read: handlers take turns.
            sum_ += more
            return sum_

        @add.validator
        def _(amount: int) -> None:
            judged.append(amount)

        await close.receive()
        await wait_condition(all_handlers_finished)
        return sum_

    async with Client.connect(path) as client, a_worker(client, judging, cache_size=0):
        handle = await client.start(judging)
        assert [await handle.update(add, number) for number in range(1, 4)] == [2, 6, 12]
        await handle.signal(close, True)
        assert await handle.result() == 12
    assert judged == [1, 2, 3]


async def test_an_update_that_was_accepted_is_finished_by_the_next_worker(path: Path) -> None:
    may_end = asyncio.Event()

    @activity
    async def hold() -> int:
        await may_end.wait()
        return 5

    @workflow
    async def slow() -> None:
        @add.handler
        async def _() -> int:
            return await hold()

        await close.receive()

    async with Client.connect(path) as client:
        worker = Worker(client, workflows=[slow], activities=[hold], stop_timeout=0)
        await worker.start()
        handle = await client.start(slow, id="slow")
        sent = await handle.start_update(add, update_id="kept")
        await worker.stop()
        may_end.set()
        async with Worker(client, workflows=[slow], activities=[hold]):
            assert await sent.result() == 5


async def test_an_update_sent_while_no_worker_runs_waits_for_one(path: Path) -> None:
    flow = adding()
    async with Client.connect(path) as client:
        handle = await client.start(flow)
        sending = asyncio.ensure_future(handle.update(add, 3))
        await until(lambda: _in_the_inbox(handle))
        async with a_worker(client, flow):
            assert await sending == 6


async def _in_the_inbox(handle: WorkflowHandle[Any]) -> bool:
    return len((await handle.describe()).signals) == 2  # Its start, too.


async def test_an_update_from_another_process_is_answered_there(path: Path) -> None:
    flow = adding()
    async with Client.connect(path) as client, a_worker(client, flow):
        await client.start(flow, id="here")
        async with other_process(path) as other:
            assert await other.do("update", id="here", update="acceptance-add", value=4) == 8
            with pytest.raises(Exception, match="must not be negative"):
                await other.do("update", id="here", update="acceptance-add", value=-4)


async def test_a_message_whose_answer_was_lost_is_one_update(path: Path) -> None:
    flow = adding()
    async with Client.connect(path) as client, a_worker(client, flow):
        handle = await client.start(flow)
        LossyStore(client).lose("submit")
        assert await handle.update(add, 1, update_id="once") == 2
        assert await handle.query(total) == 2


# -------------------------------------------------------------------------------------- the end


async def test_handlers_at_work_at_the_end_are_told_to_their_senders_and_in_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    never = asyncio.Event()

    @activity
    async def hold() -> None:
        await never.wait()

    @workflow
    async def hasty() -> str:
        @add.handler
        async def _() -> int:
            await hold()
            return 1

        await close.receive()
        return "ended"

    async with hosting(path) as client:
        handle = await client.start(hasty, id="hasty")
        sent = await handle.start_update(add, update_id="late")
        await handle.signal(close, True)
        with pytest.raises(UpdateUnfinished, match="ended, or began anew, before the update"):
            await sent.result()
        assert await handle.result() == "ended"
    assert "acceptance-add (late)" in caplog.text
    assert "all_handlers_finished()" in caplog.text


@pytest.mark.parametrize("end", ["terminate", "time out"])
async def test_an_end_from_outside_leaves_no_sender_waiting(path: Path, end: str) -> None:
    never = asyncio.Event()

    @activity
    async def hold() -> None:
        await never.wait()

    @workflow
    async def stuck() -> None:
        @add.handler
        async def _() -> int:
            await hold()
            return 1

        await close.receive()

    async with hosting(path) as client:
        timeout = 0.3 if end == "time out" else None
        handle = await client.start(stuck, run_timeout=timeout)
        sent: UpdateHandle[int] = await handle.start_update(add)
        if end == "terminate":
            await handle.terminate()
        with pytest.raises(UpdateUnfinished):
            await sent.result()
        with pytest.raises(WorkflowClosed):
            await handle.update(add)


async def test_an_update_that_comes_with_the_end_is_refused_or_performed_never_left(
    path: Path,
) -> None:
    """A hundred times: the signal that ends the flow against an update that is on its way."""
    flow = adding()
    async with Client.connect(path) as client, a_worker(client, flow):

        async def race(number: int) -> bool:
            handle = await client.start(flow, id=f"race-{number}")
            sending = asyncio.ensure_future(handle.update(add, 1))
            for _ in range(number % 10):
                await asyncio.sleep(0)
            await handle.signal(close, True)
            try:
                answer = await sending
            except (WorkflowClosed, UpdateUnfinished):
                assert await handle.result() in (0, 2)
                return False
            assert answer == 2
            assert await handle.result() == 2
            return True

        outcomes = await asyncio.gather(*(race(number) for number in range(100)))
        assert len(outcomes) == 100


# ------------------------------------------------------------------------------------- roll-over


async def test_updates_survive_beginning_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten hops: every update is performed once, and none is lost between two runs."""
    monkeypatch.setattr(limits, "CHECKPOINT_EVENTS", 10)

    @workflow
    async def rolling(sum_: int = 0) -> int:
        @add.handler
        async def _(amount: int) -> int:
            nonlocal sum_
            more = await doubled(amount)  # Before the sum is read: handlers take turns.
            sum_ += more
            return sum_

        while sum_ < 80:
            before = sum_
            await wait_condition(lambda: sum_ > before)  # noqa: B023
            await checkpoint(sum_=sum_)
        await wait_condition(all_handlers_finished)
        return sum_

    async with Client.connect(path) as client, a_worker(client, rolling):
        handle = await client.start(rolling, id="rolling")
        answers: list[int] = []
        for _ in range(10):
            answers += await asyncio.gather(*(handle.update(add, 1) for _ in range(4)))
        assert sorted(answers) == list(range(2, 82, 2))
        assert await handle.result() == 80
        assert len((await client.list(workflow_id="rolling")).items) > 5


async def test_continue_as_new_tells_who_was_not_finished(path: Path) -> None:
    never = asyncio.Event()

    @activity
    async def hold() -> None:
        await never.wait()

    @workflow
    async def leaping(hop: int = 0) -> int:
        @add.handler
        async def _() -> int:
            await hold()
            return 1

        if hop == 0:
            await close.receive()
            continue_as_new(hop=1)
        await close.receive()
        return hop

    async with hosting(path) as client:
        handle = await client.start(leaping)
        sent = await handle.start_update(add, update_id="left")
        await handle.signal(close, True)
        with pytest.raises(UpdateUnfinished):
            await sent.result()
        with pytest.raises(UpdateUnfinished):  # Known for as long as the execution is.
            await handle.update(add, update_id="left")
        await handle.signal(close, True)
        assert await handle.result() == 1


# ---------------------------------------------------------------------------------- with a start


async def test_an_update_that_comes_with_a_start(path: Path) -> None:
    flow = adding()
    async with Client.connect(path) as client, a_worker(client, flow):
        handle = await client.start(flow, id="cart", update=(add, 2), update_id="first")
        assert handle.started_update is not None
        assert await handle.started_update.result() == 4
        again = await client.start(flow, id="cart", update=(add, 3))
        assert again.started_update is not None
        assert await again.started_update.result() == 10
        same = await client.start(flow, id="cart", update=(add, 9), update_id="first")
        assert same.started_update is not None
        assert await same.started_update.result() == 4
        assert await handle.query(total) == 10


async def test_a_signal_that_comes_with_a_start_goes_where_the_start_goes(path: Path) -> None:
    letters = Signal("acceptance-letters", int)

    @workflow
    async def collects(count: int) -> list[int]:
        return [await letters.receive() for _ in range(count)]

    async with hosting(path) as client:
        handle = await client.start(collects, 3, id="box", signal=(letters, 1))
        await client.start(collects, 3, id="box", signal=(letters, 2))
        with pytest.raises(WorkflowAlreadyStarted):
            await client.start(collects, 3, id="box", if_open="fail", signal=(letters, 9))
        for _ in range(2):
            await client.start(
                collects, 3, id="box", request_id="again", signal=("acceptance-letters", 3)
            )
        assert await handle.result() == [1, 2, 3]
        new = await client.start(collects, 1, id="box", if_open="terminate", signal=(letters, 4))
        assert await new.result() == [4]


async def test_what_cannot_come_with_a_start_is_refused_before_anything_starts(path: Path) -> None:
    flow = adding()
    numbers = Signal("acceptance-numbers", int)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"signal": (numbers, "x")}, "acceptance-numbers"),
        ({"signal": numbers}, "give \\(signal, value\\)"),
        ({"update": add}, "give \\(update, \\*arguments\\)"),
        ({"update": (add, 1), "signal": (numbers, 1)}, "not both"),
        ({"update_id": "alone"}, "give that, too"),
        ({"update": (add, 1), "update_id": "\x01"}, "control character"),
    ]
    async with Client.connect(path) as client:
        for options, message in wrong:
            with pytest.raises(InvalidArguments, match=message):
                await client.start(flow, id="wrong", **options)
        assert not (await client.list()).items


async def test_a_start_whose_answer_was_lost_brings_its_signal_once(path: Path) -> None:
    letters = Signal("acceptance-letters", int)

    @workflow
    async def collects(count: int) -> list[int]:
        return [await letters.receive() for _ in range(count)]

    async with hosting(path) as client:
        await client.start(collects, 2, id="box")
        lost = LossyStore(client)
        lost.lose("submit")
        handle = await client.start(collects, 2, id="box", signal=(letters, 1))
        await handle.signal(letters, 2)
        assert await handle.result() == [1, 2]


# ---------------------------------------------------------------------------------- wrong uses


@pytest.mark.parametrize("what", ["waits", "decides", "raises SystemExit"])
async def test_a_validator_that_does_more_than_look_refuses(path: Path, what: str) -> None:
    def validate() -> None:
        if what == "decides":
            _ = doubled(1)
        elif what == "waits":
            close.receive().send(None)
        else:
            raise SystemExit(3)

    @workflow
    async def odd() -> int:
        add.handler(lambda: 1)
        add.validator(validate)
        await close.receive()
        return 0

    async with hosting(path) as client:
        handle = await client.start(odd)
        with pytest.raises(UpdateRejected):
            await handle.update(add)
        await handle.signal(close, True)
        assert await handle.result() == 0


Declares = Callable[[], Awaitable[None] | None]


async def _async_validator() -> None: ...


def _generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: add.validator(_async_validator), "must be a plain def"),
        (lambda: add.handler(_generator), "must return, and not yield"),
        (lambda: Update("nobody", int).validator(lambda: None), "declare the handler first"),
    ],
)
async def test_a_declaration_that_cannot_work_blocks_the_run(
    path: Path, declare: Declares, message: str
) -> None:
    @workflow
    async def wrong() -> None:
        add.handler(lambda: 1)
        declare()

    async with hosting(path) as client:
        handle = await client.start(wrong)
        found = await described(handle, lambda one: one.status == "blocked")
        assert found.reason is not None
        assert message in " ".join(found.reason.split()) or message in found.reason


async def test_a_result_that_does_not_fit_blocks_the_run_until_it_does(path: Path) -> None:
    fits = False

    @workflow
    async def odd() -> str:
        @add.handler
        def _() -> Any:
            return 1 if fits else "one"

        await close.receive()
        return "ended"

    async with hosting(path) as client:
        handle = await client.start(odd)
        sending = asyncio.ensure_future(handle.update(add, update_id="u"))
        found = await described(handle, lambda one: one.status == "blocked")
        with pytest.raises(WorkflowBlocked, match="the result of update") as blocked:
            await sending
        assert (blocked.value.workflow_id, blocked.value.update_id) == (handle.workflow_id, "u")
        assert blocked.value.run_id == found.run_id
        assert found.reason is not None
        assert found.reason.startswith("WorkflowFault: the result of update acceptance-add")
        assert found.reason.count("WorkflowFault") == 1
        fits = True
        await handle.resume()
        assert await handle.update(add, update_id="u") == 1


@pytest.mark.parametrize("from_outside", [False, True])
async def test_who_sends_an_update_to_a_blocked_run_hears_why_and_it_is_kept(
    path: Path, from_outside: bool
) -> None:
    broken = True

    @workflow
    async def stuck() -> str:
        @add.handler
        def _(number: int) -> int:
            return number

        if broken:
            asyncio.get_running_loop().run_in_executor(None, print)
        await close.receive()
        return "ended"

    async with Client.connect(path) as client:
        handle = await client.start(stuck, id="stuck")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(Worker(client))
            await described(handle, lambda one: one.status == "blocked")
            if from_outside:  # With no worker, and none to come.
                await stack.aclose()
            for send in (handle.update, handle.start_update):
                with pytest.raises(WorkflowBlocked, match="run_in_executor"):
                    await send(add, 7, update_id="u")
        broken = False
        async with Worker(client):
            await handle.resume()
            sent = await handle.get_update("u", add)
            assert await sent.result() == 7
            assert len(await of_kind(handle, "UpdateReceived")) == 1
            await handle.signal(close, True)
            assert await handle.result() == "ended"


async def checkpoints() -> int:
    await checkpoint()
    return 1


async def cancels_itself() -> int:
    task = asyncio.current_task()
    assert task is not None
    task.cancel("enough")
    await asyncio.sleep(0)
    return 1


async def is_cancelled_by_a_part() -> int:
    part = asyncio.get_running_loop().create_task(close.receive())
    part.cancel()
    await part
    return 1


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            checkpoints,
            r"belongs in the workflow's main task, and not in the handler",
        ),
        (cancels_itself, "failed: its handler was cancelled: enough. The workflow goes on"),
        (is_cancelled_by_a_part, "failed: its handler was cancelled. The workflow goes on"),
    ],
)
async def test_what_a_handler_must_not_do_is_told_to_its_sender_alone(
    path: Path, act: Callable[[], Awaitable[int]], message: str
) -> None:
    @workflow
    async def careful(rounds: int = 0) -> int:
        @add.handler
        async def _(number: int) -> int:
            return await act() if number < 0 else number

        async for last in close:
            if last:
                return rounds
            await checkpoint(rounds=rounds + 1)
            rounds += 1
        return -1

    async with hosting(path, cache_size=0) as client:
        handle = await client.start(careful)
        with pytest.raises(UpdateFailed, match=message) as failed:
            await handle.update(add, -1)
        assert type(failed.value.__cause__) is EverlongError
        await handle.signal(close, False)
        assert await handle.update(add, 5) == 5  # Replayed, and the same.
        await handle.signal(close, True)
        assert await handle.result() == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_a_handler_that_would_end_the_process_blocks_the_run(
    path: Path, error: type[BaseException]
) -> None:
    ends = True

    @workflow
    async def rude() -> str:
        @add.handler
        def _() -> int:
            if ends:
                raise error(3)
            return 1

        await close.receive()
        return "ended"

    async with hosting(path) as client:
        handle = await client.start(rude)
        sending = asyncio.ensure_future(handle.update(add, update_id="u"))
        with pytest.raises(WorkflowBlocked, match=f"{error.__name__} left the workflow's code"):
            await sending
        ends = False
        await handle.resume()
        assert await handle.update(add, update_id="u") == 1


async def test_a_result_that_is_too_large_fails_the_update_and_not_the_workflow(path: Path) -> None:
    @workflow
    async def wide() -> str:
        text = Update("acceptance-text", str)

        @text.handler
        def _(size: int) -> str:
            return "x" * size

        await close.receive()
        return "well"

    async with hosting(path) as client:
        handle = await client.start(wide)
        with pytest.raises(UpdateFailed, match="Store large data elsewhere") as failed:
            await handle.update("acceptance-text", 3_000_000)
        assert isinstance(failed.value.__cause__, PayloadTooLarge)
        assert len(await handle.update("acceptance-text", 3)) == 3
        await handle.signal(close, True)
        assert await handle.result() == "well"


@pytest.mark.once
async def test_a_refusal_waits_for_the_commit_of_the_state_that_it_saw(path: Path) -> None:
    """What a validator saw may never have been so: nobody hears of it before it is stored."""

    @workflow
    async def counts() -> int:
        seen = 0

        @add.handler
        def _() -> int:
            return seen

        @add.validator
        def _() -> None:
            if seen:
                raise Refused(seen)

        await close.receive()
        seen = 1
        await close.receive()
        return seen

    async with hosting(path) as client:
        handle = await client.start(counts)
        assert await handle.update(add) == 0
        gate = Gate(client)
        gate.shut()
        signalling = asyncio.ensure_future(handle.signal(close, True))
        await gate.arrived.wait()
        sending = asyncio.ensure_future(handle.update(add))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not sending.done()
        gate.open()
        await signalling
        with pytest.raises(UpdateRejected):
            await sending
        assert len(await of_kind(handle, "UpdateReceived")) == 1


async def test_outside_a_workflow_a_handler_makes_no_sense() -> None:
    with pytest.raises(EverlongError, match=r"handle\.update"):
        add.handler(lambda: 1)
    with pytest.raises(DefinitionError, match="needs a name"):
        Update("")
