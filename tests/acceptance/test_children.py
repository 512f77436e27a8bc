"""A workflow that calls workflows: results, failures, cancellation, and the end of the parent."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import anyio
import pytest

from everlong import (
    Client,
    InvalidArguments,
    Signal,
    Worker,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowInfo,
    WorkflowNotFound,
    WorkflowTerminated,
    WorkflowTimedOut,
    activity,
    checkpoint,
    continue_as_new,
    get_handle,
    info,
    workflow,
)
from tests.support.gated_store import Gate, LossyStore
from tests.support.hosting import described, hosting, kinds, of_kind, until

go = Signal("children-go", int)
roll = Signal("children-roll", int)
both_caches = pytest.mark.parametrize("cache_size", [1000, 0])


@dataclass
class Receipt:
    order: int
    total: float


class OutOfStock(Exception):
    pass


async def ended(client: Client, workflow_id: str) -> str:
    """How an execution ended, once it has."""
    handle = client.get_handle(workflow_id)

    async def look() -> str | None:
        try:
            found = await handle.describe()
        except WorkflowNotFound:
            return None
        return found.status if found.closed_at is not None else None

    return await until(look)


async def open_child(handle: WorkflowHandle[Any]) -> str:
    """The workflow id of a parent's child, once the child waits for its signal."""
    (child,) = (await described(handle, lambda d: d.children)).children
    return child.workflow_id


# ---------------------------------------------------------------------------- results, failures


@both_caches
async def test_a_call_runs_a_child_and_returns_its_result_by_type(
    path: Path, cache_size: int
) -> None:
    @workflow
    async def ship(order: int) -> Receipt:
        await asyncio.sleep(0.001)
        assert info(WorkflowInfo).parent == "parent"
        return Receipt(order, 9.5)

    @workflow
    async def parent() -> float:
        assert info(WorkflowInfo).parent is None
        receipt = await ship(7)
        assert receipt == Receipt(7, 9.5)
        handle = await ship.start(8)
        first = await handle.result()
        assert (await handle) == first == Receipt(8, 9.5)
        return receipt.total + first.total

    async with hosting(path, cache_size=cache_size) as client:
        handle = await client.start(parent, id="parent")
        assert await handle.result() == 19.0
        ids = [one.fields["target"] for one in await of_kind(handle, "ChildScheduled")]
        assert all(one.startswith("parent/") for one in ids)
        child = await client.get_handle(ids[0], ship).describe()
        assert child.parent == "parent"
        assert await client.get_handle(ids[0], ship).result() == Receipt(7, 9.5)
        assert await client.verify() == []


@both_caches
async def test_a_failed_child_raises_with_its_exception_as_the_cause(
    path: Path, cache_size: int
) -> None:
    @workflow(raises=[OutOfStock])
    async def ship(order: int) -> None:
        raise OutOfStock(f"no {order}")

    @workflow
    async def parent() -> str:
        try:
            await ship(7)
        except WorkflowFailed as error:
            await asyncio.sleep(0.001)
            return f"{error.__cause__!r} {error.type}"
        return "shipped"

    async with hosting(path, cache_size=cache_size) as client:
        result = await client.run(parent)
        assert result.startswith("OutOfStock('no 7') ")
        assert result.endswith("OutOfStock")


async def test_a_failure_that_nobody_catches_fails_the_parent_with_both_causes(path: Path) -> None:
    @workflow
    async def ship() -> None:
        raise ValueError("no")

    @workflow
    async def parent() -> None:
        await ship()

    async with hosting(path) as client:
        with pytest.raises(WorkflowFailed) as caught:
            await client.run(parent)
        assert isinstance(caught.value.__cause__, WorkflowFailed)
        assert isinstance(caught.value.__cause__.__cause__, ValueError)


async def test_every_way_to_end_has_its_exception(path: Path) -> None:
    @workflow
    async def waits() -> int:
        return await go.receive()

    @workflow
    async def parent(run_timeout: float | None) -> str:
        try:
            await waits.options(id="child", run_timeout=run_timeout)()
        except (WorkflowCancelled, WorkflowTerminated, WorkflowTimedOut) as error:
            return f"{type(error).__name__}: {error}"
        return "completed"

    async with hosting(path) as client:
        handle = await client.start(parent, None)
        await described(client.get_handle(await open_child(handle)), lambda d: d.history_events)
        await client.get_handle("child").cancel("enough")
        assert (
            await handle.result()
            == "WorkflowCancelled: The workflow 'child' was cancelled: enough."
        )
        handle = await client.start(parent, None)
        await open_child(handle)
        await client.get_handle("child").terminate("at once")
        assert "terminated: at once" in await handle.result()
        assert "within its run timeout" in await client.run(parent, 0.01)


async def test_wrong_arguments_are_refused_at_the_call(path: Path) -> None:
    @workflow
    async def ship(order: int) -> None: ...

    @workflow
    async def parent() -> str:
        try:
            await ship("seven")  # type: ignore[arg-type]
        except InvalidArguments:
            return "refused"
        return "shipped"

    async with hosting(path) as client:
        handle = await client.start(parent)
        assert await handle.result() == "refused"
        assert await kinds(handle) == ["RunStarted", "RunCompleted"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": "x" * 513},
        {"on_parent_close": "ignore"},
        {"if_open": "?"},
        {"if_closed": "?"},
        {"run_timeout": 0},
        {"execution_timeout": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    @workflow
    async def ship() -> None: ...

    with pytest.raises((ValueError, InvalidArguments)):
        ship.options(**wrong)


async def test_outside_a_workflow_a_call_just_runs(path: Path) -> None:
    @workflow
    async def double(n: int) -> int:
        return 2 * n

    assert await double(2) == 4
    assert await double.options(id="x")(3) == 6
    with pytest.raises(Exception, match=r"client\.start"):
        await double.start(3)


# ------------------------------------------------------------------------------------- policies


async def test_an_id_that_is_taken_raises_in_the_parent(path: Path) -> None:
    @workflow
    async def waits() -> int:
        return await go.receive()

    @workflow
    async def parent(if_open: str) -> str:
        child = waits.options(id="taken", if_open=if_open)  # type: ignore[arg-type]
        try:
            return str(await child())
        except WorkflowAlreadyStarted as error:
            started = error
        try:
            await child.start()
        except WorkflowAlreadyStarted as error:
            return f"{started.workflow_id} {error.status}"
        return "?"

    async with hosting(path) as client:
        taken = await client.start(waits, id="taken")
        assert await client.run(parent, "fail") == "taken running"
        using = await client.start(parent, "use")
        await described(using, lambda d: d.children)
        await taken.signal(go, 5)
        assert await using.result() == "5"
        taken = await client.start(waits, id="taken")
        in_place = await client.start(parent, "terminate")
        with pytest.raises(WorkflowTerminated):
            await taken.result()
        await client.get_handle("taken").signal(go, 6)
        assert await in_place.result() == "6"
        assert await client.verify() == []


async def test_one_that_was_used_is_not_ended_with_the_parent(path: Path) -> None:
    @workflow
    async def waits() -> int:
        return await go.receive()

    @workflow
    async def parent() -> None:
        await waits.options(id="taken", if_open="use")()

    async with hosting(path) as client:
        taken = await client.start(waits, id="taken")
        using = await client.start(parent)
        await described(using, lambda d: d.children)
        await using.terminate()
        await taken.signal(go, 5)
        assert await taken.result() == 5


async def test_a_closed_id_is_judged_by_its_policy(path: Path) -> None:
    @workflow
    async def quick() -> str:
        return "done"

    @workflow
    async def parent() -> list[str]:
        once = quick.options(id="quick", if_closed="fail")
        found = [await once()]
        try:
            await once()
        except WorkflowAlreadyStarted as error:
            found.append(str(error.status))
        return [*found, await quick.options(id="quick")()]

    async with hosting(path) as client:
        assert await client.run(parent) == ["done", "completed", "done"]


# --------------------------------------------------------------------------- the parent's end


@workflow
async def tidies(name: str) -> None:
    try:
        await go.receive()
    finally:
        await note(f"{name} tidied up")


notes: list[str] = []


@activity
async def note(text: str) -> None:
    notes.append(text)


@workflow
async def family(policy: str, end: str) -> None:
    await tidies.options(id="child", on_parent_close=policy).start("child")  # type: ignore[arg-type]
    await go.receive()
    if end == "fail":
        raise ValueError("no")


FLOWS: list[Any] = [tidies, family]


ENDS = {
    "complete": "completed",
    "fail": "failed",
    "cancel": "cancelled",
    "terminate": "terminated",
    "time out": "timed_out",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("policy", ["terminate", "cancel", "abandon"])
async def test_a_parents_end_is_told_to_its_children(path: Path, end: str, policy: str) -> None:
    notes.clear()
    async with Client.connect(path) as client, Worker(client, workflows=FLOWS, activities=[note]):
        timeout = 0.2 if end == "time out" else None
        handle = await client.start(family, policy, end, id="parent", run_timeout=timeout)
        child = client.get_handle("child")
        await until(lambda: _has_begun(client, "child"))
        match end:
            case "cancel":
                await handle.cancel()
            case "terminate":
                await handle.terminate()
            case "time out":
                pass
            case _:
                await handle.signal(go, 1)
        assert await ended(client, "parent") == ENDS[end]
        if policy == "abandon":
            assert (await child.describe()).status == "running"
            await child.signal(go, 1)
            assert await ended(client, "child") == "completed"
        elif policy == "cancel":
            assert await ended(client, "child") == "cancelled"
        else:
            assert await ended(client, "child") == "terminated"
            with pytest.raises(WorkflowTerminated, match="its parent parent "):
                await child.result()
        assert notes == ([] if policy == "terminate" else ["child tidied up"])
        assert await client.verify() == []


async def _has_begun(client: Client, workflow_id: str) -> bool:
    try:
        return (await client.get_handle(workflow_id).describe()).history_events > 0
    except WorkflowNotFound:
        return False


async def test_grandchildren_end_with_the_first_of_the_family(path: Path) -> None:
    @workflow
    async def nested(depth: int) -> None:
        if depth:
            await nested.options(id=f"n{depth - 1}")(depth - 1)
        await go.receive()

    async with hosting(path) as client:
        handle = await client.start(nested, 30, id="n30")
        await until(lambda: _has_begun(client, "n0"))
        await handle.terminate("all of it")
        for depth in range(30):
            assert await ended(client, f"n{depth}") == "terminated"
        assert await client.verify() == []


async def test_no_worker_is_needed_to_end_a_family(path: Path) -> None:
    async with Client.connect(path) as client:
        async with Worker(client, workflows=FLOWS, activities=[note]):
            handle = await client.start(family, "terminate", "", id="parent")
            await until(lambda: _has_begun(client, "child"))
        await handle.terminate()
        assert (await client.get_handle("child").describe()).status == "terminated"


async def test_a_child_that_would_end_at_once_is_not_begun(path: Path) -> None:
    @workflow
    async def waits() -> int:
        return await go.receive()

    @workflow
    async def parent() -> None:
        one = asyncio.ensure_future(waits.options(id="one")())
        two = asyncio.ensure_future(waits.options(id="two", on_parent_close="abandon")())
        await asyncio.sleep(0)
        assert not one.done()
        assert not two.done()

    async with hosting(path) as client:
        await client.run(parent)
        assert (await client.get_handle("two").describe()).status == "running"
        with pytest.raises(WorkflowNotFound):
            await client.get_handle("one").describe()
        assert await client.verify() == []


@pytest.mark.parametrize(
    ("policy", "status"),
    [("terminate", "terminated"), ("cancel", "cancelled"), ("abandon", "running")],
)
async def test_a_parent_whose_end_shares_the_commit_of_its_childs_beginning(
    path: Path, policy: Any, status: str
) -> None:
    ends = asyncio.Event()

    @workflow
    async def waits() -> int:
        return await go.receive()

    @workflow
    async def parent() -> None:
        await go.receive()
        call = asyncio.ensure_future(waits.options(id="child", on_parent_close=policy)())
        await go.receive()
        ends.set()
        assert not call.done()

    # With the cache: what is not in memory is fed nothing while the gate is shut.
    async with hosting(path, cache_size=1_000) as client:
        first, handle = await client.start(waits), await client.start(parent)
        gate = Gate(client)
        gate.shut()
        sent = [asyncio.ensure_future(first.signal(go, 0))]
        await gate.arrived.wait()  # What comes now is one group.
        sent += [asyncio.ensure_future(handle.signal(go, n)) for n in (1, 2)]
        await ends.wait()
        gate.open()
        await asyncio.gather(*sent)
        await handle.result()
        child = client.get_handle("child")
        assert (await described(child, lambda d: d.status == status)).status == status
        assert await client.verify() == []


# ---------------------------------------------------------------------------------- cancellation


@both_caches
async def test_cancelling_the_call_asks_the_child_to_stop(path: Path, cache_size: int) -> None:
    notes.clear()

    @workflow
    async def parent() -> str:
        try:
            async with asyncio.timeout(0.05):
                await tidies.options(id="child", on_cancel="try")("child")
        except TimeoutError:
            await go.receive()
        return "went on"

    flows: list[Any] = [tidies, parent]
    options: Any = {"workflows": flows, "activities": [note], "cache_size": cache_size}
    async with hosting(path, **options) as client:
        handle = await client.start(parent)
        assert await ended(client, "child") == "cancelled"
        await handle.signal(go, 1)
        assert await handle.result() == "went on"
        assert notes == ["child tidied up"]
        assert "ChildClosed" not in await kinds(handle)


async def test_what_is_begun_and_cancelled_in_one_drive_leaves_no_trace(path: Path) -> None:
    @workflow
    async def parent() -> None:
        task = asyncio.ensure_future(tidies.options(id="child")("x"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async with hosting(path, workflows=[parent, tidies], activities=[note]) as client:
        handle = await client.start(parent)
        await handle.result()
        assert await kinds(handle) == ["RunStarted", "RunCompleted"]


async def test_cancelling_the_wait_of_a_handle_leaves_the_child_alone(path: Path) -> None:
    @workflow
    async def waits() -> int:
        return await go.receive()

    @workflow
    async def parent() -> int:
        handle = await waits.options(id="child").start()
        for _ in range(3):
            try:
                await asyncio.wait_for(handle.result(), 0.001)
            except TimeoutError:
                continue
        await handle.signal(go, 4)
        return await handle.result()

    async with hosting(path) as client:
        assert await client.run(parent) == 4


@pytest.mark.once
async def test_a_parents_cancel_works_at_once_while_its_child_is_only_being_started(
    path: Path,
) -> None:
    """No worker hosts the child, and its start is not even stored yet."""

    @workflow
    async def nobody_hosts_it() -> None: ...

    @workflow
    async def parent(*, start: bool) -> None:
        await go.receive()
        child = nobody_hosts_it.options(id="child", on_parent_close="abandon", on_cancel="try")
        await (child.start() if start else child())
        await go.receive()

    for start in (True, False):
        async with hosting(path, workflows=[parent]) as client:
            gate = Gate(client)
            handle = await client.start(parent, start=start)
            gate.shut()
            sending = asyncio.ensure_future(handle.signal(go, 1))
            await gate.arrived.wait()
            cancelling = asyncio.ensure_future(handle.cancel("at once"))
            await asyncio.sleep(0)
            gate.open()
            await asyncio.gather(sending, cancelling)
            with pytest.raises(WorkflowCancelled):
                await handle.result()
            child = await client.get_handle("child").describe()
            # Its start, and where it was not known to be there, the request to cancel.
            assert len(child.signals) == (1 if start else 2)
            await client.get_handle("child").terminate()
            assert await client.verify() == []


@both_caches
async def test_a_cancelled_parent_waits_until_its_child_has_cleaned_up(
    path: Path, cache_size: int
) -> None:
    notes.clear()

    @workflow
    async def patient_parent() -> None:
        try:
            await tidies.options(id="child")("child")
        finally:
            await note("parent tidied up")

    flows: list[Any] = [tidies, patient_parent]
    options: Any = {"workflows": flows, "activities": [note], "cache_size": cache_size}
    async with hosting(path, **options) as client:
        handle = await client.start(patient_parent)
        await open_child(handle)
        await handle.cancel("enough")
        with pytest.raises(WorkflowCancelled, match="enough"):
            await handle.result()
        assert notes == ["child tidied up", "parent tidied up"]
        with pytest.raises(WorkflowCancelled, match="enough"):
            await client.get_handle("child").result()
        recorded = await kinds(handle)
        assert recorded.index("ChildCancelRequested") < recorded.index("ChildClosed")
        assert await client.verify() == []


class Told(Exception):
    pass


@pytest.mark.parametrize("how", ["completes", "fails", "is terminated"])
async def test_a_cancellation_stands_whatever_came_of_the_child(path: Path, how: str) -> None:
    @workflow
    async def obstinate() -> str:
        try:
            await go.receive()
        except asyncio.CancelledError:
            if how == "fails":
                raise Told from None
            if how == "is terminated":
                await go.receive()
        return "well"

    @workflow
    async def hurried_parent() -> str:
        limit = asyncio.timeout(0.05)
        try:
            async with limit:
                return await obstinate.options(id="child")()
        except TimeoutError:
            return f"timed out {limit.expired()}"

    async with hosting(path) as client:
        handle = await client.start(hurried_parent)
        if how == "is terminated":
            child = client.get_handle("child")
            await described(handle, lambda one: any(it for it in one.children))
            await until(lambda: _asked(child))
            assert (await handle.describe()).children != ()  # It is still waited for.
            await child.terminate()
        assert await handle.result() == "timed out True"
        assert (await kinds(handle)).count("ChildClosed") == 1


async def _asked(child: Any) -> bool:
    return "CancelRequested" in await kinds(child)


async def test_every_way_of_asking_again_leaves_a_waiting_call_alone(path: Path) -> None:
    """A second cancellation, and anyio's, which is repeated for as long as a task waits."""

    @workflow
    async def slow(*, hold: bool = False) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            if hold:
                await go.receive()
            else:
                await asyncio.sleep(0.01)

    @workflow
    async def insisting_parent() -> list[str]:
        told: list[str] = []
        with anyio.move_on_after(0.01) as scope:
            await slow()
        told.append(f"anyio {scope.cancelled_caught}")
        task = asyncio.ensure_future(slow.options(id="held")(hold=True))
        await asyncio.sleep(0.01)
        for _ in range(3):
            task.cancel("again")
            await asyncio.sleep(0.001)
        told.append(f"waits {not task.done()}")
        await get_handle("held").signal(go, 1)
        (end,) = await asyncio.gather(task, return_exceptions=True)
        return [*told, type(end).__name__]

    async with hosting(path, cache_size=0) as client:
        result = await client.run(insisting_parent)
        assert result == ["anyio True", "waits True", "CancelledError"]


async def test_an_abandoned_call_leaves_its_child_alone(path: Path) -> None:
    @workflow
    async def lives_on() -> int:
        return await go.receive()

    @workflow
    async def leaving_parent() -> str:
        try:
            async with asyncio.timeout(0.01):
                await lives_on.options(id="child", on_cancel="abandon", on_parent_close="abandon")()
        except TimeoutError:
            return "left"
        return "stayed"

    async with hosting(path) as client:
        handle = await client.start(leaving_parent)
        assert await handle.result() == "left"
        assert "ChildCancelRequested" not in await kinds(handle)
        child = client.get_handle("child", lives_on)
        assert (await child.describe()).cancel_requested is False
        await child.signal(go, 3)
        assert await child.result() == 3
        with pytest.raises(ValueError, match="on_cancel='perhaps': choose one of"):
            lives_on.options(on_cancel=cast("Any", "perhaps"))


@pytest.mark.parametrize("on_cancel", ["try", "wait"])
async def test_a_child_that_ends_as_its_parent_is_cancelled_has_one_outcome(
    path: Path, on_cancel: Literal["try", "wait"]
) -> None:
    @workflow
    async def waits() -> int:
        return await go.receive()

    @workflow
    async def parent(number: int) -> str:
        child = waits.options(id=f"child-{number}", on_parent_close="cancel", on_cancel=on_cancel)
        try:
            return f"got {await child()}"
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            raise

    async with hosting(path, cache_size=2) as client:
        for number in range(40):
            handle = await client.start(parent, number)
            child = await open_child(handle)
            async with asyncio.timeout(20):
                sending = asyncio.ensure_future(client.get_handle(child).signal(go, number))
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                await asyncio.gather(sending, handle.cancel(), return_exceptions=True)
                try:
                    outcome = await handle.result()
                except WorkflowCancelled:
                    outcome = "cancelled"
                await ended(client, child)
            recorded = await kinds(handle)
            closed = recorded.count("ChildClosed")
            asked = recorded.count("ChildCancelRequested")
            assert closed + asked == 1 or (on_cancel, closed, asked) == ("wait", 1, 1)
            if asked:
                assert outcome == "cancelled"
        assert await client.verify() == []


# ----------------------------------------------------------------------- continue-as-new, restarts


@both_caches
async def test_a_child_that_begins_anew_is_followed_to_its_end(path: Path, cache_size: int) -> None:
    @workflow
    async def hops(left: int) -> str:
        if left:
            continue_as_new(left=left - 1)
        assert info(WorkflowInfo).parent == "parent"
        return "arrived"

    @workflow
    async def parent() -> str:
        return await hops(10)

    async with hosting(path, cache_size=cache_size) as client:
        handle = await client.start(parent, id="parent")
        assert await handle.result() == "arrived"
        assert (await kinds(handle)).count("ChildClosed") == 1


@both_caches
async def test_a_parent_that_begins_anew_keeps_its_children_and_hears_of_its_own_only(
    path: Path, cache_size: int
) -> None:
    @workflow
    async def waits(number: int) -> int:
        await go.receive()
        return number

    @workflow
    async def parent(hop: int = 0) -> int:
        handle = await waits.options(id=f"old-{hop}").start(hop)
        if hop < 10:
            pending = asyncio.ensure_future(handle.result())
            await asyncio.sleep(0)
            assert not pending.done()
            continue_as_new(hop=hop + 1)
        return await handle.result()

    async with hosting(path, cache_size=cache_size) as client:
        handle = await client.start(parent, id="parent")
        await until(lambda: _has_begun(client, "old-10"))
        for number in range(5):  # Nobody misleads the last run with the numbers of earlier ones.
            await client.get_handle(f"old-{number}").signal(go, 1)
            assert await ended(client, f"old-{number}") == "completed"
        assert (await client.get_handle("old-7").describe()).status == "running"
        await client.get_handle("old-10").signal(go, 1)
        assert await handle.result() == 10
        for number in range(5, 10):
            assert await ended(client, f"old-{number}") == "terminated"
        assert await client.verify() == []


async def test_an_end_that_waits_in_the_inbox_does_not_mislead_the_next_run(path: Path) -> None:
    """Both runs call their child number 1; the first one ends before the next run is there."""

    @workflow
    async def waits(number: int) -> int:
        await go.receive()
        return number

    @workflow
    async def parent(hop: int = 0) -> int:
        handle = await waits.options(id=f"child-{hop}").start(hop)
        if hop == 0:
            await roll.receive()
            continue_as_new(hop=1)
        return await handle.result()

    both: Any = [parent, waits]
    async with Client.connect(path) as client:
        async with Worker(client, workflows=both):
            handle = await client.start(parent)
            await until(lambda: _has_begun(client, "child-0"))
        await handle.signal(roll, 1)
        async with Worker(client, workflows=[waits]):
            await client.get_handle("child-0").signal(go, 1)
            assert await ended(client, "child-0") == "completed"
        assert (await handle.describe()).signals.count("(in the inbox)") == 2
        async with Worker(client, workflows=both):
            await until(lambda: _has_begun(client, "child-1"))
            await client.get_handle("child-1").signal(go, 1)
            assert await handle.result() == 1
        assert (await kinds(handle)).count("ChildClosed") == 1
        assert await client.verify() == []


async def test_ids_that_nobody_chose_never_clash(path: Path) -> None:
    @workflow
    async def waits() -> int:
        return await go.receive()

    @workflow
    async def parent(hop: int = 0) -> list[str]:
        handle = await waits.options(on_parent_close="abandon").start()
        if hop < 10:
            continue_as_new(hop=hop + 1)
        return [handle.workflow_id]

    async with hosting(path) as client:
        for _ in range(3):
            await client.run(parent, id="parent")
        children = (await client.list(type="waits", limit=100)).items
        assert len(children) == 33
        assert {one.status for one in children} == {"running"}


async def test_names_of_children_of_children_do_not_grow_without_end(path: Path) -> None:
    @workflow
    async def nested(depth: int) -> int:
        assert len(info(WorkflowInfo).workflow_id) <= 512
        return depth if depth == 0 else await nested(depth - 1)

    async with hosting(path) as client:
        assert await client.run(nested, 60, id="i" * 400) == 0


async def test_a_checkpoint_does_not_begin_anew_while_a_child_is_awaited(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everlong_engine.model.limits.CHECKPOINT_EVENTS", 4)

    @workflow
    async def waits() -> int:
        return await go.receive()

    @workflow
    async def parent(got: int = 0) -> int:
        if got:
            return got
        handle = await waits.options(id="child").start()
        pending = asyncio.ensure_future(handle.result())
        for _ in range(5):
            await asyncio.sleep(0.001)
            await checkpoint(got=-1)
        await handle.signal(go, 7)
        result = await pending
        await checkpoint(got=result)
        return -2

    async with hosting(path) as client:
        assert await client.run(parent) == 7


async def test_what_was_sent_is_not_sent_again_by_a_replay(path: Path) -> None:
    """Every step of it on a fresh worker, whose replay meets the same answers."""
    began: list[str] = []

    @activity
    async def begins(name: str) -> None:
        began.append(name)

    @workflow
    async def child(name: str) -> str:
        await begins(name)
        await go.receive()
        return name

    @workflow
    async def parent() -> list[str]:
        first = await child.options(id="one").start("one")
        second = await child.options(id="two")("two")
        await first.signal(go, 1)
        return [await first.result(), second]

    flows: Any = {"workflows": [child, parent], "activities": [begins]}
    async with Client.connect(path) as client:
        async with Worker(client, **flows):
            handle = await client.start(parent)
            await until(lambda: _has_begun(client, "two"))
        async with Worker(client, **flows):
            await client.get_handle("two").signal(go, 1)
            assert await ended(client, "two") == "completed"
        async with Worker(client, **flows):
            assert await handle.result() == ["one", "two"]
    assert sorted(began) == ["one", "two"]


async def test_a_child_of_a_type_that_another_worker_hosts(path: Path) -> None:
    @workflow
    async def child() -> str:
        return "from over there"

    @workflow
    async def parent() -> str:
        return await child()

    async with Client.connect(path) as client, Worker(client, workflows=[parent]):
        handle = await client.start(parent)
        await open_child(handle)
        async with Worker(client, workflows=[child]):
            assert await handle.result() == "from over there"


async def test_a_group_that_is_repeated_begins_no_child_twice(path: Path) -> None:
    began: list[int] = []

    @activity
    async def begins() -> None:
        began.append(1)

    @workflow
    async def child() -> str:
        await begins()
        return "once"

    @workflow
    async def parent() -> str:
        await go.receive()
        handle = await child.start()
        return await handle.result()

    async with hosting(path) as client:
        handle = await client.start(parent)
        lossy = LossyStore(client)
        lossy.lose("submit")
        await handle.signal(go, 1)
        assert await handle.result() == "once"
        assert lossy.lost
        assert began == [1]
        assert (await kinds(handle)).count("ChildStarted") == 1
        children = (await client.list(type="child")).items
        assert len(children) == 1
        assert await client.verify() == []


async def test_a_thousand_children_in_a_gather(path: Path) -> None:
    @workflow
    async def double(n: int) -> int:
        return 2 * n

    @workflow
    async def parent() -> int:
        return sum(await asyncio.gather(*(double(n) for n in range(1000))))

    async with Client.connect(path, durability="relaxed") as client, Worker(client):
        assert await client.run(parent) == 999_000
        assert await client.verify() == []


async def test_large_results_and_failures_reach_the_parent(path: Path) -> None:
    @workflow
    async def large(size: int) -> str:
        await asyncio.sleep(0.001)
        if size < 0:
            raise ValueError("y" * 100_000)
        return "x" * size

    @workflow
    async def parent(text: str) -> int:
        found = await large(200_000)
        try:
            await large(-1)
        except WorkflowFailed as error:
            return len(found) + len(str(error.__cause__)) + len(text)
        return 0

    async with hosting(path, cache_size=0) as client:
        assert await client.run(parent, "z" * 70_000) > 270_000
        assert await client.verify() == []


# -------------------------------------------------------------------------------- what is shown


async def test_what_a_parent_waits_for_is_described(path: Path) -> None:
    async with hosting(path, workflows=FLOWS, activities=[note]) as client:
        handle = await client.start(family, "cancel", "", id="parent")
        await until(lambda: _has_begun(client, "child"))
        seen = await handle.describe()
        (child,) = seen.children
        assert (child.name, child.workflow_id) == ("tidies", "child")
        assert child.on_parent_close == "cancel"
        assert child.where.startswith("test_children.py:")
        assert seen.parent is None
        assert (await client.get_handle("child").describe()).parent == "parent"
        await handle.terminate()
        assert (await handle.describe()).children == ()
