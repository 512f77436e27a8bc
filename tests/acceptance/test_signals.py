"""Signals: buffered, in order, exactly once; from this process and from others."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from everlong import (
    Client,
    InvalidArguments,
    Signal,
    Worker,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowNotFound,
    activity,
    continue_as_new,
    workflow,
)
from everlong_engine import LoadedRun, MailRow, Wants
from tests.support.hosting import described, hosting, kinds, of_kind
from tests.support.other_process import other_process


@dataclass
class Verdict:
    ok: bool
    by: str = "nobody"


number = Signal("number", int)
verdict = Signal("acceptance-verdict", Verdict)
blob = Signal("blob", bytes)


async def sums(count: int) -> list[int]:
    return [await number.receive() for _ in range(count)]


async def test_a_signal_is_rebuilt_by_its_declared_type(path: Path) -> None:
    @workflow
    async def flow() -> str:
        value = await verdict.receive()
        return f"{type(value).__name__} {value.ok} {value.by}"

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.signal(verdict, Verdict(True, "ann"))
        assert await handle.result() == "Verdict True ann"


async def test_what_arrives_before_anyone_listens_is_buffered_in_order(path: Path) -> None:
    open_up = asyncio.Event()

    @activity
    async def hold() -> None:
        await open_up.wait()

    @workflow
    async def flow() -> list[int]:
        await hold()
        return await sums(50)

    async with hosting(path) as client:
        handle = await client.start(flow)
        for each in range(50):
            await handle.signal(number, each)
        open_up.set()
        assert await handle.result() == list(range(50))


async def test_signals_to_a_run_that_no_worker_has_wait_in_the_store(path: Path) -> None:
    @workflow
    async def flow() -> list[int]:
        return await sums(3)

    async with Client.connect(path) as client:
        handle = await client.start(flow)
        for each in (1, 2, 3):
            await handle.signal(number, each)
        assert (await handle.describe()).signals  # they are shown
        async with Worker(client):
            assert await handle.result() == [1, 2, 3]


async def test_async_for_receives_one_after_the_other(path: Path) -> None:
    @workflow
    async def flow() -> int:
        total = 0
        async for value in number:
            if value == 0:
                break
            total += value
        return total

    async with hosting(path) as client:
        handle = await client.start(flow)
        for each in (1, 2, 3, 0):
            await handle.signal(number, each)
        assert await handle.result() == 6


async def test_each_value_goes_to_one_of_several_receivers(path: Path) -> None:
    @workflow
    async def flow() -> list[list[int]]:
        return list(await asyncio.gather(sums(2), sums(2)))

    async with hosting(path) as client:
        handle = await client.start(flow)
        for each in (1, 2, 3, 4):
            await handle.signal(number, each)
        first, second = await handle.result()
        assert sorted(first + second) == [1, 2, 3, 4]


async def test_a_receive_that_is_cancelled_loses_no_value(path: Path) -> None:
    @workflow
    async def flow() -> int:
        with suppress(TimeoutError):
            await asyncio.wait_for(number.receive(), 0.01)
        return await number.receive()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await described(handle, lambda d: not d.timers)
        await handle.signal(number, 5)
        assert await handle.result() == 5


async def test_an_unfit_value_is_refused_where_it_is_sent(path: Path) -> None:
    @workflow
    async def flow() -> list[int]:
        return await sums(1)

    async with hosting(path) as client:
        handle = await client.start(flow)
        with pytest.raises(InvalidArguments, match="signal number must be int"):
            await handle.signal(number, "many")  # type: ignore[misc]
        await handle.signal("number", 4)
        assert await handle.result() == [4]
        assert "SignalRejected" not in await kinds(handle)


async def test_an_unfit_value_from_a_stranger_is_recorded_as_rejected(path: Path) -> None:
    """A process that has not imported the declaration cannot check; the run is not hurt."""

    @workflow
    async def flow() -> list[int]:
        return await sums(1)

    async with hosting(path) as client, other_process(path) as other:
        handle = await client.start(flow, id="adding")
        await other.do("signal", id="adding", name="number", value="many")
        await other.do("signal", id="adding", name="number", value=3)
        assert await handle.result() == [3]
        (rejected,) = await of_kind(handle, "SignalRejected")
        assert rejected.fields["payload"] == "many"
        assert "signal number" in rejected.fields["error"]
        description = await handle.describe()
        assert (description.rejected, description.signals) == (("number",), ("number",))


async def test_other_processes_signal_through_the_file(path: Path) -> None:
    @workflow
    async def flow() -> list[int]:
        return await sums(20)

    async with hosting(path) as client, other_process(path) as other:
        handle = await client.start(flow, id="adding")
        for each in range(20):
            await other.do("signal", id="adding", name="number", value=each)
        assert await handle.result() == list(range(20))
        assert await other.do("result", id="adding") == list(range(20))


async def test_a_request_id_sends_once_also_after_a_restart(path: Path) -> None:
    @workflow
    async def flow() -> list[int]:
        return await sums(2)

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow)
            await handle.signal(number, 1, request_id="a")
            await handle.signal(number, 1, request_id="a")
        async with Worker(client):
            await handle.signal(number, 1, request_id="a")
            await handle.signal(number, 2, request_id="b")
            assert await handle.result() == [1, 2]
            # The answer is the same for ever, also from an execution that has ended.
            await handle.signal(number, 2, request_id="b")


async def test_a_closed_or_unknown_run_takes_no_signal(path: Path) -> None:
    @workflow
    async def flow() -> None: ...

    async with hosting(path) as client:
        handle = await client.start(flow, id="gone")
        await handle.result()
        with pytest.raises(WorkflowClosed, match=r"'gone' is closed \(completed\)"):
            await handle.signal(number, 1)
        with pytest.raises(WorkflowClosed):
            await handle.signal(number, 1, request_id="late")
        with pytest.raises(WorkflowNotFound, match="no workflow with the id 'never'"):
            await client.get_handle("never").signal(number, 1)


async def test_what_was_never_received_is_told_in_the_outcome(path: Path) -> None:
    @workflow
    async def flow() -> int:
        return await number.receive()

    async with Client.connect(path) as client:
        handle = await client.start(flow)
        for each in (1, 2, 3):
            await handle.signal(number, each)
        async with Worker(client):
            assert await handle.result() == 1
        (completed,) = await of_kind(handle, "RunCompleted")
        assert completed.fields["unread"] == ("number", "number")


async def test_unreceived_signals_are_carried_into_the_next_run(path: Path) -> None:
    @workflow
    async def flow(got: list[int] | None = None) -> list[int]:
        got = [*(got or []), await number.receive()]
        if len(got) < 5:
            continue_as_new(got=got)
        return got

    async with Client.connect(path) as client:
        handle = await client.start(flow)
        for each in range(3):
            await handle.signal(number, each)
        async with Worker(client):
            for each in range(3, 5):
                await handle.signal(number, each)
            assert await handle.result() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("way", ["direct", "request id", "no worker"])
async def test_a_large_signal_arrives_whole(path: Path, way: str) -> None:
    @workflow
    async def flow() -> int:
        return len(await blob.receive()) + len(await blob.receive())

    large = bytes(range(256)) * 1000
    async with Client.connect(path) as client:
        if way == "no worker":
            handle = await client.start(flow)
            await handle.signal(blob, large)
            async with Worker(client):
                await handle.signal(blob, b"1")
                assert await handle.result() == 256_001
            return
        async with Worker(client):
            handle = await client.start(flow)
            await handle.signal(blob, large, request_id="once" if way == "request id" else None)
            await handle.signal(blob, b"1")
            assert await handle.result() == 256_001


async def test_signals_race_with_the_end_and_none_is_lost_silently(path: Path) -> None:
    """Each send is received, told as unread, or refused: nothing else."""

    @workflow
    async def flow() -> list[int]:
        got = await sums(3)
        await asyncio.sleep(0)
        return got

    async def send(client: Client, workflow_id: str, value: int) -> bool:
        try:
            await client.get_handle(workflow_id).signal(number, value)
        except WorkflowClosed:
            return False
        return True

    async with hosting(path) as client:
        for round_number in range(10):
            name = f"race-{round_number}"
            handle = await client.start(flow, id=name)
            sent = await asyncio.gather(*(send(client, name, each) for each in range(8)))
            got = await handle.result()
            (completed,) = await of_kind(handle, "RunCompleted")
            assert sum(sent) == len(got) + len(completed.fields.get("unread", ()))
            assert got == sorted(got)


async def test_a_signal_reaches_a_run_that_is_being_cancelled(path: Path) -> None:
    @workflow
    async def flow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            assert await number.receive() == 9

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.cancel()
        await handle.signal(number, 9)
        with pytest.raises(WorkflowCancelled):
            await handle.result()


async def test_a_signal_that_arrives_while_its_run_is_being_claimed_is_delivered_in_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the claim's commit and its adoption: too late for one, too early for the other."""
    flow = workflow(name="sums_while_claimed")(sums)
    async with Client.connect(path) as client:
        handle = await client.start(flow, 2, id="one")
        worker = Worker(client, workflows=[flow])
        claim, deliver = client.engine.store.claim, worker.deliver
        came = asyncio.Event()

        async def claim_and_let_one_arrive(wants: Wants, now_us: int, room: int) -> list[LoadedRun]:
            loaded = await claim(wants, now_us, room)
            if loaded:
                await handle.signal(number, 1, request_id="r-1")
                await came.wait()
            return loaded

        def deliver_and_tell(mail: MailRow) -> bool:
            if mail.position > 1:  # The first is the start.
                came.set()
            return deliver(mail)

        monkeypatch.setattr(client.engine.store, "claim", claim_and_let_one_arrive)
        monkeypatch.setattr(worker, "deliver", deliver_and_tell)
        async with asyncio.timeout(10), worker:
            await came.wait()
            await handle.signal(number, 2, request_id="r-2")
            assert await handle.result() == [1, 2]


@pytest.mark.parametrize("cache_size", [1000, 0])
async def test_a_signal_that_begins_the_run_anew_does_not_overtake_the_inbox(
    path: Path, cache_size: int
) -> None:
    """With a request id a signal goes through the inbox, without one straight to the run: what one
    sender was told to be stored keeps its order, whatever way it took."""

    @workflow
    async def flow(got: tuple[int, ...] = ()) -> list[int]:
        got = (*got, await number.receive())
        if len(got) < 12:
            continue_as_new(got=got)
        return list(got)

    async with hosting(path, cache_size=cache_size) as client:
        handle = await client.start(flow)
        for each in range(0, 12, 3):
            # Its owner has not yet looked into the inbox when the second one is there.
            await handle.signal(number, each, request_id=f"{each}")
            await handle.signal(number, each + 1)
            await handle.signal(number, each + 2)
        assert await handle.result() == list(range(12))


async def test_order_holds_over_roll_overs_from_this_process_and_another(path: Path) -> None:
    """Each sends only behind the other's acknowledgement."""

    @workflow
    async def flow(got: tuple[int, ...] = ()) -> list[int]:
        got = (*got, await number.receive(), await number.receive())
        if len(got) < 30:
            continue_as_new(got=got)
        return list(got)

    async with hosting(path) as client, other_process(path) as other:
        handle = await client.start(flow, id="both")
        for each in range(0, 30, 3):
            await other.do("signal", id="both", name="number", value=each)
            await handle.signal(number, each + 1)
            await handle.signal(number, each + 2, request_id=f"{each}")
        assert await handle.result() == list(range(30))
