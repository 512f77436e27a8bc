"""What had a slot and never began is no attempt: it neither counts nor is it lost."""

import asyncio
from pathlib import Path

import pytest

from everlong import ActivityInfo, Client, Retry, Signal, Worker, activity, info, workflow
from tests.support.gated_store import Gate
from tests.support.hosting import described, of_kind, until

begin: Signal[bool] = Signal("never-begun-begin", bool)


async def stop_while_the_gate_is_shut(
    worker: Worker, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Its patience ends while what would begin an attempt is on its way to the disk."""
    stopping = asyncio.ensure_future(worker.stop())

    async def has_lost_patience() -> bool:
        return "did not end in time" in caplog.text

    await until(has_lost_patience)
    gate.open()
    await stopping


@pytest.mark.once
async def test_a_first_attempt_that_never_began_is_not_lost(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []

    @activity(at_most_once=True)
    async def work() -> str:
        attempts.append(info(ActivityInfo).attempt)
        return "worked"

    @workflow
    async def flow() -> str:
        await begin.receive()
        return await work()

    async with Client.connect(path) as client:
        gate = Gate(client)
        worker = Worker(client, workflows=[flow], stop_timeout=0)
        await worker.start()
        handle = await client.start(flow)
        gate.shut()
        sending = asyncio.ensure_future(handle.signal(begin, True))
        await gate.arrived.wait()
        await stop_while_the_gate_is_shut(worker, gate, caplog)
        await sending
        (pending,) = (await described(handle, lambda d: d.activities)).activities
        assert (pending.state, pending.attempt, pending.last_error) == ("waiting", 1, None)
        (scheduled,) = await of_kind(handle, "ActivityScheduled")
        assert scheduled.fields["began"] is True
        assert scheduled.attempts == ()
        async with Worker(client, workflows=[flow]):
            assert await handle.result() == "worked"
    assert attempts == [1]


async def test_a_further_attempt_that_never_began_keeps_its_number(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []

    async with Client.connect(path) as client:
        gate = Gate(client)

        @activity(retry=Retry(max_attempts=2, delay=0, jitter=0))
        async def work() -> str:
            attempts.append(info(ActivityInfo).attempt)
            if len(attempts) == 1:
                gate.shut()
                raise ConnectionError("not yet")
            return "worked"

        @workflow
        async def flow() -> str:
            return await work()

        worker = Worker(client, workflows=[flow], stop_timeout=0)
        await worker.start()
        handle = await client.start(flow)
        await gate.arrived.wait()
        for _ in range(1000):  # Meanwhile the second attempt gets its slot, and asks for its mark.
            await asyncio.sleep(0)
        await stop_while_the_gate_is_shut(worker, gate, caplog)
        (scheduled,) = await of_kind(handle, "ActivityScheduled")
        assert [(one.number, one.state) for one in scheduled.attempts] == [(1, "failed")]
        async with Worker(client, workflows=[flow]):
            assert await handle.result() == "worked"
    assert attempts == [1, 2]
