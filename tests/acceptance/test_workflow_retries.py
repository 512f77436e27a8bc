"""An execution that fails is tried again from its beginning, as a new run."""

from asyncio import to_thread
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    ApplicationError,
    Client,
    ContextPropagator,
    ExecutionDescription,
    Retry,
    Signal,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowInfo,
    WorkflowTerminated,
    activity,
    info,
    workflow,
)
from everlong.testing import Environment
from everlong.workflow import Workflow
from tests.support.command_line import begin, everlong
from tests.support.hosting import described, hosting, kinds, of_kind, until

THRICE = Retry(max_attempts=3, delay=0.01, jitter=0.0)
HOURLY = Retry(delay=3600, delay_max=3600, jitter=0.0)
begun: list[int] = []
tenant: ContextVar[str] = ContextVar("tenant of a retried workflow")
hint: Signal[str] = Signal("a hint for the next attempt", str)


class Hopeless(Exception):
    pass


@pytest.fixture(autouse=True)
def _anew() -> None:
    begun.clear()


@activity
async def notes(attempt: int) -> int:
    begun.append(attempt)
    return attempt


@workflow(retry=THRICE)
async def fails_until(good: int, name: str = "it") -> str:
    attempt = await notes(info(WorkflowInfo).attempt)
    if attempt < good:
        raise ConnectionError(f"attempt {attempt}")
    return f"{name} after {attempt}"


@workflow(retry=THRICE)
async def fails_at_once(good: int) -> int:
    if info(WorkflowInfo).attempt < good:
        raise ConnectionError("at once")
    return info(WorkflowInfo).attempt


@workflow(retry=Retry(delay=0.0, jitter=0.0, non_retryable=(Hopeless,)))
async def is_hopeless(wrapped: bool) -> None:
    begun.append(info(WorkflowInfo).attempt)
    raise ApplicationError("no", retryable=False) if wrapped else Hopeless("no")


@workflow
async def fails_once() -> str:
    begun.append(info(WorkflowInfo).attempt)
    if info(WorkflowInfo).attempt == 1:
        raise ConnectionError("once")
    return await hint.receive()


@workflow(retry=THRICE)
async def fails_with_headers() -> str:
    if info(WorkflowInfo).attempt == 1:
        raise ConnectionError("once")
    return tenant.get("nobody")


@workflow
async def has_a_failing_child(good: int) -> str:
    return await fails_until.options(id="the failing child")(good)


@workflow
async def has_a_child_that_it_gives_a_policy(attempts: int) -> str:
    child = fails_until.options(retry=Retry(max_attempts=attempts, delay=0.0), memo="kept")
    handle = await child.options(id="told").start(2)
    return await handle.result()


FLOWS: list[Workflow[Any, Any]] = [
    fails_until,
    fails_at_once,
    is_hopeless,
    fails_once,
    fails_with_headers,
    has_a_failing_child,
    has_a_child_that_it_gives_a_policy,
]


@pytest.mark.parametrize("cache_size", [0, 1000])
async def test_each_attempt_is_a_run_with_the_same_arguments(path: Path, cache_size: int) -> None:
    async with hosting(path, workflows=FLOWS, cache_size=cache_size) as client:
        handle = await client.start(fails_until, 3, "Ada", id="one", tags={"customer": "c1"})
        assert await handle.result() == "Ada after 3"
        assert begun == [1, 2, 3]
        runs = (await client.list(workflow_id="one")).items
        assert sorted(run.status for run in runs) == ["completed", "retried", "retried"]
        assert {run.tags["customer"] for run in runs} == {"c1"}
        (started,) = [one for one in await handle.history() if one.kind == "RunStarted"]
        assert started.fields["attempt"] == 3
        first = await client.get_handle("one").history(handle.run_id)
        assert first[-1].kind == "RunFailed"
        assert "due_at" in first[-1].fields
        assert await client.verify() == []


async def test_who_waits_hears_of_the_last_failure_only(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        with pytest.raises(WorkflowFailed, match="attempt 3"):
            await client.run(fails_until, 9, id="one")
        assert begun == [1, 2, 3]
        runs = (await client.list(workflow_id="one")).items
        assert sorted(run.status for run in runs) == ["failed", "retried", "retried"]


async def test_what_fails_in_its_first_drive_is_tried_again_too(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        assert await client.run(fails_at_once, 3, id="one") == 3
        assert await client.verify() == []


@pytest.mark.parametrize("wrapped", [True, False])
async def test_what_is_hopeless_is_not_tried_again(path: Path, wrapped: bool) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        with pytest.raises(WorkflowFailed):
            await client.run(is_hopeless, wrapped, id="one")
        assert [run.status for run in (await client.list(workflow_id="one")).items] == ["failed"]


async def test_a_parent_sees_the_outcome_only(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        assert await client.run(has_a_failing_child, 2, id="parent") == "it after 2"
        events = await kinds(client.get_handle("parent"))
        assert events.count("ChildClosed") == 1


@pytest.mark.parametrize("cache_size", [0, 1000])
async def test_a_parent_says_how_its_child_is_tried_again(path: Path, cache_size: int) -> None:
    async with hosting(path, workflows=FLOWS, cache_size=cache_size) as client:
        done = await client.run(has_a_child_that_it_gives_a_policy, 4, id="parent")
        assert done == "it after 2"
        (scheduled,) = await of_kind(client.get_handle("parent"), "ChildScheduled")
        assert scheduled.fields["retry"][0] == 4
        with pytest.raises(WorkflowFailed) as failed:
            await client.run(has_a_child_that_it_gives_a_policy, 1, id="parent")
        assert "attempt 1" in str(failed.value.__cause__)
    with pytest.raises(ValueError, match="is for activities"):
        fails_until.options(retry=Retry(on_exhausted="pause"))


async def test_a_start_says_how_and_messages_go_to_the_next_attempt(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        handle = await client.start(fails_once, id="one", retry=Retry(delay=0.3, jitter=0.0))
        await described(handle, lambda it: it.begins_at)
        await handle.signal(hint, "look left")
        assert await handle.result() == "look left"


async def test_the_back_off_outlives_the_process_and_is_cancelled_or_terminated(
    path: Path,
) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        for name in ("one", "two"):
            handle = await client.start(fails_once, id=name, retry=HOURLY)
            await described(handle, lambda it: it.begins_at and it.owner is None)
    async with hosting(path, workflows=FLOWS) as client:
        one, two = client.get_handle("one"), client.get_handle("two")
        assert (await one.describe()).begins_at is not None
        await one.cancel("enough")
        with pytest.raises(WorkflowCancelled):
            await one.result()
        await two.terminate()
        with pytest.raises(WorkflowTerminated):
            await two.result()
        assert set(begun) == {1}
        assert await client.verify() == []


KILLED = """
import os
from everlong import Retry, WorkflowInfo, activity, info, workflow

@activity
async def says(attempt: int) -> None:
    print("attempt", attempt, flush=True)
    if attempt == 1:
        raise ValueError

@workflow
async def flow() -> str:
    attempt = info(WorkflowInfo).attempt
    if attempt == 2 and "FIRST" in os.environ:
        raise SystemExit  # Killed too late: it is parked, and all else is the same.
    try:
        await says.options(retry=Retry(max_attempts=1))(attempt)
    except ValueError:
        raise ConnectionError("the first time") from None
    return "done"
"""


async def test_after_kill_9_in_the_back_off_the_next_attempt_begins_in_its_time(
    tmp_path: Path,
) -> None:
    (tmp_path / "flow.py").write_text(KILLED)
    line = ("run", "flow.py", "--retry-attempts", "2", "--retry-delay", "1", "--quiet")
    first = begin(*line, folder=tmp_path, FIRST="1")
    assert first.stdout is not None
    assert first.stdout.readline() == "attempt 1\n"
    async with Client.connect(tmp_path / "everlong.db") as client:
        handle = client.get_handle("flow")

        async def retried() -> ExecutionDescription | None:
            described = await handle.describe()
            return described if described.run_id != run_id else None

        run_id = (await client.list(workflow_id="flow")).items[-1].run_id
        await until(retried)
        first.kill()
        assert first.communicate()[0] == ""
        (failed,) = [one for one in await handle.history(run_id) if one.kind == "RunFailed"]
        again = await to_thread(everlong, *line, folder=tmp_path)
        assert (again.code, again.out) == (0, "attempt 2\ndone\n"), again.err
        runs = (await client.list(workflow_id="flow")).items
        assert sorted(run.status for run in runs) == ["completed", "retried"]
        (started,) = await of_kind(handle, "RunStarted")
        assert started.at >= failed.fields["due_at"]
        assert await client.verify() == []


async def test_the_next_attempt_has_the_same_headers() -> None:
    async with Environment(workflows=FLOWS, interceptors=[ContextPropagator(tenant)]) as env:
        token = tenant.set("ada")
        handle = await env.client.start(fails_with_headers, id="one")
        tenant.reset(token)
        assert await handle.result() == "ada"


async def test_the_failed_runs_are_found_by_their_status(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        await client.run(fails_until, 3, id="one")
        assert len((await client.list(filter="status = 'retried'")).items) == 2
        assert [one.status for one in (await client.list(filter="status != 'retried'")).items] == [
            "completed"
        ]


async def test_there_is_no_attempt_behind_the_execution_timeout(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        with pytest.raises(WorkflowFailed, match="once"):
            await client.run(fails_once, id="one", retry=HOURLY, execution_timeout=60)


async def test_a_policy_that_makes_no_sense_is_refused(path: Path) -> None:
    async with Client.connect(path) as client:
        with pytest.raises(ValueError, match="is for activities"):
            await client.start(fails_once, id="x", retry=Retry(on_exhausted="pause"))
        with pytest.raises(TypeError, match="give a Retry"):
            await client.start(fails_once, id="x", retry=3)


async def test_the_virtual_clock_moves_to_the_next_attempt() -> None:
    async with Environment(workflows=FLOWS) as env:
        handle = await env.client.start(fails_once, id="one", retry=HOURLY)
        await handle.signal(hint, "an hour later")
        assert await handle.result() == "an hour later"
