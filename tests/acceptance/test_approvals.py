"""Approvals: one answer, the first; never lost, never two, gone with their run."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    AlreadyAnswered,
    ApprovalNotFound,
    Client,
    EverlongError,
    InvalidArguments,
    NotAnApprover,
    OpenApproval,
    Signal,
    Verdict,
    Worker,
    WorkflowCancelled,
    WorkflowHandle,
    WorkflowTimedOut,
    activity,
    approval,
    checkpoint,
    continue_as_new,
    workflow,
)
from everlong_engine import limits
from tests.support.gated_store import Gate
from tests.support.hosting import described, hosting, kinds, until
from tests.support.other_process import asks_elsewhere, other_process

word = Signal("approvals-word", str)


async def open_ones(client: Client, count: int = 1) -> list[OpenApproval]:
    async def look() -> tuple[list[OpenApproval]] | None:
        items = (await client.approvals()).items
        return (items,) if len(items) == count else None

    return (await until(look))[0]


async def the_open_one(client: Client) -> OpenApproval:
    (one,) = await open_ones(client)
    return one


async def gone(client: Client) -> bool:
    return not (await client.approvals()).items


async def test_it_is_listed_answered_and_told(path: Path) -> None:
    @workflow
    async def flow() -> list[Any]:
        verdict = await approval(
            "Refund order 17?", data={"amount": 5}, approvers=["ann", "bob"], timeout=3600
        )
        assert isinstance(verdict, Verdict)
        return [verdict.approved, verdict.by, verdict.comment, verdict.at]

    async with hosting(path) as client:
        began = datetime.now(UTC) - timedelta(seconds=1)
        handle = await client.start(flow, id="refund")
        one = await the_open_one(client)
        assert (one.title, one.data, one.approvers) == (
            "Refund order 17?",
            {"amount": 5},
            ("ann", "bob"),
        )
        assert one.workflow_id == "refund"
        assert one.due_at is not None
        assert one.due_at - one.opened_at == timedelta(hours=1)
        with pytest.raises(NotAnApprover, match=r"'eve' is not among .*: ann, bob\. "):
            await client.approve(one.id, by="eve")
        await client.approve(one.id, by="ann", comment="fine")
        approved, by, comment, at = await handle.result()
        assert (approved, by, comment) == (True, "ann", "fine")
        assert datetime.fromisoformat(str(at)) > began
        assert await gone(client)
        assert await client.verify() == []


async def test_a_description_shows_what_is_asked_until_somebody_has_answered(path: Path) -> None:
    @workflow
    async def flow() -> list[bool]:
        asked = [approval(f"Part {part}?", data=part, approvers=["ann"]) for part in (1, 2)]
        both = await asyncio.gather(*asked)
        return [one.approved for one in both]

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow, id="two")
            other = await client.start(flow, id="other")
            first, second, *_ = await open_ones(client, 4)
            assert (await handle.describe()).approvals == (first, second)
            assert [one.data for one in (first, second)] == [1, 2]
        # Without a worker the answer waits in the inbox, and nobody else can give one.
        await client.approve(first.id, by="ann")
        assert (await handle.describe()).approvals == (second,)
        assert len((await other.describe()).approvals) == 2
        await handle.terminate()
        assert (await handle.describe()).approvals == ()


async def test_the_second_answer_hears_who_was_first(path: Path) -> None:
    @workflow
    async def flow() -> bool:
        return (await approval("Ship it?")).approved

    async with hosting(path) as client:
        handle = await client.start(flow)
        one = await the_open_one(client)
        await client.reject(one.id, by="ann", comment="too early", request_id="r1")
        assert await handle.result() is False
        await client.reject(one.id, by="ann", comment="too early", request_id="r1")
        for request_id in (None, "r2"):
            with pytest.raises(AlreadyAnswered, match="rejected by 'ann' before") as caught:
                await client.approve(one.id, by="bob", request_id=request_id)
            assert (caught.value.by, caught.value.approved) == ("ann", False)
            assert caught.value.comment == "too early"
            assert caught.value.at is not None


async def test_of_five_clients_at_once_one_is_first(path: Path) -> None:
    @workflow
    async def flow() -> str:
        return (await approval("Ship it?")).by

    names = ["ann", "bob", "cat", "dan", "eve"]

    async def answer(client: Client, id: str, name: str) -> str | AlreadyAnswered:
        try:
            await client.approve(id, by=name)
        except AlreadyAnswered as error:
            return error
        return name

    async with hosting(path) as client:
        for _ in range(5):
            handle = await client.start(flow)
            one = await the_open_one(client)
            clients = [Client.connect(path) for _ in names]
            for each in clients:
                await each.__aenter__()
            told = await asyncio.gather(*map(answer, clients, [one.id] * 5, names))
            (first,) = [name for name in told if isinstance(name, str)]
            assert [error.by for error in told if isinstance(error, AlreadyAnswered)] == [first] * 4
            assert await handle.result() == first
            for each in clients:
                await each.__aexit__(None, None, None)


async def test_it_disappears_with_its_timeout(path: Path) -> None:
    @workflow
    async def flow() -> str:
        try:
            await approval("Ship it?", timeout=0.05)
        except TimeoutError:
            await word.receive()
            return "nobody answered"
        return "answered"

    async with hosting(path) as client:
        handle = await client.start(flow)
        one = await the_open_one(client)
        await open_ones(client, 0)
        with pytest.raises(ApprovalNotFound, match="timed out"):
            await client.approve(one.id, by="ann")
        assert (await described(handle, lambda it: it.timers == ())).status == "running"
        await handle.signal(word, "go on")
        assert await handle.result() == "nobody answered"
        assert (await kinds(handle)).count("ApprovalWithdrawn") == 1


async def test_an_accepted_answer_wins_against_a_timer_that_is_due(path: Path) -> None:
    """The timer is fed, and what it leads to is on its way, when the answer is accepted."""

    @workflow
    async def flow() -> str:
        try:
            return (await approval("Ship it?", timeout=0.2)).by
        except TimeoutError:
            await asyncio.sleep(0.01)  # An end of the run would wait for the mail anyway.
            return "nobody"

    async with hosting(path, workflows=[flow]) as client:
        handle = await client.start(flow)
        one = await the_open_one(client)
        gate = Gate(client)
        gate.shut()
        await gate.arrived.wait()  # The withdrawal waits before the store.
        async with other_process(path) as other:
            await other.do("approve", id=one.id, by="ann")
        gate.open()
        assert await handle.result() == "ann"
        assert await client.verify() == []
        assert "ApprovalWithdrawn" not in await kinds(handle)


async def test_an_accepted_answer_wins_against_other_mail_before_it(path: Path) -> None:
    @workflow
    async def flow() -> str:
        asked = asyncio.ensure_future(approval("Ship it?"))
        told = asyncio.ensure_future(word.receive())
        await asyncio.wait([asked, told], return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            asked.cancel()
            return "withdrawn"
        return f"{asked.result().by} {await told}"

    async with Client.connect(path) as client:
        async with Worker(client, workflows=[flow]):
            handle = await client.start(flow)
            one = await the_open_one(client)
        await handle.signal(word, "stop")
        await client.approve(one.id, by="ann")
        async with Worker(client, workflows=[flow]):
            assert await handle.result() == "ann stop"


@pytest.mark.parametrize("ends", [True, False])
async def test_the_first_of_two_answers_decides_about_the_second(path: Path, ends: bool) -> None:
    @workflow(name="either_of_two")
    async def flow() -> str:
        asked = [asyncio.ensure_future(approval(title)) for title in ("legal", "finance")]
        done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        if not ends:
            await word.receive()
        (first,) = done
        return str(first.result().by)

    async with Client.connect(path) as client:
        async with Worker(client, workflows=[flow]):
            handle = await client.start(flow)
            both = {one.title: one for one in await open_ones(client, 2)}
        await client.approve(both["finance"].id, by="fay")
        await client.approve(both["legal"].id, by="lee")
        async with Worker(client, workflows=[flow]):
            if not ends:
                await handle.signal(word, "go on")
            assert await handle.result() == "fay"
        assert await client.verify() == []


async def test_a_cancellation_before_an_accepted_answer_comes_behind_it(path: Path) -> None:
    answers: list[str] = []

    @activity
    async def note(by: str) -> None:
        answers.append(by)

    @workflow
    async def flow() -> None:
        verdict = await approval("Ship it?")
        await asyncio.shield(note(verdict.by))
        await word.receive()

    async with Client.connect(path) as client:
        async with Worker(client, workflows=[flow]):
            handle = await client.start(flow)
            one = await the_open_one(client)
        await handle.cancel("enough")
        await client.approve(one.id, by="ann")
        async with Worker(client, workflows=[flow]):
            with pytest.raises(WorkflowCancelled):
                await handle.result()
        assert "ApprovalAnswered" in await kinds(handle)
        assert await client.verify() == []


@pytest.mark.parametrize("how", ["complete", "fail", "cancel", "terminate", "time out", "anew"])
async def test_it_disappears_with_its_run(path: Path, how: str) -> None:
    @workflow
    async def flow(anew: bool = False) -> None:
        asking = asyncio.ensure_future(approval("Ship it?"))
        await asyncio.sleep(0)
        if anew:
            asking.cancel()
            await word.receive()
        match await word.receive():
            case "fail":
                raise ValueError("no")
            case "anew":
                continue_as_new(anew=True)
            case _:
                return

    async with hosting(path) as client:
        limit = 0.2 if how == "time out" else None
        handle: WorkflowHandle[Any] = await client.start(flow, run_timeout=limit, id="one")
        one = await the_open_one(client)
        if how == "cancel":
            await handle.cancel()
        elif how == "terminate":
            await handle.terminate()
        elif how == "time out":
            with pytest.raises(WorkflowTimedOut):
                await handle.result()
        else:
            await handle.signal(word, how)
        await open_ones(client, 0)
        with pytest.raises(ApprovalNotFound):
            await client.approve(one.id, by="ann")
        assert await client.verify() == []


@pytest.mark.parametrize("cache_size", [0, 100])
async def test_an_answer_is_fed_once_wherever_the_run_is(path: Path, cache_size: int) -> None:
    @workflow
    async def flow() -> list[str]:
        return [(await approval(f"Step {number}?", data=number)).by for number in range(3)]

    async with hosting(path, cache_size=cache_size) as client:
        handle = await client.start(flow)
        for name in ("ann", "bob", "cat"):
            await client.approve((await the_open_one(client)).id, by=name)
        assert await handle.result() == ["ann", "bob", "cat"]


async def test_an_acknowledged_answer_survives_a_kill(path: Path) -> None:
    async with Client.connect(path) as client:
        handle: WorkflowHandle[str] = await client.start(asks_elsewhere, id="one")
        async with other_process(path) as other:
            await other.do("serve")
            one = await the_open_one(client)
            other.kill()
            await other.ended()
        async with other_process(path) as answerer:
            await answerer.do("approve", id=one.id, by="ann")
            answerer.kill()
            await answerer.ended()
        with pytest.raises(AlreadyAnswered, match="ann"):
            await client.approve(one.id, by="bob")
        async with other_process(path) as other:
            await other.do("serve")
            assert await handle.result() == "ann"
        assert await client.verify() == []


async def test_an_answer_to_an_earlier_run_is_not_taken_for_this_ones(path: Path) -> None:
    @workflow
    async def flow(hop: int = 0) -> str:
        asking = asyncio.ensure_future(approval(f"Hop {hop}?"))
        if not hop:
            await word.receive()
            continue_as_new(hop=1)
        return (await asking).by

    async with hosting(path) as client:
        handle = await client.start(flow)
        first = await the_open_one(client)
        assert first.title == "Hop 0?"
        await handle.signal(word, "on")

        async def second() -> OpenApproval | None:
            items = (await client.approvals()).items
            return items[0] if items and items[0].title == "Hop 1?" else None

        one = await until(second)
        with pytest.raises(ApprovalNotFound):
            await client.approve(first.id, by="ann")
        await client.approve(one.id, by="bob")
        assert await handle.result() == "bob"


async def test_a_checkpoint_waits_for_open_approvals(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHECKPOINT_EVENTS", 1)

    @workflow
    async def flow(hop: int = 0) -> str:
        if hop:
            return "anew"
        asking = asyncio.ensure_future(approval("Ship it?"))
        await word.receive()
        await checkpoint(hop=1)
        return (await asking).by

    async with hosting(path) as client:
        handle = await client.start(flow)
        one = await the_open_one(client)
        await handle.signal(word, "on")
        await client.approve(one.id, by="ann")
        assert await handle.result() == "ann"


async def test_what_is_asked_and_taken_back_at_once_leaves_no_trace(path: Path) -> None:
    @workflow
    async def flow() -> str:
        asking = asyncio.ensure_future(approval("Ship it?"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        return await word.receive()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.signal(word, "on")
        assert await handle.result() == "on"
        assert not [kind for kind in await kinds(handle) if kind.startswith("Approval")]


async def test_they_are_listed_by_the_page_and_by_workflow(path: Path) -> None:
    @workflow
    async def flow(count: int) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(ask(number))

    async def ask(number: int) -> None:
        await approval(f"{number}?")

    async with hosting(path) as client:
        await client.start(flow, 3, id="a")
        await client.start(flow, 2, id="b")
        await open_ones(client, 5)
        first = await client.approvals(limit=2)
        assert [one.title for one in first.items] == ["0?", "1?"]
        assert first.next is not None
        rest = await client.approvals(after=first.next)
        assert [one.workflow_id for one in rest.items] == ["a", "b", "b"]
        assert rest.next is None
        assert len((await client.approvals(workflow_id="b")).items) == 2
        async with Client.connect(path, namespace="other") as other:
            assert await gone(other)
            with pytest.raises(ApprovalNotFound):
                await other.approve(first.items[0].id, by="ann")


async def test_wrong_uses_are_told(path: Path) -> None:
    @workflow
    async def flow(which: int) -> str:
        calls: list[Any] = [
            lambda: approval(""),
            lambda: approval("Ship it?", approvers="ann"),
            lambda: approval("Ship it?", approvers=[]),
            lambda: approval("Ship it?", data=object()),
        ]
        try:
            await calls[which]()
        except EverlongError as error:
            return type(error).__name__
        return "asked"

    with pytest.raises(EverlongError, match="inside a running workflow"):
        await approval("Ship it?")
    async with hosting(path) as client:
        found = [await client.run(flow, which) for which in range(4)]
        assert found == [*["InvalidArguments"] * 3, "NotSerializable"]
        for id in ("", "x.1", "01a1ff9b-6fd6-7000-a2c7-3471c410ad94.1", f"{'9' * 40}.{'9' * 40}"):
            with pytest.raises(ApprovalNotFound):
                await client.approve(id, by="ann")
        with pytest.raises(InvalidArguments, match="by says"):
            await client.approve("x.1", by="")
        with pytest.raises(InvalidArguments, match="comment is a text"):
            await client.approve("x.1", by="ann", comment="x" * 5000)
        with pytest.raises(ValueError, match="limit=0"):
            await client.approvals(limit=0)
        with pytest.raises(ValueError, match="no cursor"):
            await client.approvals(after="x")
