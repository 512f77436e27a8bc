"""When a failed attempt is tried again, when not, and that each one can be seen."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from everlong import (
    ActivityError,
    ActivityInfo,
    ApplicationError,
    Client,
    Retry,
    Worker,
    WorkflowFailed,
    activity,
    info,
    workflow,
)
from tests.support.hosting import AT_ONCE, ONCE, described, hosting, kinds, of_kind

FOREVER_LATER = Retry(delay=3600, delay_max=3600)


class OutOfStock(Exception):
    def __init__(self, item: str) -> None:
        super().__init__(f"no {item} left")
        self.item = item


async def test_a_failed_attempt_is_tried_again_until_it_succeeds(path: Path) -> None:
    @activity(retry=AT_ONCE)
    async def flaky() -> int:
        attempt = info(ActivityInfo).attempt
        if attempt < 4:
            raise ConnectionError(f"attempt {attempt} met a closed port")
        return attempt

    @workflow
    async def flow() -> int:
        return await flaky()

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == 4
        # A week of retries does not grow the history that is replayed.
        assert await kinds(handle) == [
            "RunStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "RunCompleted",
        ]


async def test_every_failed_attempt_is_shown_with_its_error_and_traceback(path: Path) -> None:
    @activity(retry=Retry(max_attempts=3, delay=0, jitter=0))
    async def flaky() -> None:
        raise ConnectionError(f"attempt {info(ActivityInfo).attempt} met a closed port")

    @workflow
    async def flow() -> None:
        await flaky()

    async with hosting(path) as client:
        handle = await client.start(flow)
        with pytest.raises(WorkflowFailed):
            await handle.result()
        (scheduled,) = await of_kind(handle, "ActivityScheduled")
        assert [one.number for one in scheduled.attempts] == [1, 2, 3]
        for one in scheduled.attempts:
            assert one.state == "failed"
            assert one.error_type.endswith("ConnectionError")
            assert one.error == f"attempt {one.number} met a closed port"
            assert "in flaky" in one.traceback
            assert one.ended_at is not None
            assert one.ended_at >= one.started_at
        (failed,) = await of_kind(handle, "ActivityFailed")
        assert failed.fields["attempts"] == 3
        assert failed.fields["error"] == "attempt 3 met a closed port"
        assert "in flaky" in failed.fields["traceback"]


async def test_the_last_twenty_attempts_are_kept_and_the_count_is_exact(path: Path) -> None:
    @activity(retry=Retry(max_attempts=30, delay=0, jitter=0))
    async def flaky() -> None:
        raise ConnectionError("closed")

    @workflow
    async def flow() -> None:
        await flaky()

    async with hosting(path) as client:
        handle = await client.start(flow)
        with pytest.raises(WorkflowFailed):
            await handle.result()
        (scheduled,) = await of_kind(handle, "ActivityScheduled")
        assert len(scheduled.attempts) == 20
        assert scheduled.attempts[-1].number == 30
        (failed,) = await of_kind(handle, "ActivityFailed")
        assert failed.fields["attempts"] == 30


async def test_the_only_attempt_is_shown_too_and_a_success_leaves_none(path: Path) -> None:
    @activity(retry=ONCE)
    async def fails() -> None:
        raise ConnectionError("closed")

    @activity
    async def succeeds() -> None: ...

    @workflow
    async def flow() -> None:
        await succeeds()
        await fails()

    async with hosting(path) as client:
        handle = await client.start(flow)
        with pytest.raises(WorkflowFailed):
            await handle.result()
        good, bad = await of_kind(handle, "ActivityScheduled")
        assert good.attempts == ()
        (failed,) = bad.attempts
        assert (failed.number, failed.state, failed.error) == (1, "failed", "closed")
        assert "in fails" in failed.traceback


async def test_the_last_error_reaches_the_workflow_as_itself(path: Path) -> None:
    @activity(retry=Retry(max_attempts=2, delay=0), raises=[OutOfStock])
    async def reserve(item: str) -> None:
        raise OutOfStock(item)

    @workflow
    async def flow() -> str:
        try:
            await reserve("tea")
        except OutOfStock as error:
            return f"caught: {error} ({error.item})"
        return "reserved"

    async with hosting(path) as client:
        assert await client.run(flow) == "caught: no tea left (tea)"


async def test_an_unknown_exception_arrives_as_activity_error_with_everything(path: Path) -> None:
    class Local(Exception):
        pass

    @activity(retry=Retry(max_attempts=1))
    async def fails() -> None:
        raise Local("inside")

    @workflow
    async def flow() -> list[str]:
        try:
            await fails()
        except ActivityError as error:
            return [error.type.rpartition(".")[2], error.message, error.traceback]
        return []

    async with hosting(path) as client:
        kind, message, traceback = await client.run(flow)
        assert (kind, message) == ("Local", "inside")
        assert 'raise Local("inside")' in traceback


async def test_application_error_may_end_the_attempts(path: Path) -> None:
    @activity
    async def charge() -> None:
        raise ApplicationError("card declined", details={"code": 51}, retryable=False)

    @workflow
    async def flow() -> list[object]:
        try:
            await charge()
        except ApplicationError as error:
            return [str(error), error.details, error.retryable]
        return []

    async with hosting(path) as client:
        assert await client.run(flow) == ["card declined", {"code": 51}, False]


@pytest.mark.parametrize("delay", [0.0, timedelta(milliseconds=1)])
async def test_application_error_may_set_the_next_delay(
    path: Path, delay: float | timedelta
) -> None:
    @activity(retry=FOREVER_LATER)
    async def busy() -> int:
        attempt = info(ActivityInfo).attempt
        if attempt == 1:
            raise ApplicationError("come back", next_delay=delay)
        return attempt

    @workflow
    async def flow() -> int:
        return await busy()

    async with hosting(path) as client:
        assert await client.run(flow) == 2


@pytest.mark.parametrize("named", [OutOfStock, "OutOfStock", f"{__name__}.OutOfStock"])
async def test_a_non_retryable_class_ends_the_attempts(
    path: Path, named: type[Exception] | str
) -> None:
    @activity(retry=Retry(delay=3600, delay_max=3600, non_retryable=(named,)))
    async def reserve() -> None:
        raise OutOfStock("tea")

    @workflow
    async def flow() -> str:
        try:
            await reserve()
        except OutOfStock:
            return "at once"
        return "reserved"

    async with hosting(path) as client:
        assert await client.run(flow) == "at once"


@pytest.mark.parametrize(
    "policy",
    [
        Retry(delay=100, delay_max=1000, jitter=0.1),
        Retry(delay=100, jitter=0.1),  # The longest delay is not shorter than the first one.
        Retry(delay=timedelta(seconds=100), jitter=0.1),
    ],
)
async def test_the_delays_follow_the_policy_and_are_told(path: Path, policy: Retry) -> None:
    @activity(retry=policy)
    async def flaky() -> None:
        raise ConnectionError("closed")

    @workflow
    async def flow() -> None:
        await flaky()

    async with hosting(path) as client:
        handle = await client.start(flow)
        description = await described(
            handle, lambda d: d.activities and d.activities[0].state == "backing off"
        )
        (pending,) = description.activities
        assert pending.name == "flaky"
        assert pending.attempt == 1
        assert pending.last_error is not None
        assert pending.last_error.endswith("ConnectionError: closed")
        assert pending.where.startswith("test_retries.py:")
        (scheduled,) = await of_kind(handle, "ActivityScheduled")
        (failed,) = scheduled.attempts
        assert failed.next_at is not None
        assert failed.ended_at is not None
        assert failed.next_at == pending.next_at
        assert 100 <= (failed.next_at - failed.ended_at).total_seconds() <= 110


@pytest.mark.file
async def test_a_backoff_goes_on_after_a_restart_with_the_same_count(path: Path) -> None:
    failed_once = asyncio.Event()

    @activity(retry=Retry(delay=0.05, jitter=0))
    async def flaky() -> list[object]:
        attempt = info(ActivityInfo)
        if attempt.attempt == 1:
            failed_once.set()
            raise ConnectionError("closed")
        return [attempt.attempt, attempt.idempotency_key]

    @workflow
    async def flow() -> list[object]:
        return await flaky()

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow)
            await failed_once.wait()
            await described(handle, lambda d: d.activities[0].state == "backing off")
        async with Worker(client):
            attempt, _ = await handle.result()
            assert attempt == 2


async def test_the_idempotency_key_is_the_same_over_attempts_and_differs_per_call(
    path: Path,
) -> None:
    keys: list[str] = []

    @activity(retry=AT_ONCE)
    async def flaky() -> None:
        attempt = info(ActivityInfo)
        keys.append(attempt.idempotency_key)
        if attempt.attempt < 3:
            raise ConnectionError("closed")

    @workflow
    async def flow() -> None:
        await flaky()
        await flaky()

    async with hosting(path) as client:
        await client.run(flow)
        await client.run(flow)
    assert len(keys) == 12
    assert len(set(keys)) == 4
    assert keys[0] == keys[1] == keys[2]


async def test_causes_and_groups_travel(path: Path) -> None:
    @activity(retry=Retry(max_attempts=1))
    async def fails() -> None:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ExceptionGroup("several", [ValueError("one"), TypeError("two")]) from inner

    @workflow
    async def flow() -> list[str]:
        found: list[str] = []
        try:
            await fails()
        except* ValueError as group:
            cause = group.__cause__
            found = [str(group.exceptions[0]), repr(cause)]
        except* TypeError:
            found.append("and a TypeError")
        return found

    async with hosting(path) as client:
        assert await client.run(flow) == [
            "one",
            "KeyError('inner')",
            "and a TypeError",
        ]


async def test_what_leaves_the_workflow_fails_it_with_its_cause(path: Path) -> None:
    @workflow(raises=[OutOfStock])
    async def flow() -> None:
        raise OutOfStock("tea")

    async with hosting(path) as client:
        handle = await client.start(flow, id="order-1")
        with pytest.raises(WorkflowFailed, match="no tea left") as caught:
            await handle.result()
        assert type(caught.value.__cause__) is OutOfStock
        assert caught.value.__cause__.item == "tea"
        assert caught.value.workflow_id == "order-1"
        assert "in flow" in caught.value.traceback
        assert (await handle.describe()).status == "failed"
