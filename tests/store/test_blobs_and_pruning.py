"""Large payloads, and the end of everything: what is kept, and for how long."""

from typing import Any

from everlong_engine.model.events import (
    ActivityCompleted,
    RunCompleted,
    RunContinuedAsNew,
    TagsSet,
)
from everlong_engine.model.runs import AttemptRow, AttemptState, RunRow, Trim
from everlong_engine.model.writes import Ask, MarkAttempts, MessageResult, StartResult
from everlong_engine.store.interface import RunFilter
from tests.support.store_rig import SECOND_US, Rig, item, signal

LARGE = bytes(range(256)) * 400  # 100 KB: over what stays in an event.
START = (-1, b"")


async def sweep(rig: Rig, limit: int = 100) -> int:
    """Sweep to the end; how many went."""
    cursor: tuple[int, bytes] | None = START
    pruned = 0
    while cursor is not None:
        cursor, went = await rig.store.prune(cursor, rig.now_us, limit)
        pruned += went
    return pruned


def later(rig: Rig) -> None:
    rig.now_us += 10 * SECOND_US


async def gone(rig: Rig, row: RunRow) -> bool:
    return await rig.store.load(row.shard, row.run_id) is None


# -------------------------------------------------------------------------------------- payloads


async def test_a_large_payload_comes_back_whole(rig: Rig) -> None:
    row = await rig.owned()
    await rig.one(rig.append(row, ActivityCompleted(1, LARGE)))
    loaded = await rig.load()
    assert loaded.history[-1].event == ActivityCompleted(1, LARGE)
    assert loaded.history_bytes < len(LARGE)
    assert await rig.problems() == []


async def test_a_large_start_and_a_large_message_come_back_whole(rig: Rig) -> None:
    await rig.started(arguments=LARGE)
    await rig.send(payload=LARGE[1:])
    loaded = await rig.claim_one()
    assert sorted(map(len, loaded.blobs.values())) == [len(LARGE) - 1, len(LARGE)]


async def test_a_large_outcome_can_be_looked_up(rig: Rig) -> None:
    row = await rig.owned("w", RunCompleted(LARGE))
    last = await rig.store.last_event(row.shard, row.run_id)
    assert last is not None
    assert last.event == RunCompleted(LARGE)


async def test_a_shared_payload_lives_as_long_as_its_last_user(rig: Rig) -> None:
    first = await rig.owned("first")
    await rig.one(rig.append(first, ActivityCompleted(1, LARGE), RunCompleted(b"")))
    later(rig)
    second = await rig.owned("second")
    await rig.one(rig.append(second, ActivityCompleted(1, LARGE)))
    assert await sweep(rig) == 1
    assert (await rig.load("second")).history[-1].event == ActivityCompleted(1, LARGE)
    await rig.one(rig.append(await rig.row("second"), RunCompleted(b"")))
    later(rig)
    assert await sweep(rig) == 1
    assert await rig.problems() == []


async def test_payloads_of_mail_go_with_their_execution(rig: Rig) -> None:
    row = await rig.owned()
    position = await rig.position(payload=LARGE)
    await rig.one(rig.append(row, RunCompleted(b""), consumed=(position,)))
    later(rig)
    assert await sweep(rig) == 1
    assert await rig.problems() == []


# --------------------------------------------------------------------------------------- pruning


async def test_a_closed_run_goes_with_all_that_hangs_on_it(rig: Rig) -> None:
    row = await rig.owned()
    await rig.send(request_id="r")
    failed = AttemptRow(activity_id=1, attempt=1, state=AttemptState.FAILED, started_us=1)
    await rig.one(MarkAttempts(row.shard, row.run_id, row.lease_token, (failed,)))
    row = await rig.row()
    await rig.one(rig.append(row, signal(), item(0), item(1, LARGE)))
    assert await rig.published() == [(0, b"item"), (1, LARGE)]
    await rig.one(rig.terminate())
    later(rig)
    assert await sweep(rig) == 1
    assert await gone(rig, row)
    assert await rig.published(row) == []
    assert await rig.store.attempts(row.shard, row.run_id) == []
    assert (await rig.send(request_id="r")).status is None
    assert await rig.problems() == []


async def test_open_runs_and_young_ones_stay(rig: Rig) -> None:
    await rig.owned("open")
    await rig.closed("old")
    later(rig)
    await rig.closed("young")
    assert await sweep(rig) == 1
    assert {row.workflow_id for row in await rig.store.list_runs(_all(), 10, None)} == {
        "open",
        "young",
    }


async def test_a_run_that_began_long_ago_and_closed_now_stays(rig: Rig) -> None:
    row = await rig.owned()
    later(rig)
    await rig.one(rig.append(row, RunCompleted(b"")))
    assert await sweep(rig) == 0
    later(rig)
    assert await sweep(rig) == 1


async def test_a_sweep_is_bounded_and_goes_on_where_it_stopped(rig: Rig) -> None:
    for number in range(5):
        await rig.closed(f"w{number}")
        await rig.owned(f"open{number}")
    later(rig)
    cursor, pruned = await rig.store.prune(START, rig.now_us, 4)
    assert (cursor is not None, pruned) == (True, 2)
    assert cursor is not None
    cursor, pruned = await rig.store.prune(cursor, rig.now_us, 4)
    assert pruned == 2
    assert cursor is not None
    assert await rig.store.prune(cursor, rig.now_us, 4) == (None, 1)
    assert await sweep(rig) == 0


async def test_continued_runs_stay_while_their_execution_is_open(rig: Rig) -> None:
    first = await rig.owned()
    await rig.send(request_id="r")
    (mail,) = (await rig.load()).mail
    rolling = RunContinuedAsNew(b"", (), 1)
    following = rig.successor(first)
    await rig.one(rig.append(first, rolling, consumed=(mail.position,), next_run=following))
    later(rig)
    assert await sweep(rig) == 0
    assert (await rig.send(request_id="r")).duplicate
    await rig.one(rig.terminate())
    later(rig)
    assert await sweep(rig) == 2
    assert await gone(rig, first)
    assert await rig.problems() == []


async def test_items_outlive_the_run_that_published_them(rig: Rig) -> None:
    first = await rig.owned("w", item(0), item(1, LARGE))
    rolling = RunContinuedAsNew(b"", (), 1)
    await rig.one(rig.append(first, rolling, next_run=rig.successor(first)))
    began_us = rig.now_us
    later(rig)
    await rig.one(rig.terminate())
    assert (await rig.store.prune(START, began_us + SECOND_US, 100))[1] == 1
    assert await gone(rig, first)
    last = await rig.row()
    assert await rig.published(last) == [(0, b"item"), (1, LARGE)]
    assert await rig.problems() == []
    later(rig)
    assert await sweep(rig) == 1
    assert await rig.published(last) == []


async def test_tags_go_with_their_run_and_its_successor_has_its_own(rig: Rig) -> None:
    first = await rig.owned("w", tags=(("customer", "c1"), ("n", 1)))
    changed = TagsSet((("n", None), ("urgent", True)), "")
    rolling = RunContinuedAsNew(b"", (), 1)
    following = rig.successor(first, (("customer", "c1"), ("urgent", True)))
    await rig.one(rig.append(first, changed, rolling, next_run=following))
    began_us = rig.now_us
    assert await rig.tags(first) == await rig.tags() == {"customer": "c1", "urgent": True}
    later(rig)
    await rig.one(rig.terminate())
    assert (await rig.store.prune(START, began_us + SECOND_US, 100))[1] == 1
    assert (await rig.tags(first), len(await rig.tags())) == ({}, 2)
    assert await rig.problems() == []
    later(rig)
    last = await rig.row()
    assert await sweep(rig) == 1
    assert await rig.tags(last) == {}
    assert await rig.problems() == []


async def test_the_oldest_items_of_a_channel_go_up_to_a_bound(rig: Rig) -> None:
    row = await rig.owned("w", *(item(number) for number in range(9)), item(0, channel="other"))
    trims = (Trim("told", 8, 5), Trim("unknown", 8, 5))
    await rig.one(rig.append(row, item(9), trims=trims))
    kept = [(number, b"item") for number in range(5, 10)]
    for start in (0, 4, 5):
        assert await rig.published(number=start) == kept
    assert await rig.published(number=7) == kept[2:]
    assert await rig.published(number=10) == []
    assert await rig.published(channel="other") == [(0, b"item")]
    assert await rig.problems() == []
    # One that is refused takes nothing away.
    await rig.one(rig.append(row, item(10), trims=(Trim("told", 10, 5),)))
    assert await rig.published() == kept


async def test_items_are_read_in_bounded_parts(rig: Rig) -> None:
    huge = bytes(2_000_000)
    row = await rig.owned("w", *(item(number, huge) for number in range(5)))
    assert [number for number, _ in await rig.published(row)] == [0, 1]
    assert [number for number, _ in await rig.published(row, number=3)] == [3, 4]
    assert [number for number, _ in await rig.published(row, limit=1)] == [0]
    assert await rig.published(row, number=5) == []
    assert await rig.published(row, "another") == []


async def test_a_start_is_known_until_the_last_run_of_its_execution_goes(rig: Rig) -> None:
    first = await rig.owned(request_id="began")
    await rig.one(rig.start(request_id="used"))
    rolling = RunContinuedAsNew(b"", (), 1)
    await rig.one(rig.append(first, rolling, next_run=rig.successor(first)))
    later(rig)
    await rig.one(rig.terminate())
    assert await sweep(rig) == 1
    for request in ("began", "used"):
        again = await rig.one(rig.start(request_id=request))
        assert isinstance(again, StartResult)
        assert (again.same_request, again.run_id) == (True, first.run_id)
    assert await rig.problems() == []
    later(rig)
    assert await sweep(rig) == 1
    begun = await rig.one(rig.start(request_id="began"))
    assert isinstance(begun, StartResult)
    assert begun.created
    assert await rig.problems() == []


async def test_senders_that_have_long_been_silent_are_forgotten(rig: Rig) -> None:
    await rig.owned()
    old, busy = rig.message(sent=rig.sent("old")), rig.message(sent=rig.sent("busy"))
    await rig.group(old, busy, rig.message(request_id="r"))
    later(rig)
    await rig.send(sent=rig.sent("busy"))
    await sweep(rig)
    results = await rig.group(busy, rig.message(request_id="r"), old)
    assert [isinstance(one, MessageResult) and one.duplicate for one in results] == [
        True,
        True,
        False,
    ]


async def test_what_dead_workers_and_askers_left_goes_too(rig: Rig) -> None:
    await rig.register()
    await rig.owned()
    await rig.one(Ask(b"q" * 16, rig.target(), "status", b"", rig.now_us))
    await rig.die()
    await rig.register("alive")
    later(rig)
    await sweep(rig)
    assert [worker.name for worker in await rig.store.workers()] == ["alive"]
    assert await rig.store.open_questions(10) == []


# --------------------------------------------------------------------------------------- listing


async def test_a_list_is_paged_newest_first(rig: Rig) -> None:
    for number in range(5):
        await rig.started(f"w{number}")
    first = await rig.store.list_runs(_all(), 3, None)
    assert [row.workflow_id for row in first] == ["w4", "w3", "w2"]
    rest = await rig.store.list_runs(_all(), 3, first[-1].run_id)
    assert [row.workflow_id for row in rest] == ["w1", "w0"]


async def test_a_list_is_filtered(rig: Rig) -> None:
    await rig.started("a")
    await rig.started("b", type="other")
    await rig.closed("c")
    await rig.started("a", namespace="elsewhere")

    async def names(**wanted: str) -> list[str]:
        found = await rig.store.list_runs(_all(**wanted), 10, None)
        return [row.workflow_id for row in found]

    assert await names() == ["c", "b", "a"]
    assert await names(status="completed") == ["c"]
    assert await names(status="running", type="other") == ["b"]
    assert await names(workflow_id="a") == ["a"]


async def test_a_run_is_found_by_its_id_alone(rig: Rig) -> None:
    row = await rig.started()
    assert await rig.store.run_by_id(row.run_id) == row
    assert await rig.store.run_by_id(b"x" * 16) is None


def _all(**wanted: Any) -> RunFilter:
    return RunFilter("default", **wanted)
