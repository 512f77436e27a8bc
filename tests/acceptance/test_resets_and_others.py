"""Resets of runs that have to do with others: children, messages, waits; and encrypted ones."""

import asyncio
from pathlib import Path

import pytest

from everlong import (
    Client,
    MissingKey,
    Signal,
    Worker,
    WorkflowTerminated,
    activity,
    get_handle,
    workflow,
)
from everlong.codec import Encrypt
from tests.support.hosting import described, hosting

say = Signal("say", str)


async def test_a_child_that_is_open_at_the_point_goes_on_and_is_waited_for(path: Path) -> None:
    @workflow
    async def patient_child() -> str:
        return await say.receive()

    @workflow
    async def parent_of_one() -> str:
        handle = await patient_child.start()
        return await handle.result()

    async with hosting(path) as client:
        parent = await client.start(parent_of_one, id="parent")
        found = await described(parent, lambda one: one.history_events == 3)
        child = client.get_handle(found.children[0].workflow_id)
        child_run = (await child.describe()).run_id
        for point in (3, 2, 3):
            await parent.reset(point)
            await described(parent, lambda one: one.history_events == 3)
        await child.signal(say, "well")
        assert await parent.result() == "well"
        await parent.reset(3)
        assert await parent.result() == "well", "how it ended is known"
        assert (await child.describe()).run_id == child_run
        fork = await parent.fork("another", 2)
        assert await fork.result() == "well"
        assert not await client.verify()


@pytest.mark.parametrize("policy", ["terminate", "cancel", "abandon"])
async def test_a_child_begun_behind_the_point_has_lost_its_parent(path: Path, policy: str) -> None:
    @workflow
    async def late_child() -> str:
        return await say.receive()

    @workflow
    async def parent_later() -> str:
        await say.receive()
        options = late_child.options(on_parent_close=policy)  # type: ignore[arg-type]
        return await options()

    async with hosting(path) as client:
        parent = await client.start(parent_later, id="parent")
        await parent.signal(say, "go")
        found = await described(parent, lambda one: one.children)
        child = client.get_handle(found.children[0].workflow_id)
        await parent.reset(1, reapply=False)
        ends = {"terminate": "terminated", "cancel": "cancelled", "abandon": "running"}
        await described(child, lambda one: one.status == ends[policy])
        await parent.signal(say, "again")
        found = await described(parent, lambda one: one.children)
        other = client.get_handle(found.children[0].workflow_id)
        await described(other, lambda one: one.status == "running")
        await other.signal(say, "well")
        assert await parent.result() == "well"
        if policy == "abandon":
            assert (await child.describe()).status == "running"
            await child.terminate()
        assert not await client.verify()


async def test_a_child_that_ended_with_its_parent_is_told_as_that(path: Path) -> None:
    @workflow
    async def doomed_child() -> str:
        return await say.receive()

    @workflow
    async def parent_of_doomed() -> str:
        handle = await doomed_child.start()
        try:
            return await handle.result()
        except WorkflowTerminated as error:
            return f"it ended: {error.reason}"

    async with hosting(path) as client:
        parent = await client.start(parent_of_doomed, id="parent")
        await described(parent, lambda one: one.history_events == 3)
        await parent.terminate()
        await parent.reset(3)
        assert "parent" in await parent.result()
        again = await parent.reset("start")
        found = await described(again, lambda one: one.children)
        await client.get_handle(found.children[0].workflow_id).signal(say, "well")
        assert await again.result() == "well"
        assert not await client.verify()


async def test_the_end_of_a_cancelled_child_is_waited_for_also_by_the_run_behind_a_reset(
    path: Path,
) -> None:
    @workflow
    async def slow_to_leave() -> None:
        try:
            await say.receive()
        finally:
            await say.receive()

    @workflow
    async def patient_parent() -> str:
        try:
            async with asyncio.timeout(0.01):
                await slow_to_leave.options(on_cancel="wait")()
        except TimeoutError:
            return "it has left"
        return "it was not asked to"

    async with hosting(path) as client:
        parent = await client.start(patient_parent, id="parent")
        found = await described(parent, lambda one: one.history_events == 5)
        child = client.get_handle(found.children[0].workflow_id)
        again = await parent.reset(5)
        fork = await parent.fork("another", 5)
        await described(child, lambda one: one.history_events == 2)
        await child.signal(say, "now")
        assert await again.result() == "it has left"
        assert await fork.result() == "it has left"
        assert not await client.verify()


async def test_a_run_that_is_in_hand_before_its_reset_is_answered_goes_on(path: Path) -> None:
    @workflow
    async def in_hand() -> str:
        return await say.receive()

    async with hosting(path) as client:
        handle = await client.start(in_hand, id="one")
        await described(handle, lambda one: one.history_events == 1)
        before = await client.engine.store.latest(client.engine.target("default", "one"))
        assert before is not None
        again = await handle.reset("start")
        await described(again, lambda one: one.history_events == 1)
        client.engine.replaced(before.execution_id, before.run_id)  # Said once more, and late.
        await again.signal(say, "well")
        assert await again.result() == "well"


async def test_who_was_found_and_used_is_nobodys_child_behind_a_reset(path: Path) -> None:
    @workflow
    async def on_its_own() -> str:
        return await say.receive()

    @workflow
    async def user_of_it() -> str:
        return await on_its_own.options(id="other", if_open="use")()

    async with hosting(path) as client:
        other = await client.start(on_its_own, id="other")
        user = await client.start(user_of_it, id="user")
        await described(user, lambda one: one.history_events == 2)
        await user.terminate()
        again = await user.reset(2)
        await described(again, lambda one: one.status == "running")
        await again.terminate()
        assert (await other.describe()).status == "running"
        again = await user.reset(2)
        await other.signal(say, "well")
        assert await again.result() == "well"
        assert not await client.verify()


async def test_what_was_sent_before_the_point_is_not_sent_again(path: Path) -> None:
    @workflow
    async def hearer() -> list[str]:
        return [await say.receive(), await say.receive()]

    @workflow
    async def sayer() -> list[str]:
        other = get_handle("hearer")
        await other.signal(say, "once")
        found: list[str] = await other.result()
        return found

    async with hosting(path) as client:
        hears = await client.start(hearer, id="hearer")
        says = await client.start(sayer, id="sayer")
        await described(hears, lambda one: one.signals == ("say",))
        await described(says, lambda one: one.history_events == 4)
        for point in (2, 4, 4):
            await says.reset(point)
            await described(says, lambda one: one.history_events == 4)
        assert (await hears.describe()).signals == ("say",)
        await hears.signal(say, "and well")
        assert await says.result() == ["once", "and well"]
        await says.reset(4)
        assert await says.result() == ["once", "and well"]
        await says.reset(2)
        assert await says.result() == ["once", "and well"]
        assert not await client.verify()


async def test_a_child_that_is_reset_tells_its_parent_its_new_end(path: Path) -> None:
    @workflow
    async def child_to_reset() -> str:
        return await say.receive()

    @workflow
    async def parent_of_reset() -> str:
        return await child_to_reset.options(id="child")()

    async with hosting(path) as client:
        parent = await client.start(parent_of_reset, id="parent")
        child = client.get_handle("child")
        await described(parent, lambda one: one.children)
        await described(child, lambda one: one.history_events == 1)
        await child.reset("start")
        await child.signal(say, "new")
        assert await parent.result() == "new"
        assert not await client.verify()


@pytest.mark.file
async def test_an_encrypted_run_is_sealed_anew_by_who_has_the_key(path: Path) -> None:
    secret = "a secret that nobody reads"

    @activity
    async def whisper(text: str) -> str:
        return text

    @workflow
    async def whispers(text: str) -> list[str]:
        first = await whisper(text)
        return [first, await say.receive(), await whisper(text)]

    keys = [Encrypt({"k": b"k" * 32})]
    async with Client.connect(path, codecs=keys) as client, Worker(client):
        handle = await client.start(whispers, secret, id="whispers")
        await handle.signal(say, secret)
        assert await handle.result() == [secret] * 3
        length = len(await handle.history())
        for number in range(1, length):
            again = await handle.fork(f"fork-{number}", number, reason=secret)
            assert await again.result() == [secret] * 3
        await handle.reset("start", arguments={"text": "other"}, reason=secret)
        assert await handle.result() == ["other", secret, "other"]
        assert not await client.verify()
        described = await handle.describe()
        assert described.reset is not None
        assert described.reset.reason == secret
    async with Client.connect(path) as client:
        blind = client.get_handle("whispers")
        with pytest.raises(MissingKey):
            await blind.reset("last")
        assert not await client.verify()
    assert secret.encode() not in path.read_bytes()


async def test_two_who_reset_at_once_begin_one_run_each_or_hear_that_it_moved_on(
    path: Path,
) -> None:
    @workflow
    async def contested() -> str:
        return await say.receive()

    async with hosting(path) as client:
        handle = await client.start(contested, id="contested")
        told = await asyncio.gather(*(handle.reset(1) for _ in range(5)), return_exceptions=True)
        assert any(not isinstance(one, BaseException) for one in told)
        await handle.signal(say, "0")
        assert await handle.result() == "0"
        runs = (await client.list(workflow_id="contested")).items
        assert runs[0].status == "completed"
        assert {one.status for one in runs[1:]} == {"reset"}
        assert not await client.verify()
