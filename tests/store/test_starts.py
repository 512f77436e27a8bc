"""Starting executions: one open run per workflow id, policies, request ids."""

from typing import Literal

import pytest

from everlong_engine.model.events import RunCompleted, RunContinuedAsNew, RunStarted
from everlong_engine.model.runs import RunStatus
from everlong_engine.model.writes import StartResult
from tests.support.store_rig import SECOND_US, Rig


async def test_a_start_lies_in_the_inbox_until_it_is_claimed(rig: Rig) -> None:
    row = await rig.started()
    assert (row.status, row.next_seq, row.owner, row.wake_us) == (
        RunStatus.RUNNING,
        1,
        None,
        rig.now_us,
    )
    loaded = await rig.claim_one()
    assert loaded.history == []
    (mail,) = loaded.mail
    assert mail.execution_id == row.execution_id


async def test_the_newest_run_is_the_one_with_the_greatest_id(rig: Rig) -> None:
    assert await rig.store.newest_run() is None
    rows = [await rig.started(workflow_id=name) for name in ("a", "b", "c")]
    assert await rig.store.newest_run() == max(row.run_id for row in rows)


async def test_a_start_that_was_driven_already_is_owned_from_the_beginning(rig: Rig) -> None:
    row = await rig.owned()
    assert (row.owner, row.lease_token, row.next_seq) == (rig.worker_id, 1, 2)
    assert await rig.claim() == []
    assert isinstance((await rig.load()).history[0].event, RunStarted)


async def test_a_run_may_end_in_its_first_drive(rig: Rig) -> None:
    row = await rig.closed()
    assert (row.status, row.owner, row.closed_us) == (RunStatus.COMPLETED, None, rig.now_us)
    last = await rig.store.last_event(row.shard, row.run_id)
    assert last is not None
    assert last.event == RunCompleted(b"done")


async def test_an_open_workflow_id_is_used_or_refused(rig: Rig) -> None:
    row = await rig.started()
    used = await rig.one(rig.start())
    assert used == StartResult(False, row.run_id, row.execution_id, RunStatus.RUNNING)
    failed = await rig.one(rig.start(if_open="fail"))
    assert isinstance(failed, StartResult)
    assert failed.refused


async def test_a_run_that_ends_in_its_first_drive_asks_for_its_workflow_id_too(rig: Rig) -> None:
    row = await rig.started()
    used = await rig.one(rig.start_here("w", RunCompleted(b"done")))
    assert used == StartResult(False, row.run_id, row.execution_id, RunStatus.RUNNING)
    refused = await rig.one(rig.start_here("w", RunCompleted(b"done"), if_open="fail"))
    assert isinstance(refused, StartResult)
    assert refused.refused
    assert await rig.row() == row


async def test_two_starts_of_one_group_make_one_execution(rig: Rig) -> None:
    first, second = await rig.group(rig.start(), rig.start())
    assert isinstance(first, StartResult)
    assert isinstance(second, StartResult)
    assert (first.created, second.created) == (True, False)
    assert second.run_id == first.run_id


@pytest.mark.parametrize(
    ("if_closed", "created"), [("allow", True), ("fail", False), ("allow_failed", False)]
)
async def test_a_completed_workflow_id_may_be_taken_again(
    rig: Rig, if_closed: Literal["allow", "fail", "allow_failed"], created: bool
) -> None:
    await rig.closed()
    result = await rig.one(rig.start(if_closed=if_closed))
    assert isinstance(result, StartResult)
    assert (result.created, result.refused) == (created, not created)


@pytest.mark.parametrize(("if_closed", "created"), [("fail", False), ("allow_failed", True)])
async def test_a_terminated_workflow_id_may_be_taken_again(
    rig: Rig, if_closed: Literal["fail", "allow_failed"], created: bool
) -> None:
    await rig.started()
    await rig.one(rig.terminate())
    result = await rig.one(rig.start(if_closed=if_closed))
    assert isinstance(result, StartResult)
    assert result.created is created


async def test_conditions_see_what_ended_earlier_in_the_same_group(rig: Rig) -> None:
    done = RunCompleted(b"done")
    first, second = await rig.group(
        rig.start_here("w", done, if_closed="fail"), rig.start_here("w", done, if_closed="fail")
    )
    assert isinstance(first, StartResult)
    assert isinstance(second, StartResult)
    assert first.created
    assert second.refused


async def test_a_repeated_request_finds_what_it_began(rig: Rig) -> None:
    row = await rig.started(request_id="r")
    again = await rig.one(rig.start(request_id="r", if_open="fail"))
    assert again == StartResult(
        False, row.run_id, row.execution_id, RunStatus.RUNNING, same_request=True
    )


async def test_a_repeated_request_of_the_same_group_begins_nothing(rig: Rig) -> None:
    done = RunCompleted(b"done")
    first, second = await rig.group(
        rig.start_here("w", done, request_id="r"), rig.start_here("w", done, request_id="r")
    )
    assert isinstance(first, StartResult)
    assert isinstance(second, StartResult)
    assert second.same_request
    assert second.run_id == first.run_id


async def test_a_request_is_remembered_behind_later_executions(rig: Rig) -> None:
    row = await rig.closed(request_id="one")
    await rig.started(request_id="two")
    again = await rig.one(rig.start(request_id="one"))
    assert isinstance(again, StartResult)
    assert (again.same_request, again.run_id) == (True, row.run_id)


async def test_a_request_is_remembered_after_a_roll_over(rig: Rig) -> None:
    row = await rig.owned(request_id="r")
    append = rig.append(row, RunContinuedAsNew(b"", (), 1), next_run=rig.successor(row))
    await rig.one(append)
    again = await rig.one(rig.start(request_id="r", if_open="fail"))
    assert isinstance(again, StartResult)
    assert (again.same_request, again.execution_id) == (True, row.execution_id)


@pytest.mark.parametrize("end", ["close", "terminate"])
async def test_a_request_that_used_an_open_execution_is_remembered_behind_its_end(
    rig: Rig, end: str
) -> None:
    row = await rig.owned()
    used = await rig.one(rig.start(request_id="r"))
    assert used == StartResult(False, row.run_id, row.execution_id, RunStatus.RUNNING)
    await rig.one(rig.append(row, RunCompleted(b"done")) if end == "close" else rig.terminate())
    status = RunStatus.COMPLETED if end == "close" else RunStatus.TERMINATED
    same = StartResult(False, row.run_id, row.execution_id, status, same_request=True)
    assert await rig.one(rig.start(request_id="r", if_open="fail", if_closed="fail")) == same
    await rig.closed()
    await rig.started()
    assert await rig.one(rig.start(request_id="r")) == same
    assert await rig.problems() == []


async def test_a_request_that_used_an_execution_names_the_run_that_it_was_told(rig: Rig) -> None:
    row = await rig.owned()
    await rig.one(rig.start(request_id="r"))
    await rig.one(rig.append(row, RunContinuedAsNew(b"", (), 1), next_run=rig.successor(row)))
    again = await rig.one(rig.start(request_id="r"))
    assert again == StartResult(
        False, row.run_id, row.execution_id, RunStatus.RUNNING, same_request=True
    )


@pytest.mark.parametrize("if_open", ["fail", "terminate"])
async def test_a_request_that_used_nothing_may_begin_one_later(
    rig: Rig, if_open: Literal["fail", "terminate"]
) -> None:
    """One was refused; the other looked who is in the way, to end that first."""
    await rig.started()
    looked = await rig.one(rig.start(request_id="r", if_open=if_open))
    assert isinstance(looked, StartResult)
    assert (looked.created, looked.refused) == (False, if_open == "fail")
    await rig.one(rig.terminate())
    begun = await rig.one(rig.start(request_id="r", if_open=if_open))
    assert isinstance(begun, StartResult)
    assert begun.created


async def test_a_start_and_a_message_of_one_request_id_are_two_requests(rig: Rig) -> None:
    row = await rig.owned()
    await rig.one(rig.start(request_id="r"))
    assert (await rig.send(request_id="r")).position is not None
    assert (await rig.send(request_id="r")).duplicate
    again = await rig.one(rig.start(request_id="r"))
    assert isinstance(again, StartResult)
    assert (again.same_request, again.run_id) == (True, row.run_id)


async def test_starts_are_known_again_when_their_group_is_repeated(rig: Rig) -> None:
    """Also those that ended at once, in the same group, under one workflow id."""
    done = RunCompleted(b"done")
    group = [
        rig.start_here("w", done),
        rig.start_here("w", done),
        rig.start_here("w", done, if_closed="allow_failed", request_id="r"),
        rig.start("x", if_closed="fail"),
        rig.start("x", request_id="s"),
    ]
    first = await rig.group(*group)
    again = await rig.group(*group)
    told = [one.run_id for one in first if isinstance(one, StartResult)]
    assert [one.run_id for one in again if isinstance(one, StartResult)] == told
    created = [isinstance(one, StartResult) and one.created for one in first]
    assert [isinstance(one, StartResult) and one.created for one in again] == created
    assert await rig.problems() == []


async def test_a_clock_that_was_set_back_hides_no_open_run(rig: Rig) -> None:
    """Ids grow with time, and another process's clock may be behind."""
    closed = await rig.closed()
    behind = Rig(rig.store, seed=8)
    behind.now_us -= 3600 * SECOND_US
    row = await behind.started()
    assert row.run_id < closed.run_id
    assert await rig.row() == row
    assert (await rig.send()).run_id == row.run_id
    earlier = await rig.store.latest(rig.target(execution_id=closed.execution_id))
    assert earlier is not None
    assert earlier.run_id == closed.run_id
    await rig.one(rig.terminate())
    assert await rig.row() == closed


async def test_another_namespace_is_another_world(rig: Rig) -> None:
    await rig.started()
    result = await rig.one(rig.start(namespace="other"))
    assert isinstance(result, StartResult)
    assert result.created


async def test_a_start_that_was_refused_leaves_nothing(rig: Rig) -> None:
    await rig.started()
    await rig.one(rig.start(if_open="fail", arguments=bytes(100_000)))
    assert len((await rig.claim_one()).mail) == 1
    assert await rig.problems() == []


async def test_many_starts_of_one_group_are_all_there(rig: Rig) -> None:
    results = await rig.group(*(rig.start(f"w{number}") for number in range(256)))
    assert all(isinstance(result, StartResult) and result.created for result in results)
    assert len(await rig.claim(limit=1000)) == 256
