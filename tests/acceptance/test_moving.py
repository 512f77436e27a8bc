"""Executions that go from one store to another and on there, through the public API."""

import asyncio
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    ActivityInfo,
    ActivityNotOpen,
    Client,
    InvalidArguments,
    MoveRefused,
    MoveStep,
    Output,
    Query,
    Signal,
    Update,
    Worker,
    WorkflowMoved,
    WorkflowNotFound,
    WorkflowPool,
    activity,
    approval,
    complete_later,
    continue_as_new,
    get_handle,
    info,
    publish,
    side_effect,
    workflow,
)
from everlong.codec import Encrypt, new_key
from everlong_engine import name_of_update
from tests.support.command_line import everlong
from tests.support.hosting import described, hosting, kinds, until

go = Signal("go_there", str)
ask = Update("ask_there", str)
how = Query("how_there", str)
told = Output("told_there", str)
STEPS: list[MoveStep] = ["held", "copied", "left", "arrived", "settled"]


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there.db"


async def test_what_moves_goes_on_where_it_stood_and_nothing_of_it_is_lost(
    path: Path, there: Path
) -> None:
    did: list[str] = []

    @activity
    async def note(what: str) -> str:
        did.append(what)
        return what * 20_000  # Spills.

    @workflow
    async def flow() -> list[object]:
        @ask.handler
        async def _(word: str) -> str:  # pyright: ignore[reportUnusedFunction]
            return f"{word}!"

        seen = await side_effect(info().workflow_id.upper)
        first = await note("a-b-")
        await publish(told, first[:4])
        heard = [await go.receive(), await go.receive()]
        verdict = await approval("Ship it?")
        await publish(told, "end")
        return [seen, len(first), heard, verdict.approved]

    steps: list[str] = []
    async with Client.connect(there) as other:
        async with hosting(path) as client:
            handle = await client.start(flow, id="m-1", request_id="only-once")
            assert await handle.update(ask, "why", update_id="u-1") == "why!"
            await handle.signal(go, "one", request_id="r-1")
            await described(handle, lambda one: one.signals == ("go_there",))
            report = await client.move("m-1", other, on_step=steps.append)
            assert (report.family, report.place) == (("m-1",), str(there))
            assert not report.was_there
            assert steps == STEPS
            assert (await client.move("m-1", other)).was_there, "and not a second time"
            assert (await handle.describe()).status == "moved"
            assert not await client.verify()
            assert not await other.verify()
        moved = other.get_handle("m-1", flow)
        assert (await moved.describe()).status == "running"
        async with Worker(other):
            # What senders were told is known there.
            await moved.signal(go, "one", request_id="r-1")
            assert await moved.update(ask, "why", update_id="u-1") == "why!"
            again = await other.start(flow, id="m-1", request_id="only-once")
            assert again.run_id == handle.run_id
            await moved.signal(go, "two")
            (open_one,) = (await until(lambda: _approvals(other))).items
            await other.approve(open_one.id, by="ann")
            assert await moved.result() == ["M-1", 80_000, ["one", "two"], True]
            assert [one async for one in moved.subscribe(told)] == ["a-b-", "end"]
        assert did == ["a-b-"]
        assert not await other.verify()


async def test_who_waits_for_a_turn_waits_for_one_there_and_gives_its_place_back_here(
    path: Path, there: Path
) -> None:
    @workflow(pool=WorkflowPool("of movers", concurrency=1))
    async def flow() -> str:
        return await go.receive()

    async def under_way(client: Client) -> list[tuple[int, int]]:
        return [(one.waiting, one.running) for one in await client.pools()]

    async with Client.connect(there) as other:
        async with hosting(path) as client:
            for name in ("first", "second", "third"):
                await client.start(flow, id=name)
            await described(client.get_handle("third"), lambda one: one.waits_for_turn)
            await client.move("second", other)
            assert await under_way(client) == [(1, 1)]
            await client.move("first", other)
            await until(lambda: _is_alone(client))
            assert await client.verify() == []
        async with Worker(other):  # The first had begun, and does not ask again.
            await until(lambda: _is_alone(other))
            for name in ("first", "second"):
                await other.get_handle(name).signal(go, name)
                assert await other.get_handle(name, flow).result() == name
            assert await other.verify() == []


async def _is_alone(client: Client) -> bool:
    return [(one.waiting, one.running) for one in await client.pools()] == [(0, 1)]


async def _approvals(client: Client) -> Any:
    page = await client.approvals()
    return page if page.items else None


async def test_who_speaks_to_it_where_it_was_is_told_where_it_is(path: Path, there: Path) -> None:
    @workflow
    async def flow() -> str:
        @ask.handler
        async def _(word: str) -> str:  # pyright: ignore[reportUnusedFunction]
            return f"{word}!"

        return await go.receive()

    async with Client.connect(there) as other, hosting(path) as client:
        handle = await client.start(flow, id="m-2")
        waits = asyncio.create_task(handle.result())
        items = handle.subscribe("told")
        listens: asyncio.Task[Any] = asyncio.ensure_future(anext(items))
        await described(handle, lambda one: one.history_events > 0)
        await handle.pause()
        update = asyncio.create_task(handle.update(ask, "x", update_id="u-1"))
        await until(lambda: _knows_update(client, "m-2", "u-1"))
        await client.move("m-2", other)
        calls = [
            handle.signal(go, "x"),
            handle.cancel(),
            handle.terminate(),
            handle.pause(),
            handle.resume(),
            handle.query("how"),
            handle.update("never"),
            handle.result(),
            handle.reset("start"),
            client.start(flow, id="m-2"),
            client.start(flow, id="m-2", if_open="use"),
            client.start(flow, id="m-2", if_open="terminate", request_id="new"),
            client.export("m-2"),
            waits,
            update,
            listens,
        ]
        for call in calls:
            with pytest.raises(WorkflowMoved) as raised:
                await call
            assert raised.value.place == str(there)
            assert str(there) in str(raised.value)
        assert (await handle.describe()).reason == str(there)
        assert [one.status for one in (await client.list(filter="status = 'moved'")).items] == [
            "moved"
        ]
        async with Worker(other):
            await other.get_handle("m-2").resume()
            assert await other.get_handle("m-2").update(ask, "x", update_id="u-1") == "x!"
            await other.get_handle("m-2").signal(go, "there")
            assert await other.get_handle("m-2").result() == "there"


async def _knows_update(client: Client, name: str, update_id: str) -> bool:
    engine = client.engine
    found = await engine.store.told(engine.target("default", name), name_of_update(update_id))
    return found is not None and found[1] is not None


async def test_the_family_goes_together_and_a_child_not_without_its_parent(
    path: Path, there: Path
) -> None:
    @workflow
    async def grandchild() -> str:
        return await go.receive()

    @workflow
    async def child() -> str:
        handle = await grandchild.options(id="grand").start()
        return await go.receive() + await handle.result()

    @workflow
    async def parent() -> str:
        handle = await child.options(id="kid").start()
        return await go.receive() + await handle.result()

    async with Client.connect(there) as other:
        async with hosting(path) as client:
            await client.start(parent, id="top")
            await until(lambda: _is_known(client, "grand"))
            with pytest.raises(MoveRefused, match="'top' waits for 'kid'") as refused:
                await client.move("kid", other)
            assert refused.value.waiter == "top"
            assert (await client.move("top", other, dry_run=True)).family == ("top", "kid", "grand")
            with pytest.raises(WorkflowNotFound):
                await other.get_handle("top").describe()
            assert (await client.move("top", other)).family == ("top", "kid", "grand")
            for name in ("top", "kid", "grand"):
                with pytest.raises(WorkflowMoved):
                    await client.get_handle(name).signal(go, "x")
            assert not await client.verify()
        async with Worker(other):
            for name in ("grand", "kid", "top"):
                await other.get_handle(name).signal(go, name)
            assert await other.get_handle("top").result() == "topkidgrand"
        assert not await other.verify()


async def _is_known(client: Client, name: str) -> bool:
    return bool((await client.list(workflow_id=name)).items)


async def _has_heard(client: Client, name: str, words: int) -> bool:
    return (await kinds(client.get_handle(name))).count("SignalReceived") == words


async def test_it_goes_there_and_back_and_there_again(path: Path, there: Path) -> None:
    @workflow
    async def flow() -> list[str]:
        return [await go.receive() for _ in range(4)]

    async with Client.connect(there) as other, Client.connect(path) as client:
        await client.start(flow, id="tour")
        places = [(client, other), (other, client)] * 2
        for number, (here, next_one) in enumerate(places):
            await here.get_handle("tour").signal(go, f"word {number}")
            async with Worker(here):
                await until(partial(_has_heard, here, "tour", number + 1))
            await here.move("tour", next_one)
            with pytest.raises(WorkflowMoved):
                await here.get_handle("tour").signal(go, "too late")
            assert not await here.verify()
            assert not await next_one.verify()
        async with Worker(client):
            result = await client.get_handle("tour").result()
        assert result == [f"word {number}" for number in range(4)]


async def test_what_has_ended_can_be_moved_as_well(path: Path, there: Path) -> None:
    @workflow
    async def flow(number: int = 0) -> int:
        if number == 0:
            continue_as_new(number=3)
        return number

    @workflow
    async def failing() -> None:
        raise ValueError("no")

    async with Client.connect(there) as other, hosting(path) as client:
        await client.run(flow, id="done")
        failed = await client.start(failing, id="failed")
        await described(failed, lambda one: one.status == "failed")
        before = await kinds(client.get_handle("done"))
        for name in ("done", "failed"):
            await client.move(name, other)
            with pytest.raises(WorkflowMoved):
                await client.get_handle(name).result()
        assert await other.get_handle("done").result() == 3
        assert await kinds(other.get_handle("done")) == before
        assert (await other.get_handle("failed").describe()).status == "failed"
        assert len((await other.list(workflow_id="done")).items) == 2
        await other.move("done", client)
        assert await client.get_handle("done").result() == 3
        with pytest.raises(WorkflowMoved):
            await other.get_handle("done").result()
        assert not await client.verify()
        assert not await other.verify()


async def test_who_held_it_holds_it_there_and_its_version_and_its_beginning_go_with_it(
    path: Path, there: Path
) -> None:
    @workflow
    async def flow() -> str:
        return await go.receive()

    async with Client.connect(there) as other, Client.connect(path) as client:
        await (await client.start(flow, id="held")).pause(reason="asked to", by="ann")
        await client.start(flow, id="pinned")
        await client.get_handle("pinned").pin("old")
        await client.start(flow, id="later", start_delay=timedelta(hours=1))
        for name in ("held", "pinned", "later"):
            await client.move(name, other)
        held = await other.get_handle("held").describe()
        assert held.status == "paused"
        assert held.paused is not None
        assert (held.paused.by, held.paused.reason) == ("ann", "asked to")
        assert (await other.get_handle("pinned").describe()).version == "old"
        assert (await other.get_handle("pinned").describe()).status == "running"
        async with Worker(other):
            later = await described(other.get_handle("later"), lambda one: one.begins_at)
            assert later.history_events == 0
            assert (await other.get_handle("held").describe()).status == "paused"
            await other.get_handle("held").resume()
            await other.get_handle("held").signal(go, "on")
            assert await other.get_handle("held").result() == "on"
        assert not await other.verify()


async def test_somebody_who_pauses_it_meanwhile_is_heard(path: Path, there: Path) -> None:
    """The pause of the move gives way to that of a person, and goes with it."""
    ends = asyncio.Event()

    @activity
    async def long() -> str:
        await ends.wait()
        return "done"

    @workflow
    async def flow() -> str:
        return await long()

    async with Client.connect(there) as other, hosting(path) as client:
        handle = await client.start(flow, id="busy")
        await described(handle, lambda one: one.activities)
        moving = asyncio.create_task(client.move("busy", other))
        held = await described(handle, lambda one: one.status == "paused")
        assert held.paused is not None
        assert (held.paused.by, held.paused.reason) == (
            "everlong move",
            f"it is being moved to {there}",
        )
        await handle.pause(by="ann", reason="wait")
        ends.set()
        await moving
        found = await other.get_handle("busy").describe()
        assert found.status == "paused"
        assert found.paused is not None
        assert (found.paused.by, found.paused.reason) == ("ann", "wait")
        with pytest.raises(InvalidArguments, match="being moved"):
            await other.get_handle("busy").pause(by="everlong move")


async def test_a_move_is_called_off_where_the_attempts_do_not_end(path: Path, there: Path) -> None:
    ends = asyncio.Event()

    @activity
    async def long() -> str:
        await ends.wait()
        return "done"

    @workflow
    async def flow() -> str:
        return await long()

    async with Client.connect(there) as other, hosting(path) as client:
        handle = await client.start(flow, id="busy")
        await described(handle, lambda one: one.activities)
        with pytest.raises(MoveRefused, match="attempts of it at work after 0 s"):
            await client.move("busy", other, wait=0)
        assert (await handle.describe()).status == "running"
        moving = asyncio.create_task(client.move("busy", other))
        await described(handle, lambda one: one.status == "paused")
        ends.set()
        assert (await moving).family == ("busy",)
        async with Worker(other):
            assert await other.get_handle("busy").result() == "done"


async def test_resuming_it_calls_the_move_off(path: Path, there: Path) -> None:
    ends = asyncio.Event()

    @activity
    async def long() -> str:
        await ends.wait()
        return "done"

    @workflow
    async def flow() -> str:
        return await long()

    async with Client.connect(there) as other, hosting(path) as client:
        handle = await client.start(flow, id="busy")
        await described(handle, lambda one: one.activities)
        moving = asyncio.create_task(client.move("busy", other))
        await described(handle, lambda one: one.status == "paused")
        await handle.resume()
        with pytest.raises(MoveRefused, match="resumed"):
            await moving
        ends.set()
        assert await handle.result() == "done"
        with pytest.raises(WorkflowNotFound):
            await other.get_handle("busy").describe()


async def test_a_store_that_does_not_take_it_in_leaves_it_where_it_is(
    path: Path, there: Path, tmp_path: Path
) -> None:
    @workflow
    async def flow() -> str:
        return await go.receive()

    async with Client.connect(there) as other, hosting(path) as client:
        handle = await client.start(flow, id="same")
        await other.start(flow, id="same")
        with pytest.raises(MoveRefused, match="does not take it in"):
            await client.move("same", other)
        await handle.signal(go, "here")
        assert await handle.result() == "here"
        # Another one takes the id in the last moment, when it has left.
        handle = await client.start(flow, id="race")

        def on_step(step: MoveStep) -> None:
            if step == "left":
                done = everlong(
                    "start", "flow", "--id", "race", "--db", str(there), folder=tmp_path
                )
                assert done.code == 0, done.err

        with pytest.raises(MoveRefused, match="does not take it in"):
            await client.move("race", other, on_step=on_step)
        await handle.signal(go, "stayed")
        assert await handle.result() == "stayed"
        await other.get_handle("race").terminate()
        assert (await client.move("race", other)).family == ("race",)
        ends = [one.status for one in (await other.list(workflow_id="race")).items]
        assert ends == ["terminated", "completed"]
        assert not await client.verify()
        assert not await other.verify()


async def test_a_token_is_good_where_its_execution_is(path: Path, there: Path) -> None:
    tokens: list[str] = []

    @activity
    async def outside() -> str:
        tokens.append(info(ActivityInfo).token)
        complete_later()

    @workflow
    async def flow() -> str:
        return await outside()

    async with Client.connect(there) as other, hosting(path) as client:
        handle = await client.start(flow, id="token")
        await described(handle, lambda one: [a for a in one.activities if a.state == "elsewhere"])
        await client.move("token", other)
        with pytest.raises(ActivityNotOpen, match="has moved to"):
            await client.complete(tokens[0], "here")
        await other.complete(tokens[0], "there")
        async with Worker(other):
            assert await other.get_handle("token").result() == "there"
        assert len(tokens) == 1


async def test_what_is_encrypted_opens_there_with_the_same_keys(path: Path, there: Path) -> None:
    @workflow
    async def flow(secret: str) -> str:
        return secret + await go.receive()

    codecs = [Encrypt({"k1": new_key()})]
    async with Client.connect(there, codecs=codecs) as other:
        async with Client.connect(path, codecs=codecs) as client:
            handle = await client.start(flow, "s-", id="sealed")
            await handle.signal(go, "one")
            await handle.pause(reason="a secret reason", by="ann")
            await client.move("sealed", other)
        found = await other.get_handle("sealed").describe()
        assert found.paused is not None
        assert found.paused.reason == "a secret reason"
        await other.get_handle("sealed").resume()
        async with Worker(other):
            assert await other.get_handle("sealed").result() == "s-one"


async def test_others_here_hear_that_it_has_moved(path: Path, there: Path) -> None:
    heard: list[str] = []

    @workflow
    async def flow() -> str:
        return await go.receive()

    @workflow
    async def speaker() -> None:
        await go.receive()
        try:
            await get_handle("gone").signal(go, "x")
        except Exception as error:
            heard.append(str(error))

    async with Client.connect(there) as other, hosting(path) as client:
        await client.start(flow, id="gone")
        handle = await client.start(speaker, id="speaker")
        await client.move("gone", other)
        await handle.signal(go, "now")
        await handle.result()
    assert len(heard) == 1
    assert "moved" in heard[0]


async def test_what_cannot_be_moved_is_refused_with_the_reason(path: Path, there: Path) -> None:
    async with Client.connect(there) as other, hosting(path) as client:
        with pytest.raises(WorkflowNotFound):
            await client.move("nobody", other)
        with pytest.raises(ValueError, match="name another one"):
            await client.move("nobody", client)
        async with Client.connect(there, namespace="else") as elsewhere:
            with pytest.raises(ValueError, match="keeps its namespace"):
                await client.move("nobody", elsewhere)
        await client.start("nobodys", id="bulked")
        job = await client.bulk("terminate", everything=True, id="job")
        with pytest.raises(MoveRefused, match="a job on the executions"):
            await client.move("job", other)
        await job.result()
