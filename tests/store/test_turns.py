"""Turns in pools: who may begin, who waits, and who comes next, on every store."""

from typing import Any

import pytest
from msgspec.structs import replace

from everlong_engine.model.events import CODES, CancelRequested
from everlong_engine.model.queues import (
    AtLimit,
    LimitOrigin,
    QueueLimits,
    RateLimit,
    SetLimits,
    pool_scope,
)
from everlong_engine.model.runs import WAITS_US
from everlong_engine.model.turns import AskTurn, PoolCount, Turn, TurnAnswer, TurnsDealt
from everlong_engine.model.writes import Pause, Resume
from everlong_engine.store.interface import RunFilter
from tests.support.store_rig import SECOND_US, Rig


async def limit(rig: Rig, pool: str = "p", **what: Any) -> None:
    limits = QueueLimits(**what) if what else None
    change = SetLimits(
        queue=pool_scope(pool),
        origin=LimitOrigin.CODE,
        limits=limits,
        now_us=rig.now_us,
        by="me",
    )
    await rig.store.set_limits(change)


async def ask(rig: Rig, name: str, **how: Any) -> TurnAnswer:
    """As the worker that has claimed it does."""
    (answer,) = await rig.store.ask_turns([await asked(rig, name, **how)])
    return answer


async def asked(rig: Rig, name: str, **how: Any) -> AskTurn:
    row = await rig.row(name)
    mail = [one for one in await rig.store.mail_since(0, 1000) if one.execution_id == row.run_id]
    said: dict[str, Any] = {
        "shard": row.shard,
        "execution_id": row.execution_id,
        "namespace": row.namespace,
        "workflow_id": row.workflow_id,
        "worker_id": rig.worker_id,
        "token": row.lease_token,
        "pool": "p",
        "key": "",
        "rank": 0,
        "waits_with": max((one.position for one in mail), default=0),
        "until_us": None,
        "now_us": rig.now_us,
        "after": "",
    }
    return AskTurn(**{**said, **how})


async def enter(rig: Rig, name: str, **how: Any) -> Turn:
    """It is started, claimed, and asks; each a little later than the one before."""
    rig.now_us += 1
    await rig.started(name)
    await rig.claim()
    return (await ask(rig, name, **how)).turn


async def deal(rig: Rig, after: str = "") -> TurnsDealt:
    return await rig.store.deal_turns([("p", after)], rig.now_us)


async def waits(rig: Rig, name: str) -> bool:
    row = await rig.row(name)
    return row.waits_for_turn and row.owner is None


async def test_who_has_room_begins_and_the_others_are_handed_back(rig: Rig) -> None:
    await limit(rig, concurrency=2)
    turns = [await enter(rig, name) for name in "abc"]
    assert turns == [Turn.BEGINS, Turn.BEGINS, Turn.WAITS]
    assert (await rig.row("a")).owner == rig.worker_id
    row = await rig.row("c")
    assert (row.owner, row.wake_us, row.waits_for_turn) == (None, WAITS_US, True)
    assert row.begins_us(rig.now_us) is None
    assert await rig.store.pools() == [PoolCount("p", 1, 2, rig.now_us)]
    assert await rig.claim() == []
    assert await rig.problems() == []


async def test_who_has_ended_makes_room(rig: Rig) -> None:
    await limit(rig, concurrency=1)
    await enter(rig, "a")
    await enter(rig, "b")
    await enter(rig, "c")
    assert await deal(rig) == TurnsDealt(0, None, ("p",), (("p", ""),))
    await rig.one(rig.terminate("a"))
    assert (await deal(rig)).begun == 1
    (loaded,) = await rig.claim()
    assert loaded.row.workflow_id == "b"
    assert (await ask(rig, "b")).turn is Turn.BEGINS
    assert await waits(rig, "c")


async def test_whose_turn_has_come_is_claimed_before_those_that_have_not_asked(rig: Rig) -> None:
    await limit(rig, concurrency=1)
    await enter(rig, "a")
    await enter(rig, "b")
    for name in "cde":
        rig.now_us += 1
        await rig.started(name)
    await rig.one(rig.terminate("a"))
    rig.now_us += SECOND_US
    assert (await deal(rig)).begun == 1
    claimed = [loaded.row.workflow_id for loaded in await rig.claim(limit=1)]
    assert claimed == ["b"]


async def test_to_ask_again_changes_nothing(rig: Rig) -> None:
    await limit(rig, concurrency=1)
    await enter(rig, "a")
    assert (await ask(rig, "a")).turn is Turn.BEGINS
    await enter(rig, "b")
    assert (await ask(rig, "b")).turn is Turn.GONE, "it is in nobody's hands"
    row = await rig.row("b")
    await rig.store.claim_run(rig.worker_id, row.shard, row.run_id)
    assert (await ask(rig, "b")).turn is Turn.WAITS
    assert await rig.store.pools() == [PoolCount("p", 1, 1, rig.now_us)]


async def test_only_its_owner_asks_for_an_execution(rig: Rig) -> None:
    await limit(rig, concurrency=0)
    await rig.started("a")
    assert (await ask(rig, "a")).turn is Turn.GONE
    await rig.claim()
    said = await asked(rig, "a")
    for wrong in (
        replace(said, token=said.token - 1),
        replace(said, worker_id=b"x" * 16),
        replace(said, execution_id=b"y" * 16),
    ):
        (answer,) = await rig.store.ask_turns([wrong])
        assert answer.turn is Turn.GONE
    assert (await rig.row("a")).owner == rig.worker_id
    assert await rig.store.pools() == []


async def test_what_came_meanwhile_is_looked_at_first(rig: Rig) -> None:
    await limit(rig, concurrency=0)
    await rig.started("a")
    await rig.claim()
    said = await asked(rig, "a")
    await rig.send("a")
    (answer,) = await rig.store.ask_turns([said])
    assert answer.turn is Turn.MAIL
    assert (await rig.row("a")).owner == rig.worker_id
    assert (await ask(rig, "a")).turn is Turn.WAITS


async def test_a_message_does_not_wake_who_waits_but_a_cancellation_does(rig: Rig) -> None:
    await limit(rig, concurrency=0)
    await enter(rig, "a")
    await rig.send("a")
    assert await waits(rig, "a")
    message = rig.message("a")
    cancel = replace(message, kind=CODES[CancelRequested])
    await rig.one(cancel)
    assert (await rig.row("a")).wake_us == rig.now_us
    assert len(await rig.claim()) == 1


async def test_keys_have_limits_of_their_own(rig: Rig) -> None:
    await limit(rig, key_concurrency=1)
    found = [await enter(rig, name, key=name[0]) for name in ("a1", "a2", "b1", "b2")]
    assert found == [Turn.BEGINS, Turn.WAITS, Turn.BEGINS, Turn.WAITS]
    assert await enter(rig, "none", key="") is Turn.BEGINS
    await rig.one(rig.terminate("b1"))
    assert (await deal(rig)).begun == 1
    assert not await waits(rig, "b2")
    assert await waits(rig, "a2")


async def test_among_keys_that_wait_each_has_its_turn(rig: Rig) -> None:
    await limit(rig, concurrency=1)
    await enter(rig, "first", key="a")
    for name in ("a1", "a2", "b1", "c1"):
        await enter(rig, name, key=name[0])
    order: list[str] = []
    after, current = "", "first"
    while len(order) < 4:
        await rig.one(rig.terminate(current))
        dealt = await deal(rig, after)
        ((_, after),) = dealt.after
        (loaded,) = await rig.claim()
        current = loaded.row.workflow_id
        order.append(current)
    assert order == ["a1", "b1", "c1", "a2"]


async def test_the_most_urgent_begins_first(rig: Rig) -> None:
    await limit(rig, concurrency=0)
    for name, rank in (("late", 5), ("usual", 0), ("soon", -9), ("soon too", -9)):
        await enter(rig, name, rank=rank)
    order: list[str] = []
    for count in range(1, 5):
        await limit(rig, concurrency=count)
        assert (await deal(rig)).begun == 1
        order += [loaded.row.workflow_id for loaded in await rig.claim()]
    assert order == ["soon", "soon too", "usual", "late"]


async def test_a_rate_tells_when_the_next_one_may_begin(rig: Rig) -> None:
    await limit(rig, rate=RateLimit(2, 60 * SECOND_US))
    began_us = rig.now_us + 1
    found = [await enter(rig, name) for name in "abc"]
    assert found == [Turn.BEGINS, Turn.BEGINS, Turn.WAITS]
    await rig.one(rig.terminate("a"))
    dealt = await deal(rig)
    assert dealt.begun == 0
    assert dealt.next_us is not None
    assert began_us + 60 * SECOND_US <= dealt.next_us <= rig.now_us + 62 * SECOND_US
    rig.now_us = dealt.next_us
    assert (await deal(rig)).begun == 1


async def test_a_rate_of_a_key_is_its_own(rig: Rig) -> None:
    await limit(rig, key_rate=RateLimit(1, 60 * SECOND_US))
    found = [await enter(rig, name, key=name[0]) for name in ("a1", "a2", "b1")]
    assert found == [Turn.BEGINS, Turn.WAITS, Turn.BEGINS]
    dealt = await deal(rig)
    assert dealt.next_us is not None
    rig.now_us = dealt.next_us
    assert (await deal(rig)).begun == 1


@pytest.mark.parametrize("at_limit", [AtLimit.REFUSE, AtLimit.CANCEL_NEWEST])
async def test_a_pool_may_have_no_room_for_those_that_would_wait(
    rig: Rig, at_limit: AtLimit
) -> None:
    await limit(rig, concurrency=1, at_limit=at_limit)
    assert await enter(rig, "a") is Turn.BEGINS
    await rig.started("b")
    await rig.claim()
    answer = await ask(rig, "b")
    assert (answer.turn, answer.at_limit) == (Turn.NO_ROOM, at_limit)
    assert (await rig.row("b")).owner == rig.worker_id, "its worker closes it"
    assert await rig.store.pools() == [PoolCount("p", 0, 1, None)]


async def cancelled(rig: Rig) -> list[str]:
    """Whom somebody has asked to cancel."""
    mail = await rig.store.mail_since(0, 1000)
    rows = await rig.store.list_runs(RunFilter("default"), 100, None)
    names = {row.execution_id: row.workflow_id for row in rows}
    return [names[one.execution_id] for one in mail if one.kind == CODES[CancelRequested]]


async def test_who_came_first_makes_room_for_who_came_last(rig: Rig) -> None:
    await limit(rig, concurrency=2, at_limit=AtLimit.CANCEL_RUNNING)
    for name in "ab":
        await enter(rig, name)
    assert await enter(rig, "c") is Turn.WAITS
    assert await cancelled(rig) == ["a"]
    assert await enter(rig, "d") is Turn.WAITS
    assert await cancelled(rig) == ["a", "b"]
    assert await enter(rig, "e") is Turn.WAITS
    assert await cancelled(rig) == ["a", "b", "c"], "who waits makes room, too"
    assert await rig.store.pools() == [PoolCount("p", 2, 2, rig.now_us - 1)]
    row = await rig.row("c")
    assert row.wake_us == rig.now_us
    await rig.one(rig.terminate("a"))
    assert (await deal(rig)).begun == 1
    assert not await waits(rig, "d")


async def test_those_that_ask_together_make_room_for_each_other(rig: Rig) -> None:
    await limit(rig, concurrency=1, at_limit=AtLimit.CANCEL_RUNNING)
    for name in "abc":
        await rig.started(name)
    await rig.claim()
    asks = [await asked(rig, name) for name in "cba"]
    answers = await rig.store.ask_turns(asks)
    begins = [
        ask.workflow_id for ask, one in zip(asks, answers, strict=True) if one.turn is Turn.BEGINS
    ]
    assert begins == ["a"]
    assert len(await cancelled(rig)) == 2
    for name in "bc":
        row = await rig.row(name)
        told = name in await cancelled(rig)
        assert row.wake_us == (rig.now_us if told else WAITS_US), "whoever is cancelled is woken"


async def test_who_has_ended_unseen_makes_no_room_in_the_place_of_another(rig: Rig) -> None:
    await limit(rig, concurrency=1, at_limit=AtLimit.CANCEL_RUNNING)
    await enter(rig, "a")
    await enter(rig, "b")
    await rig.one(rig.terminate("b"))
    await enter(rig, "c")
    assert await cancelled(rig) == ["a"]
    await enter(rig, "d")
    assert await cancelled(rig) == ["a", "c"]


async def test_only_of_a_key_at_its_limit_somebody_makes_room(rig: Rig) -> None:
    await limit(rig, key_concurrency=1, at_limit=AtLimit.CANCEL_RUNNING)
    for name in ("a1", "b1", "b2"):
        await enter(rig, name, key=name[0])
    assert await cancelled(rig) == ["b1"]


async def test_nobody_makes_room_where_there_is_none(rig: Rig) -> None:
    await limit(rig, concurrency=0, at_limit=AtLimit.CANCEL_RUNNING)
    assert await enter(rig, "a") is Turn.WAITS
    assert await enter(rig, "b") is Turn.WAITS
    assert await cancelled(rig) == []


async def test_without_limits_all_begin_and_count(rig: Rig) -> None:
    assert await enter(rig, "a") is Turn.BEGINS
    await limit(rig, concurrency=1)
    assert await enter(rig, "b") is Turn.WAITS
    await limit(rig)
    assert (await deal(rig)).begun == 1
    assert await rig.store.pools() == [PoolCount("p", 0, 2, None)]


async def test_who_waits_for_longer_than_it_may_last_is_woken(rig: Rig) -> None:
    await limit(rig, concurrency=0)
    until_us = rig.now_us + 60 * SECOND_US
    await enter(rig, "a", until_us=until_us)
    assert (await deal(rig)).next_us == until_us
    rig.now_us = until_us
    dealt = await deal(rig)
    assert (dealt.begun, dealt.waiting) == (1, ("p",))
    row = await rig.row("a")
    assert row.wake_us is not None
    assert row.wake_us <= until_us
    assert (await deal(rig)).begun == 0, "once"


async def test_who_is_paused_lets_others_pass(rig: Rig) -> None:
    await limit(rig, concurrency=1)
    for name in "abc":
        await enter(rig, name)
    await rig.one(Pause(rig.target("b"), rig.now_us, "me", "why"))
    await rig.one(rig.terminate("a"))
    assert (await deal(rig)).begun == 1
    assert not await waits(rig, "c")
    await rig.one(Resume(rig.target("b"), rig.now_us))
    (loaded,) = [one for one in await rig.claim() if one.row.workflow_id == "b"]
    assert loaded.row.next_seq == 1
    assert (await ask(rig, "b")).turn is Turn.WAITS
