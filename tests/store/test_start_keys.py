"""Starts with keys: debounced ones, of which several make one execution, and deduplicated ones."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from everlong_engine.machine.keys import begins_us
from everlong_engine.model.codec import decode_event, encode_event
from everlong_engine.model.events import CancelRequested, RunStarted
from everlong_engine.model.keys import KeyKind, StartKey
from everlong_engine.model.lineage import Debounced
from everlong_engine.model.requests import Sent
from everlong_engine.model.runs import RunStatus
from everlong_engine.model.turns import AskTurn, Turn
from everlong_engine.model.writes import (
    Message,
    Pause,
    PauseMany,
    Resume,
    ResumeMany,
    StartResult,
    StartRun,
)
from everlong_engine.store.interface import RunFilter, Store
from tests.support.store_rig import SECOND_US, Rig, signal

SPILLS = b"x" * 100_000


def debounced(
    rig: Rig,
    arguments: bytes = b"",
    *,
    name: str | None = None,
    key: str = "k",
    span: int = 5,
    most: int | None = None,
    request_id: str | None = None,
    sent: Sent | None = None,
    deadline: int | None = None,
    **options: Any,
) -> StartRun:
    start = rig.start(name or f"w{rig.ids.next(rig.now_us).hex()}", arguments=arguments, **options)
    blobs = dict(start.blobs or {})
    event = decode_event(start.kind, start.body, blobs)
    assert isinstance(event, RunStarted)
    begins = rig.now_us + span * SECOND_US
    until_us = None if deadline is None else begins + deadline * SECOND_US
    spilled: dict[bytes, bytes] = {}
    _, body = encode_event(
        replace(event, begins_us=begins, execution_deadline_us=until_us), spilled
    )
    start_key = StartKey(
        kind=KeyKind.DEBOUNCE,
        key=key,
        span_us=span * SECOND_US,
        most_us=None if most is None else most * SECOND_US,
        now_us=rig.now_us,
        request_id=request_id,
        sent=sent,
    )
    return replace(start, body=body, blobs=spilled, key=start_key)


def deduplicated(rig: Rig, name: str, key: str = "k", within: int = 10, **options: Any) -> StartRun:
    start_key = StartKey(kind=KeyKind.DEDUP, key=key, span_us=within * SECOND_US, now_us=rig.now_us)
    return replace(rig.start(name, **options), key=start_key)


async def came(rig: Rig, start: StartRun) -> StartResult:
    result = await rig.one(start)
    assert isinstance(result, StartResult)
    return result


async def start_of(rig: Rig, name: str) -> RunStarted:
    loaded = await rig.load(name)
    first = loaded.mail[0]
    event = decode_event(first.kind, first.body, loaded.blobs)
    assert isinstance(event, RunStarted)
    return event


async def test_starts_that_come_together_are_one_with_what_the_last_one_said(rig: Rig) -> None:
    first = await came(rig, debounced(rig, b"one", name="a", most=60, tags=(("n", 1), ("x", 1))))
    began = rig.now_us
    assert (first.created, first.workflow_id) == (True, "a")
    rig.now_us += 3 * SECOND_US
    second = await came(rig, debounced(rig, b"two", name="b", most=60, tags=(("n", 2),)))
    assert second == StartResult(
        False, first.run_id, first.execution_id, RunStatus.RUNNING, workflow_id="a"
    )
    assert [
        row.workflow_id for row in await rig.store.list_runs(RunFilter("default"), 9, None)
    ] == ["a"]
    start = await start_of(rig, "a")
    assert (start.arguments, start.workflow_id) == (b"two", "a")
    assert start.begins_us == (await rig.row("a")).wake_us == rig.now_us + 5 * SECOND_US
    assert start.debounced == Debounced("k", began, began + 60 * SECOND_US, 2)
    assert await rig.tags("a") == {"n": 2}
    assert await rig.claim() == []
    rig.now_us += 5 * SECOND_US
    (loaded,) = await rig.claim()
    assert loaded.row.workflow_id == "a"
    assert await rig.problems() == []


async def test_the_first_does_not_wait_for_longer_than_its_cap(rig: Rig) -> None:
    await came(rig, debounced(rig, name="a", most=12))
    began = rig.now_us
    for _ in range(4):
        rig.now_us += 4 * SECOND_US
        await came(rig, debounced(rig, most=12))
    # Nobody has taken it up, so the last one is in it, and puts it off no more.
    assert (await rig.row("a")).wake_us == began + 12 * SECOND_US
    assert (await start_of(rig, "a")).debounced == Debounced("k", began, began + 12 * SECOND_US, 5)


@given(
    gaps=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    spans=st.lists(st.integers(1, 20), min_size=12, max_size=12),
    caps=st.lists(st.none() | st.integers(20, 50), min_size=12, max_size=12),
)
def test_it_begins_a_span_behind_the_last_and_a_cap_behind_the_first(
    gaps: list[int], spans: list[int], caps: list[int | None]
) -> None:
    now, first = 1_000, 1_000
    for gap, span, cap in zip(gaps, spans, caps, strict=False):
        now += gap
        key = StartKey(kind=KeyKind.DEBOUNCE, key="", span_us=span, most_us=cap, now_us=now)
        begins = begins_us(key, first)
        assert begins <= now + span
        assert begins == now + span or (cap is not None and begins == first + cap)
        assert cap is None or begins <= first + cap


async def test_keys_types_and_namespaces_are_apart(rig: Rig) -> None:
    starts = [
        debounced(rig, name="a"),
        debounced(rig, name="b", key="other"),
        debounced(rig, name="c", type="another"),
        debounced(rig, name="d", namespace="elsewhere"),
        deduplicated(rig, "e"),
        debounced(rig, name="f"),
    ]
    results = [await came(rig, one) for one in starts]
    assert [one.created for one in results] == [True] * 5 + [False]
    assert results[-1].workflow_id == "a"


async def test_several_of_one_group_come_together(rig: Rig) -> None:
    results = await rig.group(*(debounced(rig, b"%d" % one, name=f"w{one}") for one in range(4)))
    assert [isinstance(one, StartResult) and one.created for one in results] == [
        True,
        False,
        False,
        False,
    ]
    assert (await start_of(rig, "w0")).arguments == b"3"


async def test_what_comes_once_it_was_taken_up_makes_the_next_one(rig: Rig) -> None:
    await came(rig, debounced(rig, b"one", name="a"))
    rig.now_us += 5 * SECOND_US
    (taken,) = await rig.claim()
    second = await came(rig, debounced(rig, b"two", name="b"))
    third = await came(rig, debounced(rig, b"three", name="c"))
    assert (second.created, third.created, third.workflow_id) == (True, False, "b")
    await rig.one(rig.append(taken.row, RunStarted("flow", b"one", "a", 1, "", ""), consumed=()))
    assert (await start_of(rig, "b")).arguments == b"three"
    assert await rig.problems() == []


@pytest.mark.parametrize("how", ["cancelled", "terminated", "blocked"])
async def test_what_is_to_end_takes_in_nobody(rig: Rig, how: str) -> None:
    await came(rig, debounced(rig, name="a"))
    if how == "cancelled":
        cancel = encode_event(CancelRequested("enough"), {})
        await rig.one(Message(rig.target("a"), *cancel, rig.now_us))
    elif how == "terminated":
        await rig.one(rig.terminate("a"))
    else:
        rig.now_us += 5 * SECOND_US
        (taken,) = await rig.claim()
        await rig.one(rig.release(taken.row, blocked=True, reason="no code"))
    after = await came(rig, debounced(rig, name="b"))
    assert (after.created, after.workflow_id) == (True, "b")


async def test_who_was_claimed_and_handed_back_unbegun_takes_in_again(rig: Rig) -> None:
    await came(rig, debounced(rig, b"one", name="a"))
    rig.now_us += 5 * SECOND_US
    (taken,) = await rig.claim()
    wake_us = rig.now_us + SECOND_US
    position = taken.mail[0].position
    await rig.one(rig.release(taken.row, wake_us, waits_with=position))
    after = await came(rig, debounced(rig, b"two", name="b"))
    assert (after.created, after.workflow_id) == (False, "a")
    assert (await start_of(rig, "a")).arguments == b"two"
    # Whoever had loaded it before may not go on with what it has.
    stale = rig.append(taken.row, RunStarted("flow", b"one", "a", 1, "", ""), consumed=(position,))
    rig.now_us += 6 * SECOND_US
    await rig.claim()
    result = await rig.one(stale)
    assert getattr(result, "refusal", None) is not None


async def test_who_waits_for_its_turn_takes_in_nobody(rig: Rig) -> None:
    await came(rig, debounced(rig, name="a"))
    rig.now_us += 5 * SECOND_US
    (taken,) = await rig.claim()
    row = taken.row
    ask = AskTurn(
        shard=row.shard,
        execution_id=row.execution_id,
        namespace="default",
        workflow_id="a",
        worker_id=rig.worker_id,
        token=row.lease_token,
        pool="p",
        key="",
        rank=0,
        waits_with=taken.mail[0].position,
        until_us=None,
        now_us=rig.now_us,
        after="",
    )
    (answer,) = await rig.store.ask_turns([ask])
    assert answer.turn is Turn.BEGINS
    await rig.one(rig.release(row, rig.now_us, waits_with=taken.mail[0].position))
    assert (await came(rig, debounced(rig, name="b"))).created


async def test_a_paused_one_takes_in_and_keeps_still(rig: Rig) -> None:
    await came(rig, debounced(rig, b"one", name="a"))
    await rig.one(Pause(rig.target("a"), rig.now_us, "me", "why"))
    joined = await came(rig, debounced(rig, b"two", name="b"))
    assert (joined.created, joined.status) == (False, RunStatus.PAUSED)
    assert (await rig.row("a")).wake_us is None
    rig.now_us += 2 * SECOND_US
    await rig.one(Resume(rig.target("a"), rig.now_us))
    (taken,) = await rig.claim()
    start = await start_of(rig, "a")
    assert (start.arguments, start.begins_us) == (b"two", rig.now_us + 3 * SECOND_US)
    assert taken.row.workflow_id == "a"


async def test_of_a_type_that_is_paused_they_come_together_all_the_same(rig: Rig) -> None:
    await rig.one(PauseMany("default", "flow", rig.now_us, "me", "why"))
    first = await came(rig, debounced(rig, name="a"))
    second = await came(rig, debounced(rig, b"two", name="b"))
    assert (first.created, first.status) == (True, RunStatus.PAUSED)
    assert second.workflow_id == "a"
    await rig.one(ResumeMany("default", "flow", rig.now_us))
    assert (await rig.row("a")).status is RunStatus.RUNNING
    assert await rig.problems() == []


async def test_a_request_is_known_again_also_once_its_execution_is_over(rig: Rig) -> None:
    first = await came(rig, debounced(rig, b"one", name="a", request_id="r"))
    again = await came(rig, debounced(rig, b"stale", name="b", request_id="r"))
    assert (again.created, again.same_request, again.workflow_id) == (False, True, "a")
    assert (await start_of(rig, "a")).arguments == b"one"
    await came(rig, debounced(rig, b"two", name="c", request_id="other"))
    await rig.one(rig.terminate("a"))
    late = await came(rig, debounced(rig, name="d", request_id="other"))
    assert (late.execution_id, late.same_request) == (first.execution_id, True)
    fresh = await came(rig, debounced(rig, name="e", request_id="third"))
    assert fresh.created


async def test_a_group_that_is_repeated_is_known_again_without_a_request_id(rig: Rig) -> None:
    starts = [debounced(rig, b"%d" % one, name=f"w{one}", sent=rig.sent()) for one in range(3)]
    first = await rig.group(*starts)
    other = debounced(rig, b"newer", name="n", sent=rig.sent("another"))
    await came(rig, other)
    assert await rig.group(*starts) == first
    start = await start_of(rig, "w0")
    assert (start.arguments, start.debounced) == (b"newer", Debounced("k", rig.now_us, None, 4))
    rig.now_us += 5 * SECOND_US
    await rig.claim()
    assert await rig.group(*starts) == first


async def test_spilled_arguments_that_are_replaced_go(rig: Rig, store: Store) -> None:
    await came(rig, debounced(rig, SPILLS, name="a"))
    await rig.send("a", payload=SPILLS)
    for part in (b"1", b"2", b"3"):
        await came(rig, debounced(rig, SPILLS + part))
    loaded = await rig.load("a")
    assert set(loaded.blobs.values()) >= {SPILLS + b"3"}
    assert not {SPILLS + b"1", SPILLS + b"2"} & set(loaded.blobs.values())
    await came(rig, debounced(rig, b"small"))
    assert SPILLS + b"3" not in (await rig.load("a")).blobs.values()
    assert await rig.problems() == []


async def test_messages_wait_behind_the_start(rig: Rig) -> None:
    await came(rig, debounced(rig, b"one", name="a"))
    await rig.send("a")
    await came(rig, debounced(rig, b"two"))
    loaded = await rig.load("a")
    events = [decode_event(one.kind, one.body, loaded.blobs) for one in loaded.mail]
    assert isinstance(events[0], RunStarted)
    assert (events[0].arguments, events[1]) == (b"two", signal())


async def test_a_deadline_counts_from_the_beginning(rig: Rig) -> None:
    began = rig.now_us
    await came(rig, debounced(rig, name="a", most=6))
    rig.now_us += 4 * SECOND_US
    await came(rig, debounced(rig, most=6, deadline=100))
    start = await start_of(rig, "a")
    assert start.begins_us == began + 6 * SECOND_US
    assert start.execution_deadline_us == began + 106 * SECOND_US


async def test_a_key_goes_with_its_execution(rig: Rig) -> None:
    await came(rig, debounced(rig, name="a", request_id="r"))
    await came(rig, deduplicated(rig, "d"))
    await rig.one(rig.terminate("a"))
    await rig.one(rig.terminate("d"))
    rig.now_us += 100 * SECOND_US
    await rig.store.prune((-1, b""), rig.now_us, 100)
    assert await rig.store.list_runs(RunFilter("default"), 9, None) == []
    assert await rig.problems() == []
    assert (await came(rig, debounced(rig, name="b", request_id="r"))).created


async def test_a_key_that_was_seen_lately_gives_the_same_execution(rig: Rig) -> None:
    first = await came(rig, deduplicated(rig, "a"))
    assert (first.created, first.workflow_id) == (True, "a")
    rig.now_us += 9 * SECOND_US
    again = await came(rig, deduplicated(rig, "b"))
    assert (again.created, again.same_request, again.workflow_id) == (False, True, "a")
    await rig.one(rig.terminate("a"))
    ended = await came(rig, deduplicated(rig, "c"))
    assert (ended.execution_id, ended.status) == (first.execution_id, RunStatus.TERMINATED)
    rig.now_us += SECOND_US
    late = await came(rig, deduplicated(rig, "d"))
    assert (late.created, late.workflow_id) == (True, "d")


async def test_a_deduplicated_start_that_is_repeated_is_known_again(rig: Rig) -> None:
    start = deduplicated(rig, "a")
    first = await came(rig, start)
    again = await came(rig, start)
    assert again == first
    assert again.repeated


POLICIES: list[tuple[Callable[[Rig], StartRun], bool]] = [
    (lambda rig: deduplicated(rig, "a", if_open="use"), True),
    (lambda rig: deduplicated(rig, "a", if_open="fail"), False),
    (lambda rig: deduplicated(rig, "a", if_open="terminate"), False),
]


@pytest.mark.parametrize(("make", "kept"), POLICIES, ids=["use", "fail", "terminate"])
async def test_a_key_is_kept_where_something_came_of_the_start(
    rig: Rig, make: Callable[[Rig], StartRun], kept: bool
) -> None:
    """One that only looks who is in the way is done again once that one is terminated."""
    row = await rig.started("a")
    await came(rig, make(rig))
    await rig.one(rig.terminate("a"))
    after = await came(rig, deduplicated(rig, "b"))
    assert after.created is not kept
    assert (after.execution_id == row.execution_id) is kept
