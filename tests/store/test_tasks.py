"""Task queues: who takes what, who may settle it, and what becomes of it when somebody dies."""

from typing import Any
from unittest import mock

import pytest
from msgspec.structs import replace

from everlong_engine.model.codec import encode_event
from everlong_engine.model.events import (
    CODES,
    ActivityCompleted,
    ActivityLost,
    ActivityScheduled,
    RunCompleted,
)
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.queues import LimitOrigin, QueueLimits, RateLimit, SetLimits
from everlong_engine.model.runs import AttemptRow, AttemptState, Halt, RunRow, RunStatus
from everlong_engine.model.tasks import (
    NewTask,
    QueueCount,
    SettleTask,
    TaskEnd,
    TaskKey,
    TaskWants,
    WithdrawTask,
)
from everlong_engine.model.writes import MarkAttempts, Pause, Refusal, Resume
from tests.support.store_rig import SECOND_US, Rig, refusal

OUTCOME = encode_event(ActivityCompleted(1, b"done"), {})
LARGE = bytes(range(256)) * 300  # Over what stays in an event.


def waiting(number: int, attempt: int = 1) -> AttemptRow:
    state = AttemptState.QUEUED
    return AttemptRow(activity_id=number, attempt=attempt, state=state, started_us=1)


async def queued(rig: Rig, name: str = "w", number: int = 1, **how: Any) -> RunRow:
    """A run in this rig's hands, and the next of its activities in a queue."""
    options = ActivityOptions(queue="gpu", **how.pop("options", {}))
    arguments = how.pop("arguments", b"x")
    activity = how.get("activity", "render")
    row = await rig.store.latest(rig.target(name))
    if row is None:
        row = await rig.owned(name)
    event = ActivityScheduled(number, activity, arguments, options, "")
    blobs: dict[bytes, bytes] = {}
    append = rig.events(row, row.next_seq, event, token=row.lease_token, blobs=blobs)
    about: dict[str, Any] = {
        "attempt": 1,
        "queue": "gpu",
        "activity": activity,
        "due_us": rig.now_us,
        "seq": row.next_seq,
        "origin": "me",
    }
    task = NewTask(activity_id=number, **about | how)
    key = (row.shard, row.run_id, row.lease_token)
    rows = (waiting(number, task.attempt),)
    assert refusal(await rig.one(append)) is None
    mark = MarkAttempts(*key, rows, begins=True, tasks=(task,))
    assert refusal(await rig.one(mark)) is None
    return await rig.row(name)


def wants(rig: Rig, *queues: str, activities: tuple[str, ...] = ("render",)) -> TaskWants:
    return TaskWants(rig.worker_id, "worker", activities, queues or None)


async def take(rig: Rig, *queues: str, limit: int = 10, **how: Any) -> list[tuple[bytes, int]]:
    """What it takes, as (run, activity)."""
    taken, *_ = await rig.store.take_tasks(wants(rig, *queues, **how), rig.now_us, limit)
    return [(one.run.run_id, one.task.activity_id) for one in taken]


def settled(rig: Rig, row: RunRow, number: int = 1, **how: Any) -> SettleTask:
    who: dict[str, Any] = {"token": 1, "worker_id": rig.worker_id}
    return SettleTask(
        shard=row.shard,
        run_id=row.run_id,
        execution_id=row.execution_id,
        activity_id=number,
        now_us=rig.now_us,
        **who | how,
    )


# -------------------------------------------------------------------------------------- taking


async def test_a_task_is_taken_once_with_all_that_it_needs(rig: Rig) -> None:
    row = await queued(rig, arguments=LARGE)
    other = Rig(rig.store, seed=8)
    taken, *_ = await rig.store.take_tasks(wants(rig), rig.now_us, 10)
    assert await take(other) == []
    (one,) = taken
    assert one.run == row
    assert isinstance(one.scheduled.event, ActivityScheduled)
    assert (one.scheduled.event.arguments, one.task.origin) == (LARGE, "me")
    (known,) = (await rig.load()).attempts
    assert (known.state, known.worker) == (AttemptState.TAKEN, "worker")
    assert await rig.store.tasks_of(rig.worker_id) == [TaskKey(row.run_id, 1, 1, 1)]
    assert await rig.store.queues() == [QueueCount("gpu", "render", 0, 1, None)]


async def test_what_is_put_into_a_queue_twice_is_there_once(rig: Rig) -> None:
    """Its answer was lost, and somebody has taken it by then."""
    row = await queued(rig)
    task = NewTask(
        activity_id=1, attempt=1, queue="gpu", activity="render", due_us=1, seq=2, origin="me"
    )
    key = (row.shard, row.run_id, row.lease_token)
    mark = MarkAttempts(*key, (waiting(1),), begins=True, tasks=(task,))
    await take(rig)
    assert refusal(await rig.one(mark)) is None
    assert [one.state for one in (await rig.load()).attempts] == [AttemptState.TAKEN]
    assert refusal(await rig.one(settled(rig, row, mail=OUTCOME))) is None
    assert refusal(await rig.one(mark)) is None
    assert await rig.store.queues() == []
    stale = replace(mark, token=row.lease_token - 1)
    assert refusal(await rig.one(stale)) is Refusal.FENCED


async def test_the_longest_due_goes_first_over_queues_and_activities(rig: Rig) -> None:
    for number, (queue, activity) in enumerate(
        [("gpu", "train"), ("cpu", "render"), ("gpu", "render"), ("cpu", "train")], 1
    ):
        await queued(rig, number=number, queue=queue, activity=activity, due_us=rig.now_us - number)
    both = ("render", "train")
    assert [one for _, one in await take(rig, limit=2, activities=both)] == [4, 3]
    assert [one for _, one in await take(rig, activities=both)] == [2, 1]


async def test_a_worker_takes_from_its_queues_what_it_hosts(rig: Rig) -> None:
    await queued(rig, number=1, queue="gpu")
    await queued(rig, number=2, queue="cpu")
    await queued(rig, number=3, queue="gpu", activity="train")
    assert await take(rig, "nothing") == []
    assert await take(rig, "gpu", activities=("other",)) == []
    assert [one for _, one in await take(rig, "cpu", "nothing")] == [2]
    assert [one for _, one in await take(rig, "gpu")] == [1]
    assert [one.waiting for one in await rig.store.queues()] == [0, 0, 1]


async def test_what_is_not_due_waits_and_tells_when_it_is(rig: Rig) -> None:
    due_us = rig.now_us + 5 * SECOND_US
    await queued(rig, due_us=due_us)
    assert await rig.store.take_tasks(wants(rig), rig.now_us, 10) == ([], due_us, False)
    assert await rig.store.take_tasks(wants(rig, "cpu"), rig.now_us, 10) == ([], None, False)
    rig.now_us = due_us
    assert await rig.store.take_tasks(wants(rig), rig.now_us, 0) == ([], due_us, False)
    assert len(await take(rig)) == 1


async def test_nothing_of_a_paused_run_is_taken(rig: Rig) -> None:
    row = await queued(rig)
    await rig.one(Pause(rig.target(), rig.now_us, "me", "why"))
    assert await rig.store.take_tasks(wants(rig), rig.now_us, 10) == ([], None, False)
    await rig.one(Resume(rig.target(), rig.now_us))
    assert await take(rig) == [(row.run_id, 1)]


async def test_only_an_owner_puts_tasks_into_queues(rig: Rig) -> None:
    row = await queued(rig)
    task = NewTask(
        activity_id=2, attempt=1, queue="gpu", activity="render", due_us=1, seq=2, origin="me"
    )
    stale = MarkAttempts(row.shard, row.run_id, row.lease_token - 1, (waiting(2),), tasks=(task,))
    assert refusal(await rig.one(stale)) is Refusal.FENCED
    assert [one for _, one in await take(rig)] == [1]


async def test_a_task_that_cannot_be_read_blocks_its_run_and_no_other(rig: Rig) -> None:
    await queued(rig, "bad", seq=1)  # Which schedules nothing.
    good = await queued(rig, "good")
    assert await take(rig) == [(good.run_id, 1)]
    loaded = await rig.load("bad")
    assert loaded.row.status is RunStatus.BLOCKED
    assert "event 1 schedules no activity" in (loaded.row.reason or "")
    assert [one.state for one in loaded.attempts] == [AttemptState.NOT_BEGUN]
    assert [one.waiting for one in await rig.store.queues()] == [0]


# ------------------------------------------------------------------------------------- settling


async def test_an_outcome_is_mail_that_wakes_the_run(rig: Rig) -> None:
    row = await queued(rig)
    await take(rig)
    await rig.one(rig.release(row, None))
    assert (await rig.row()).wake_us is None
    assert refusal(await rig.one(settled(rig, row, mail=OUTCOME))) is None
    loaded = await rig.load()
    assert loaded.row.wake_us == rig.now_us
    assert [(one.kind, one.body) for one in loaded.mail] == [OUTCOME]
    assert await rig.store.queues() == []
    assert refusal(await rig.one(settled(rig, row, mail=OUTCOME))) is Refusal.FENCED
    assert len((await rig.load()).mail) == 1


async def test_a_failure_puts_the_next_attempt_into_the_queue(rig: Rig) -> None:
    row = await queued(rig)
    await take(rig)
    failed = replace(waiting(1), state=AttemptState.FAILED, details=b"half", error="no")
    again = (2, rig.now_us + SECOND_US)
    rows = (failed, waiting(1, 2))
    assert refusal(await rig.one(settled(rig, row, rows=rows, again=again))) is None
    assert await take(rig) == []
    rig.now_us += SECOND_US
    taken, *_ = await rig.store.take_tasks(wants(rig), rig.now_us, 10)
    assert [(one.task.attempt, one.details, one.details_of) for one in taken] == [(2, b"half", 1)]
    states = [one.state for one in (await rig.load()).attempts]
    assert states == [AttemptState.FAILED, AttemptState.TAKEN]


async def test_only_who_has_an_attempt_settles_it(rig: Rig) -> None:
    row = await queued(rig)
    assert refusal(await rig.one(settled(rig, row, mail=OUTCOME))) is Refusal.FENCED
    await take(rig)
    wrongs: list[dict[str, Any]] = [{"worker_id": b"somebody" * 2}, {"token": 2}]
    for wrong in wrongs:
        write = settled(rig, row, mail=OUTCOME, **wrong)
        assert refusal(await rig.one(write)) is Refusal.FENCED
    assert (await rig.load()).mail == []


async def test_what_is_given_back_twice_is_not_taken_from_who_took_it_since(rig: Rig) -> None:
    """The answer was lost, and the same worker has taken it anew."""
    row = await queued(rig)
    await take(rig)
    back = settled(rig, row, rows=(waiting(1),), again=(1, rig.now_us))
    assert refusal(await rig.one(back)) is None
    assert len(await take(rig)) == 1
    assert refusal(await rig.one(back)) is Refusal.FENCED
    assert [one.token for one in await rig.store.tasks_of(rig.worker_id)] == [2]


async def test_what_it_says_of_itself_is_kept_while_it_goes_on(rig: Rig) -> None:
    row = await queued(rig)
    await take(rig)
    said = replace(waiting(1), state=AttemptState.TAKEN, details=b"half")
    assert refusal(await rig.one(settled(rig, row, rows=(said,), keeps=True))) is None
    assert [one.details for one in (await rig.load()).attempts] == [b"half"]
    assert len(await rig.store.tasks_of(rig.worker_id)) == 1


async def test_the_last_attempt_may_pause_its_execution(rig: Rig) -> None:
    row = await queued(rig)
    await take(rig)
    failed = replace(waiting(1), state=AttemptState.EXHAUSTED)
    halt = Halt(rig.now_us, "everlong", "no more")
    assert refusal(await rig.one(settled(rig, row, rows=(failed,), halt=halt))) is None
    assert (await rig.row()).status is RunStatus.PAUSED
    assert await rig.store.queues() == []


async def test_many_are_queued_and_settled_at_once_and_each_is_judged_alone(rig: Rig) -> None:
    marks: list[MarkAttempts] = []
    runs: list[RunRow] = []
    for number in range(6):
        name = f"w{number}"
        row = await rig.owned(name)
        event = ActivityScheduled(1, "render", b"x", ActivityOptions(queue="gpu"), "")
        await rig.one(rig.append(row, event))
        task = NewTask(
            activity_id=1,
            attempt=1,
            queue="gpu",
            activity="render",
            due_us=rig.now_us - 10 + number,
            seq=2,
            origin="me",
        )
        key = (row.shard, row.run_id, row.lease_token - (number == 5))
        marks.append(MarkAttempts(*key, (waiting(1),), begins=True, tasks=(task,)))
        runs.append(await rig.row(name))
    found = [refusal(one) for one in await rig.group(*marks)]
    assert found == [None] * 5 + [Refusal.FENCED]
    assert [refusal(one) for one in await rig.group(*marks)] == found  # Answers were lost.
    assert await take(rig) == [(row.run_id, 1) for row in runs[:5]]
    assert [refusal(one) for one in await rig.group(*marks)] == found
    await rig.one(rig.append(runs[3], tasks=((1, TaskEnd.ASK),)))
    await rig.one(rig.release(runs[0], None))
    again: dict[str, Any] = {"rows": (waiting(1, 2),), "again": (2, rig.now_us + SECOND_US)}
    said = replace(waiting(1), state=AttemptState.TAKEN, details=b"half")
    group = [
        settled(rig, runs[0], mail=OUTCOME),
        settled(rig, runs[1], **again),
        settled(rig, runs[2], rows=(said,), keeps=True),
        settled(rig, runs[3], **again),
        settled(rig, runs[4], token=2, mail=OUTCOME),
    ]
    refused = [refusal(one) for one in await rig.group(*group)]
    assert refused == [None, None, None, Refusal.CONFLICT, Refusal.FENCED]
    loaded = [await rig.load(f"w{number}") for number in range(5)]
    assert [[one.kind for one in each.mail] for each in loaded] == [[OUTCOME[0]], [], [], [], []]
    assert loaded[0].row.wake_us == rig.now_us
    states = [[one.state.name for one in each.attempts] for each in loaded]
    assert states == [["TAKEN"], ["TAKEN", "QUEUED"], ["TAKEN"], ["TAKEN"], ["TAKEN"]]
    held = {one.run_id for one in await rig.store.tasks_of(rig.worker_id)}
    assert held == {row.run_id for row in runs[2:5]}
    ends = [rig.append(await rig.row(f"w{n}"), tasks=((1, TaskEnd.DROP),)) for n in (1, 2)]
    assert [refusal(one) for one in await rig.group(*ends)] == [None, None]
    assert [one.waiting + one.taken for one in await rig.store.queues()] == [2]
    assert await rig.problems() == []


# ------------------------------------------------------------------- what its code decides of it


@pytest.mark.parametrize("end", TaskEnd)
@pytest.mark.parametrize("taken", [False, True])
async def test_an_append_ends_tasks(rig: Rig, end: TaskEnd, *, taken: bool) -> None:
    row = await queued(rig)
    if taken:
        await take(rig)
    await rig.one(rig.append(row, tasks=((1, end), (7, end))))
    stays = end is TaskEnd.ASK or (end is TaskEnd.LEAVE and taken)
    assert len(await rig.store.queues()) == stays
    assert await take(rig) == []
    if stays and taken:
        assert [one.asked for one in await rig.store.tasks_of(rig.worker_id)] == [
            end is TaskEnd.ASK
        ]


@pytest.mark.parametrize("first", ["mark", "append"])
async def test_a_group_takes_a_task_and_its_end_in_their_order(rig: Rig, first: str) -> None:
    """What is put into a queue and ended behind that is ended; a run that has closed puts none."""
    row = await rig.owned()
    event = ActivityScheduled(1, "render", b"x", ActivityOptions(queue="gpu"), "")
    await rig.one(rig.append(row, event))
    row = await rig.row()
    task = NewTask(
        activity_id=1, attempt=1, queue="gpu", activity="render", due_us=1, seq=2, origin="me"
    )
    key = (row.shard, row.run_id, row.lease_token)
    mark = MarkAttempts(*key, (waiting(1),), begins=True, tasks=(task,))
    if first == "mark":
        _, result = await rig.group(mark, rig.append(row, tasks=((1, TaskEnd.DROP),)))
    else:
        _, result = await rig.group(rig.append(row, RunCompleted(b"")), mark)
    assert (refusal(result) is None) is (first == "mark")
    assert await take(rig) == []
    assert await rig.store.queues() == []


async def test_a_refused_append_ends_no_task(rig: Rig) -> None:
    row = await queued(rig)
    append = rig.append(row, token=row.lease_token - 1, tasks=((1, TaskEnd.DROP),))
    assert refusal(await rig.one(append)) is Refusal.FENCED
    assert len(await take(rig)) == 1


async def test_what_was_asked_to_end_is_not_tried_again(rig: Rig) -> None:
    row = await queued(rig)
    await take(rig)
    await rig.one(rig.append(row, tasks=((1, TaskEnd.ASK),)))
    again = settled(rig, row, rows=(waiting(1, 2),), again=(2, rig.now_us))
    assert refusal(await rig.one(again)) is Refusal.CONFLICT
    assert [one.attempt for one in (await rig.load()).attempts] == [1]
    assert refusal(await rig.one(settled(rig, row, mail=OUTCOME))) is None


async def test_an_owner_withdraws_what_nobody_has(rig: Rig) -> None:
    row = await queued(rig)
    withdraw = WithdrawTask(row.shard, row.run_id, row.lease_token, 1)
    stale = replace(withdraw, token=row.lease_token - 1)
    assert refusal(await rig.one(stale)) is Refusal.FENCED
    assert refusal(await rig.one(replace(withdraw, attempt=2))) is Refusal.CONFLICT
    assert refusal(await rig.one(withdraw)) is None
    assert refusal(await rig.one(withdraw)) is None  # Its answer was lost.
    assert await take(rig) == []
    await queued(rig, number=2)
    await take(rig)
    assert refusal(await rig.one(replace(withdraw, activity_id=2))) is Refusal.CONFLICT


@pytest.mark.parametrize("how", ["closed", "terminated"])
async def test_the_tasks_of_a_run_end_with_it(rig: Rig, how: str) -> None:
    row = await queued(rig)
    await take(rig)
    if how == "closed":
        await rig.one(rig.append(row, RunCompleted(b""), tasks=((1, TaskEnd.DROP),)))
    else:
        await rig.one(rig.terminate())
    assert await rig.store.tasks_of(rig.worker_id) == []
    assert refusal(await rig.one(settled(rig, row, mail=OUTCOME))) is Refusal.FENCED
    assert await rig.problems() == []


# ------------------------------------------------------------------------------------- the dead


async def die(rig: Rig) -> bytes:
    """Somebody who takes tasks, and is gone; its id."""
    dead = Rig(rig.store, seed=9)
    dead.now_us = rig.now_us
    await dead.register("dead")
    await take(dead)
    await rig.register("alive")
    before = rig.worker_id
    while await rig.store.take_over([before], rig.now_us, 1):
        pass
    return dead.worker_id


async def test_an_attempt_of_a_dead_worker_is_lost_and_tried_again(rig: Rig) -> None:
    row = await queued(rig)
    gone = await die(rig)
    late = settled(rig, row, worker_id=gone, mail=OUTCOME)
    assert refusal(await rig.one(late)) is Refusal.FENCED
    lost, waits = (await rig.load()).attempts
    assert (lost.state, lost.retry_us, lost.worker) == (AttemptState.LOST, rig.now_us, "dead")
    assert (waits.state, waits.attempt) == (AttemptState.QUEUED, 2)
    taken, *_ = await rig.store.take_tasks(wants(rig), rig.now_us, 10)
    assert [one.task.attempt for one in taken] == [2]
    assert (await rig.row()).owner == row.owner  # Nobody else is concerned.


@pytest.mark.parametrize("option", [{"at_most_once": True}, {"max_attempts": 1}])
async def test_the_last_attempt_of_a_dead_worker_is_told(rig: Rig, option: Any) -> None:
    await queued(rig, options=option)
    await die(rig)
    loaded = await rig.load()
    assert [one.state for one in loaded.attempts] == [AttemptState.LOST]
    assert [one.kind for one in loaded.mail] == [CODES[ActivityLost]]
    assert await rig.store.queues() == []


async def test_the_last_attempt_of_a_dead_worker_may_pause_its_execution(rig: Rig) -> None:
    await queued(rig, options={"max_attempts": 1, "on_exhausted": "pause"})
    await die(rig)
    loaded = await rig.load()
    assert loaded.row.status is RunStatus.PAUSED
    assert [one.state for one in loaded.attempts] == [AttemptState.EXHAUSTED]
    assert CODES[ActivityLost] not in [one.kind for one in loaded.mail]


async def test_who_waits_for_the_end_of_a_lost_one_is_told_it(rig: Rig) -> None:
    row = await queued(rig)
    dead = Rig(rig.store, seed=9)
    await dead.register("dead")
    await take(dead)
    await rig.one(rig.append(row, tasks=((1, TaskEnd.ASK),)))
    await rig.register("alive")
    await rig.store.take_over([rig.worker_id], rig.now_us, 10)
    assert [one.kind for one in (await rig.load()).mail] == [CODES[ActivityLost]]


async def test_tasks_go_with_their_runs_at_last(rig: Rig) -> None:
    row = await queued(rig)
    await rig.one(rig.append(row, RunCompleted(b"")))  # It forgot to say what becomes of it.
    await rig.store.prune((-1, b""), rig.now_us + 10 * SECOND_US, 100)
    assert await rig.store.queues() == []
    assert await rig.problems() == []


# ---------------------------------------------------------------------- urgency, fairness, limits


async def limit(
    rig: Rig, queue: str = "gpu", origin: LimitOrigin = LimitOrigin.CODE, **what: Any
) -> None:
    limits = QueueLimits(**what) if what else None
    change = SetLimits(queue=queue, origin=origin, limits=limits, now_us=rig.now_us, by="me")
    await rig.store.set_limits(change)


async def begun(rig: Rig, limit: int = 10, after: str = "") -> tuple[list[int], int | None]:
    """What begins, as numbers of activities, and when there is more, from now on."""
    asked = replace(wants(rig), after=after)
    taken, next_us, _ = await rig.store.take_tasks(asked, rig.now_us, limit)
    return [
        one.task.activity_id for one in taken
    ], None if next_us is None else next_us - rig.now_us


async def test_the_most_urgent_goes_first(rig: Rig) -> None:
    for number, rank in enumerate((0, 5, -3, 0), 1):
        await queued(rig, number=number, rank=rank)
    assert await begun(rig) == ([3, 1, 4, 2], None)


async def test_a_key_with_much_to_do_leaves_room_for_others(rig: Rig) -> None:
    for number in range(1, 7):
        await queued(rig, number=number, key="large", due_us=rig.now_us - 100 + number)
    await queued(rig, number=7, key="small", due_us=rig.now_us - 1)
    assert (await begun(rig, limit=2))[0] == [1, 7]
    assert (await begun(rig, limit=2))[0] == [2, 3]


async def test_keys_take_turns(rig: Rig) -> None:
    for number in range(1, 9):
        await queued(rig, number=number, key="ab"[number % 2], due_us=rig.now_us - 100 + number)
    order: list[int] = []
    after = ""
    for _ in range(8):
        (one,), _ = await begun(rig, limit=1, after=after)
        order.append(one)
        after = "ab"[one % 2]
        row = await rig.row("w")
        assert refusal(await rig.one(settled(rig, row, one, mail=OUTCOME))) is None
    assert order == [2, 1, 4, 3, 6, 5, 8, 7]


async def test_a_queue_lets_as_many_through_as_it_is_allowed(rig: Rig) -> None:
    other = Rig(rig.store, seed=8)
    await limit(rig, concurrency=2)
    row = await rig.owned("w")
    for number in (1, 2, 3):
        row = await queued(rig, number=number, due_us=rig.now_us - 10 + number)
    await queued(rig, number=4, queue="cpu")
    assert await begun(rig) == ([1, 2, 4], None)
    assert await begun(other) == ([], None)
    assert refusal(await rig.one(settled(rig, row, 1, again=(2, rig.now_us + 50)))) is None
    assert await begun(other) == ([3], 50)


async def test_a_key_gets_as_many_through_as_it_is_allowed(rig: Rig) -> None:
    await limit(rig, key_concurrency=1)
    row = await rig.owned("w")
    for number, key in enumerate(("a", "a", "b", "", ""), 1):
        row = await queued(rig, number=number, key=key, due_us=rig.now_us - 10 + number)
    assert sorted((await begun(rig))[0]) == [1, 3, 4, 5]
    assert await begun(rig) == ([], None)
    assert refusal(await rig.one(settled(rig, row, 1, mail=OUTCOME))) is None
    assert await begun(rig) == ([2], None)


@pytest.mark.parametrize("after", ["", "a", "d", "h", "z"])
async def test_the_one_key_with_room_is_found_among_many_without(rig: Rig, after: str) -> None:
    """Some keys at a time are looked at, from wherever the last one was."""
    await limit(rig, key_concurrency=1)
    for number, key in enumerate("abcdefghijk", 1):
        for activity in ("render", "train"):
            more = 100 * (activity == "train")
            await queued(rig, number=number + more, key=key, activity=activity)
            if (key, activity) != ("f", "render"):
                await queued(rig, number=number + more + 50, key=key, activity=activity)
    with (
        mock.patch("everlong_engine.store.sqlite.lanes.LANES_MAX", 2),
        mock.patch("everlong_engine.store.postgres.lanes.LANES_MAX", 2),
    ):
        everything = replace(wants(rig, activities=("render", "train")), after=after)
        taken: list[str] = []
        while claim := (await rig.store.take_tasks(everything, rig.now_us, 3)).tasks:
            taken += [one.task.key for one in claim]
        assert sorted(taken) == list("abcdefghijk")


async def test_a_rate_spreads_what_begins(rig: Rig) -> None:
    await limit(rig, rate=RateLimit(2, 1000), key_rate=RateLimit(1, 1500))
    for number, key in enumerate(("a", "a", "b", "c"), 1):
        await queued(rig, number=number, key=key, due_us=rig.now_us - 10 + number)
    assert await begun(rig) == ([1, 3], 1000)
    rig.now_us += 999
    assert await begun(rig) == ([], 1)
    rig.now_us += 1
    assert await begun(rig) == ([4], 500)
    rig.now_us += 500
    assert (await begun(rig))[0] == [2]


async def test_permits_of_who_is_dead_are_free_again(rig: Rig) -> None:
    other = Rig(rig.store, seed=8)
    await limit(rig, concurrency=1)
    await queued(rig)
    await queued(rig, number=2)
    assert await begun(other) == ([1], None)
    assert await begun(rig) == ([], None)
    await rig.store.take_over([rig.worker_id], rig.now_us, 10)
    assert await begun(rig) == ([1], None)


async def test_what_a_paused_execution_has_waiting_holds_no_permit(rig: Rig) -> None:
    await limit(rig, concurrency=1, key_concurrency=1)
    await queued(rig, "held", key="a", due_us=1)
    await queued(rig, "free", key="a")
    await rig.one(Pause(rig.target("held"), rig.now_us, "me", "for a while"))
    taken, *_ = await rig.store.take_tasks(wants(rig), rig.now_us, 10)
    assert [one.run.workflow_id for one in taken] == ["free"]


async def test_what_a_person_sets_comes_before_what_code_declares(rig: Rig) -> None:
    await limit(rig, concurrency=1)
    await limit(rig, origin=LimitOrigin.PERSON, concurrency=2, rate=RateLimit(9, 60))
    for number in (1, 2, 3):
        await queued(rig, number=number)
    assert await begun(rig) == ([1, 2], None)
    assert [
        (one.origin, one.limits.concurrency, one.by) for one in await rig.store.queue_limits()
    ] == [
        (LimitOrigin.CODE, 1, "me"),
        (LimitOrigin.PERSON, 2, "me"),
    ]
    await limit(rig, origin=LimitOrigin.PERSON)
    await limit(rig, origin=LimitOrigin.CODE)
    assert await begun(rig) == ([3], None)
    assert await rig.store.queue_limits() == []


async def test_a_queue_that_nothing_may_pass_is_closed(rig: Rig) -> None:
    await limit(rig, concurrency=0)
    await queued(rig)
    assert await begun(rig) == ([], None)
    await limit(rig)
    assert await begun(rig) == ([1], None)
