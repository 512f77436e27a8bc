"""The same done to many at once: every action, to everyone that is meant, once."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from everlong import (
    BulkReport,
    CannotReset,
    Client,
    EverlongError,
    Interceptor,
    InvalidArguments,
    InvalidFilter,
    Signal,
    Worker,
    WorkflowAlreadyStarted,
    WorkflowFailed,
    WorkflowHandle,
    activity,
    continue_as_new,
    literal,
    workflow,
)
from everlong.exceptions import DefinitionError
from everlong.interceptors import CancelWorkflow, Next
from everlong.testing import Environment, amnesia
from tests.support.hosting import ONCE, described, hosting, until

word = Signal("bulk_word", str)


async def begun(
    client: Client, flow: Any, count: int, prefix: str = "w", **options: Any
) -> list[WorkflowHandle[Any]]:
    starts = [client.start(flow, id=f"{prefix}-{n}", **options) for n in range(count)]
    return list(await asyncio.gather(*starts))


async def statuses(client: Client, filter: str | None = None) -> dict[Any, int]:
    return await client.count(filter, group_by="status")


def counts(report: BulkReport) -> tuple[int, int, int]:
    return report.done, report.skipped, report.failed


# ---------------------------------------------------------------------------------- each action


@pytest.mark.parametrize("cache_size", [1000, 0])
@pytest.mark.parametrize(
    ("action", "options", "after"),
    [
        ("cancel", {"reason": "enough"}, {"cancelled": 12, "completed": 3}),
        ("terminate", {"reason": "enough"}, {"terminated": 12, "completed": 3}),
        ("signal", {"signal": word, "value": "go"}, {"completed": 15}),
        ("pause", {"reason": "moving", "by": "ann"}, {"paused": 12, "completed": 3}),
    ],
)
async def test_what_is_open_is_acted_upon(
    path: Path, cache_size: int, action: Any, options: dict[str, Any], after: dict[str, int]
) -> None:
    @workflow
    async def bulk_waits() -> str:
        return await word.receive()

    async with hosting(path, cache_size=cache_size) as client:
        handles = await begun(client, bulk_waits, 15)
        for handle in handles[:3]:
            await handle.signal(word, "early")
            await handle.result()
        mine = "type = 'bulk_waits'"
        preview = await client.bulk(action, filter=mine, **options, dry_run=True)
        assert (preview.matched, preview.first[0]) == (12, "w-14")
        assert await statuses(client, mine) == {"running": 12, "completed": 3}
        job = await client.bulk(action, filter=mine, **options, dry_run=False)
        report = await job.result()
        assert counts(report) == (12, 0, 0)
        assert (report.matched, report.about, report.not_done) == (12, 12, ())

        async def all_there() -> bool:
            return await statuses(client, mine) == after

        await until(all_there)
        if action == "signal":
            assert [await one.result() for one in handles] == ["early"] * 3 + ["go"] * 12
        if action == "pause":
            held = (await handles[5].describe()).paused
            assert held is not None
            assert (held.reason, held.by) == ("moving", "ann")
            again = await client.bulk("resume", filter=mine)
            assert counts(await again.result()) == (12, 0, 0)
            assert await statuses(client, mine) == {"running": 12, "completed": 3}


async def test_a_reason_that_is_not_given_names_the_job(path: Path) -> None:
    @workflow
    async def bulk_unnamed() -> str:
        return await word.receive()

    async with hosting(path) as client:
        await begun(client, bulk_unnamed, 1)
        job = await client.bulk("terminate", filter="type = 'bulk_unnamed'")
        await job.result()
        reason = (await client.get_handle("w-0").history())[-1].fields["reason"]
        assert reason.startswith("bulk job ")


async def test_those_that_failed_go_on_where_they_failed_with_other_code(path: Path) -> None:
    """By an activity, or by the code: what was done before is kept, and nobody else is touched."""
    broken = True
    done: Counter[str] = Counter()

    @activity(retry=ONCE)
    async def bulk_step(name: str, number: int) -> int:
        done[f"{name} {number}"] += 1
        if name == "second" and broken and number % 3 == 0:
            raise OSError("the bug in the activity")
        return number

    @workflow
    async def bulk_retried(number: int) -> int:
        total = await bulk_step("first", number)
        if broken and number % 3 == 1:
            raise ValueError("the bug in the code")
        return total + await bulk_step("second", number)

    async with hosting(path) as client:
        handles = [await client.start(bulk_retried, n, id=f"r-{n}") for n in range(15)]
        for handle in handles:
            with suppress(WorkflowFailed):
                await handle.result()
        assert await statuses(client) == {"failed": 10, "completed": 5}
        broken = False
        job = await client.bulk("retry", filter="status = 'failed'", reason="mended")
        assert counts(await job.result()) == (10, 0, 0)
        results = [await client.get_handle(f"r-{n}", bulk_retried).result() for n in range(15)]
        assert results == [2 * n for n in range(15)]
        assert {done[f"first {n}"] for n in range(15)} == {1}
        assert [done[f"second {n}"] for n in range(6)] == [2, 1, 1, 2, 1, 1]
        again = await client.bulk("retry", filter="status = 'failed'", dry_run=True)
        assert again.matched == 0, "a run in whose place another has begun is not meant"


async def test_who_fails_again_is_not_retried_again_by_the_same_job(path: Path) -> None:
    tries: Counter[int] = Counter()

    @activity(retry=ONCE)
    async def bulk_hopeless(number: int) -> None:
        tries[number] += 1
        raise OSError("still")

    @workflow
    async def bulk_fails_always(number: int) -> None:
        await bulk_hopeless(number)

    async with hosting(path) as client:
        for n in range(5):
            handle = await client.start(bulk_fails_always, n, id=f"f-{n}")
            with pytest.raises(WorkflowFailed):
                await handle.result()
        for times in (2, 3):
            job = await client.bulk("retry", filter="type = 'bulk_fails_always'", rate=40)
            assert counts(await job.result()) == (5, 0, 0)

            async def all_failed(times: int = times) -> bool:
                runs = await statuses(client, "type = 'bulk_fails_always'")
                return runs == {"failed": 5 * times}

            await until(all_failed)
            assert set(tries.values()) == {times}


@pytest.mark.file
async def test_what_a_fault_has_blocked_is_tried_again_after_the_fix(path: Path) -> None:
    """Also a run that counts as poison. What is paused besides stays so, and is told."""
    order: Sequence[str] = ("one", "two")

    @activity
    async def bulk_named(name: str) -> str:
        return name

    @workflow
    async def bulk_blocked() -> list[str]:
        first = await bulk_named(order[0])
        await word.receive()
        return [first, await bulk_named(order[1])]

    async with hosting(path, cache_size=0) as client:
        handles = await begun(client, bulk_blocked, 6, "b")
        for handle in handles:
            await described(handle, lambda found: found.history_events == 3)
        order = ("two", "one")
        for handle in handles[:5]:
            await handle.signal(word, "go on")
            await described(handle, lambda found: found.status == "blocked")
        with sqlite3.connect(path) as file:
            poisoned = "UPDATE runs SET strikes = 3, reason = 'poison: it kills' WHERE workflow_id"
            file.execute(f"{poisoned} = 'b-1'")
        await handles[0].pause(reason="not yet", by="ann")
        order = ("one", "two")
        job = await client.bulk("retry", filter="type = 'bulk_blocked'")
        assert counts(await job.result()) == (5, 0, 0)
        for handle in handles[:5]:
            assert await handle.result() == ["one", "two"]
        assert (await handles[5].describe()).status == "running"


async def test_what_its_type_holds_is_not_resumed(path: Path) -> None:
    @workflow
    async def bulk_held() -> str:
        return await word.receive()

    async with hosting(path) as client:
        await begun(client, bulk_held, 3)
        await client.pause(type=bulk_held)
        report = await (await client.bulk("resume", filter="type = 'bulk_held'")).result()
        assert counts(report) == (0, 3, 0)
        assert {one.reason for one in report.not_done} == {
            "its type is still paused, or everything is: resume that"
        }


async def test_a_reset_that_is_refused_is_told_and_stops_nobody(path: Path) -> None:
    @activity
    async def bulk_once(number: int) -> int:
        return number

    @workflow
    async def bulk_reset(number: int) -> int:
        return await bulk_once(number) if number < 3 else number

    async with hosting(path) as client:
        for number in (0, 1, 2, 3):
            await client.run(bulk_reset, number, id=f"x-{number}")
        await client.run(bulk_reset, 0, id="x-0")  # Another execution has the id now.
        everyone = "type = 'bulk_reset'"
        job = await client.bulk("reset", filter=everyone, to="first-activity:bulk_once")
        report = await job.result()
        assert counts(report) == (3, 1, 0)
        assert [one.workflow_id for one in report.not_done] == ["x-3"]
        assert "has scheduled none" in report.not_done[0].reason
        runs = [one.status for one in (await client.list(workflow_id="x-0")).items]
        assert len(runs) == 3, "the older execution has no second run"


@pytest.mark.file
async def test_a_damaged_execution_fails_alone(path: Path) -> None:
    @workflow
    async def bulk_damaged() -> str:
        return await word.receive()

    async with hosting(path, cache_size=0) as client:
        handles = await begun(client, bulk_damaged, 4)
        for handle in handles:
            await handle.signal(word, "x")
            await handle.result()
        run = bytes.fromhex((await handles[2].describe()).run_id.replace("-", ""))
        with sqlite3.connect(path) as file:
            for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
                file.execute(f"DROP TRIGGER {name}")
            changed = file.execute("UPDATE history SET body = x'00' WHERE run_id = ?", (run,))
            assert changed.rowcount > 0
        job = await client.bulk("reset", filter="type = 'bulk_damaged'", to="start")
        report = await job.result()
        assert (report.done, report.skipped + report.failed) == (3, 1)
        assert report.not_done[0].workflow_id == "w-2"


# --------------------------------------------------------------------------- who is meant, once


async def test_two_thousand_are_cancelled_and_the_history_stays_small(path: Path) -> None:
    @workflow
    async def bulk_many() -> str:
        return await word.receive()

    async with hosting(path) as client:
        await begun(client, bulk_many, 2_000)
        job = await client.bulk("cancel", filter="type = 'bulk_many'", reason="enough")
        assert counts(await job.result()) == (2_000, 0, 0)
        assert counts(await job.progress()) == (2_000, 0, 0)
        assert (await job.describe()).history_events < 200

        async def all_cancelled() -> bool:
            return await statuses(client, "type = 'bulk_many'") == {"cancelled": 2_000}

        await until(all_cancelled)


async def test_who_begins_anew_all_the_time_is_met_once(path: Path) -> None:
    """Also while the job looks: the run that it saw is gone, and the next one is another row."""

    @workflow
    async def bulk_restless(turns: int = 0, heard: int = 0) -> list[int]:
        with_timeout = asyncio.wait_for(word.receive(), 0.01)
        with suppress(TimeoutError):
            heard += (await with_timeout) == "stop"
        if not heard or turns <= 30:
            continue_as_new(turns=turns + 1, heard=heard)
        return [heard]

    async with hosting(path) as client:
        handles = await begun(client, bulk_restless, 25)
        job = await client.bulk(
            "signal", filter="type = 'bulk_restless'", signal=word, value="stop", rate=50
        )
        report = await job.result()
        assert counts(report) == (25, 0, 0)
        assert [await one.result() for one in handles] == [[1]] * 25


async def test_what_begins_after_the_job_is_left_alone_and_so_are_jobs(path: Path) -> None:
    @workflow
    async def bulk_sooner() -> str:
        return await word.receive()

    async with Client.connect(path) as client:
        await begun(client, bulk_sooner, 5, "before")
        waiting = await client.bulk("pause", filter="id = 'nobody'", id="another-job")
        job = await client.bulk("terminate", everything=True)
        later = await begun(client, bulk_sooner, 5, "after")
        assert (await client.bulk("terminate", everything=True, dry_run=True)).matched == 10
        async with Worker(client):
            assert counts(await job.result()) == (5, 0, 0)
            assert counts(await waiting.result()) == (0, 0, 0)
            assert [(await one.describe()).status for one in later] == ["running"] * 5


@settings(max_examples=25, deadline=None)
@given(
    ids=st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    chosen=st.integers(0, 5),
)
async def test_any_id_is_meant_by_its_literal(ids: list[str], chosen: int) -> None:
    @workflow
    async def bulk_hostile() -> str:
        return await word.receive()

    async with Environment(workflows=[bulk_hostile]) as env:
        for one in ids:
            await env.client.start(bulk_hostile, id=one)
        name = ids[chosen % len(ids)]
        job = await env.client.bulk("terminate", filter=f"id = {literal(name)}", reason=name)
        assert counts(await job.result()) == (1, 0, 0)
        assert await statuses(env.client, "type = 'bulk_hostile'") == (
            {"terminated": 1} | ({"running": len(ids) - 1} if len(ids) > 1 else {})
        )


# --------------------------------------------------------------------- the job as an execution


@pytest.mark.parametrize("mode", ["plain", "amnesia", "always_replay"])
async def test_a_rate_is_kept_and_the_job_can_be_held(mode: str) -> None:
    @workflow
    async def bulk_paced() -> str:
        return await word.receive()

    options: dict[str, Any] = {} if mode == "plain" else {mode: True}
    async with Environment(workflows=[bulk_paced], **options) as env:
        await begun(env.client, bulk_paced, 30)
        began = env.now
        job = await env.client.bulk("terminate", filter="type = 'bulk_paced'", rate=2)
        await env.advance(seconds=4.5)
        assert counts(await job.progress()) == (10, 0, 0)
        await job.pause(reason="a moment")
        await env.advance(seconds=60)
        assert (await job.progress()).done == 10
        await job.resume()
        assert counts(await job.result()) == (30, 0, 0)
        assert 60 + 10 <= (env.now - began).total_seconds() < 60 + 20
        runs = (await env.client.list(workflow_id=job.workflow_id)).items
        assert (len(runs) > 10) is (mode == "amnesia")


async def test_a_job_that_is_cancelled_leaves_the_rest_alone() -> None:
    @workflow
    async def bulk_spared() -> str:
        return await word.receive()

    async with Environment(workflows=[bulk_spared]) as env:
        await begun(env.client, bulk_spared, 30)
        job = await env.client.bulk("terminate", filter="type = 'bulk_spared'", rate=2)
        await env.advance(seconds=4.5)
        await job.cancel("enough")
        with pytest.raises(EverlongError, match="enough"):
            await job.result()
        assert (await job.progress()).done == 10
        assert await statuses(env.client, "type = 'bulk_spared'") == {
            "terminated": 10,
            "running": 20,
        }


async def test_a_job_begins_anew_without_forgetting_whom_it_has_met(path: Path) -> None:
    @workflow
    async def bulk_forgets() -> list[str]:
        words = [await word.receive()]
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                words.append(await word.receive())
        return words

    with amnesia():
        async with hosting(path, cache_size=0) as client:
            handles = await begun(client, bulk_forgets, 250)
            job = await client.bulk(
                "signal", filter="type = 'bulk_forgets'", signal=word, value="once"
            )
            assert counts(await job.result()) == (250, 0, 0)
            assert [await one.result() for one in handles] == [["once"]] * 250
            assert len((await client.list(workflow_id=job.workflow_id)).items) > 2


async def test_a_repeated_call_gives_the_same_job(path: Path) -> None:
    @workflow
    async def bulk_repeated() -> str:
        return await word.receive()

    async with hosting(path) as client:
        await begun(client, bulk_repeated, 3)
        jobs = [
            await client.bulk("cancel", filter="type = 'bulk_repeated'", request_id="tuesday")
            for _ in range(2)
        ]
        assert jobs[0].run_id == jobs[1].run_id
        assert (await jobs[1].result()).done == 3
        late = await client.bulk("cancel", filter="type = 'bulk_repeated'", request_id="tuesday")
        assert (await late.result()).done == 3
        assert (await client.get_bulk(late.workflow_id).progress()).done == 3
        with pytest.raises(WorkflowAlreadyStarted):
            await client.bulk("cancel", everything=True, id=late.workflow_id)
        with pytest.raises(InvalidArguments, match="is no bulk job"):
            await client.get_bulk("w-0").progress()


async def test_no_workflow_of_a_user_takes_the_name(path: Path) -> None:
    @workflow(name="everlong.bulk")
    async def impostor() -> None: ...

    async with Client.connect(path) as client:
        with pytest.raises(DefinitionError, match="one of Everlong's own"):
            await Worker(client).start()


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("action", "options", "error", "text"),
    [
        ("obliterate", {"everything": True}, InvalidArguments, "choose one of cancel"),
        (["cancel"], {"everything": True}, InvalidArguments, "choose one of"),
        ("cancel", {}, InvalidArguments, "everything=True"),
        ("cancel", {"filter": ""}, InvalidFilter, "character 1"),
        ("cancel", {"filter": "status ="}, InvalidFilter, "character 9"),
        ("cancel", {"filter": "id = '\ud800'"}, InvalidArguments, "surrogate"),
        ("cancel", {"filter": 17}, InvalidArguments, "is a text"),
        ("cancel", {"filter": "id = 'x'", "everything": True}, InvalidArguments, "one of them"),
        ("cancel", {"everything": True, "to": "start"}, InvalidArguments, "reset"),
        ("cancel", {"everything": True, "value": 1}, InvalidArguments, "signal"),
        ("cancel", {"everything": True, "reason": "x" * 5_000}, InvalidArguments, "4000"),
        ("signal", {"everything": True}, InvalidArguments, "name the signal"),
        (
            "signal",
            {"everything": True, "signal": word, "value": []},
            InvalidArguments,
            "must be str",
        ),
        ("reset", {"everything": True}, InvalidArguments, "needs the point"),
        ("reset", {"everything": True, "to": "yesterday"}, CannotReset, "names no point"),
        ("reset", {"everything": True, "to": 0}, CannotReset, "begin with 1"),
        ("retry", {"everything": True, "to": True}, CannotReset, "number of an event"),
        ("cancel", {"everything": True, "rate": 0}, InvalidArguments, "a second"),
        ("cancel", {"everything": True, "rate": float("nan")}, InvalidArguments, "a second"),
        ("cancel", {"everything": True, "rate": "2"}, InvalidArguments, "a second"),
        ("cancel", {"everything": True, "request_id": ""}, InvalidArguments, "request_id"),
        ("cancel", {"everything": True, "id": ""}, InvalidArguments, "workflow id"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_there_is_a_job(
    path: Path, action: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    async with Client.connect(path) as client:
        with pytest.raises(error, match=text):
            await client.bulk(action, **options)
        assert await client.count() == 0


async def test_who_begins_anew_between_the_pages_of_each_pass_is_met(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of one; the oldest leaves its page for the first whenever this is behind the first, and
    something newer comes behind it, so that no page of any pass has it."""
    again = Signal("bulk-again", str)
    done: list[str] = []

    class Notes(Interceptor):
        async def cancel_workflow(self, call: CancelWorkflow, next: Next[CancelWorkflow]) -> None:
            done.append(call.workflow_id)
            await next(call)

    @workflow
    async def bulk_hops(hops: int = 0) -> None:
        await again.receive()
        continue_as_new(hops=hops + 1)

    async with Client.connect(path, interceptors=[Notes()]) as client, Worker(client):
        oldest, *_ = await begun(client, bulk_hops, 3)
        read = type(client.engine.store).list_runs

        async def list_runs(store: Any, wanted: Any, limit: int, after: Any) -> Any:
            if after is not None and (await oldest.describe()).status == "running":
                run_id = (await oldest.describe()).run_id
                await oldest.signal(again, "")
                await described(oldest, lambda it: it.run_id != run_id)
                await client.start(bulk_hops)
            return await read(store, wanted, limit, after)

        monkeypatch.setattr(type(client.engine.store), "list_runs", list_runs)
        job = await client.bulk("cancel", filter="type = 'bulk_hops'", rate=1.9)
        report = await job.result()
        assert counts(report) == (3, 0, 0)
        assert sorted(done) == ["w-0", "w-1", "w-2"]
