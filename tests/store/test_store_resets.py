"""Resets in each store: what one transaction closes, copies, moves and leaves to be fed."""

from typing import Any

import pytest
from msgspec.structs import replace

from everlong_engine.model.codec import Blobs, encode_event
from everlong_engine.model.events import (
    CODES,
    CancelRequested,
    ChildClosed,
    ChildStarted,
    Event,
    ExternalAnswered,
    RunCompleted,
    RunStarted,
    RunTerminated,
    SignalReceived,
    UpdateCompleted,
)
from everlong_engine.model.lineage import CopiedPart, Reset
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.model.writes import Refusal, ResetRefusal, ResetResult, ResetRun, Reunion
from tests.support.store_rig import Rig, item, question, refusal, signal, started


def reset_of(rig: Rig, row: RunRow, kept: int, **changed: Any) -> ResetRun:
    """Keeps events 1 to `kept`; of those the start is told again."""
    new = rig.new(row.workflow_id)
    source = replace(new, run_id=row.run_id, execution_id=row.execution_id)
    part = CopiedPart(row.run_id, row.workflow_id, kept, ())
    first = replace(started(row.workflow_id), reset=Reset((part,), rig.now_us, "why"))
    blobs: Blobs = {}
    fill = [signal(b"copied")] * (kept - 1)
    options: dict[str, Any] = {
        "source": source,
        "seen": row.next_seq,
        "run": replace(new, execution_id=row.execution_id),
        "rows": tuple(rig.rows(1, [first, *fill], blobs)),
        "start": None,
        "mail": (encode_event(signal(b"again"), {}),),
        "dropped": (),
        "blobs": blobs,
        "mail_blobs": {},
        "reunions": (),
        "settled": (),
        "approvals": (),
        "answers": (),
        "closing": encode_event(RunTerminated("reset"), {}),
        "append_id": 99,
        "now_us": rig.now_us,
    }
    return ResetRun(**(options | changed))


async def done(rig: Rig, write: ResetRun) -> ResetResult:
    result = await rig.one(write)
    assert isinstance(result, ResetResult)
    return result


async def mail_of(rig: Rig) -> list[object]:
    """What lies in the inbox of the execution, in order: payloads of signals, kinds of others."""
    return [
        one.body[-5:] if one.kind == CODES[SignalReceived] else one.kind
        for one in (await rig.load()).mail
    ]


async def test_an_open_run_is_closed_and_fenced_and_another_has_its_place(rig: Rig) -> None:
    old = await rig.owned("w", signal(), item(0), question(1))
    await rig.send()
    result = await done(rig, reset_of(rig, old, 2, approvals=((1, 2),)))
    assert result.refusal is None
    row = await rig.row()
    assert (row.run_id, row.execution_id) == (result.run_id, old.execution_id)
    assert (row.status, row.next_seq, row.owner) == (RunStatus.RUNNING, 3, None)
    before = await rig.load(old)
    assert before.row.status is RunStatus.RESET
    assert isinstance(before.history[-1].event, RunTerminated)
    assert refusal(await rig.one(rig.append(old, signal()))) is Refusal.FENCED
    first = (await rig.load()).history[0].event
    assert isinstance(first, RunStarted)
    assert first.reset is not None
    assert first.reset.copied[-1].published == (("told", 1),), "channels go on behind the items"
    found = await mail_of(rig)
    assert found.index(b"again") < len(found) - 1, "before what waited already"
    assert await rig.open_approvals() == [("w", 1)]
    assert [one for one in await rig.problems() if "approval" not in one] == []


async def test_a_closed_run_stays_as_it_was(rig: Rig) -> None:
    old = await rig.closed()
    before = await rig.kinds(old)
    assert (await done(rig, reset_of(rig, old, 1))).refusal is None
    assert await rig.kinds(old) == before
    assert (await rig.load(old)).row.status is RunStatus.COMPLETED
    assert (await rig.row()).status is RunStatus.RUNNING
    assert await rig.problems() == []


async def test_a_reset_that_is_repeated_is_known_again(rig: Rig) -> None:
    old = await rig.owned()
    write = reset_of(rig, old, 1, request_id="r")
    one, two = await done(rig, write), await done(rig, write)
    assert (one.run_id, two.repeated) == (two.run_id, True)
    other = await done(rig, reset_of(rig, await rig.row(), 1, request_id="r"))
    assert (other.run_id, other.same_request) == (one.run_id, True)


@pytest.mark.parametrize(
    "event",
    [
        signal(),
        ChildStarted(1, b"r" * 16, b"e" * 16),
        ExternalAnswered(1, b"r" * 16, ""),
        UpdateCompleted("u", b"\xc0"),
    ],
    ids=lambda event: type(event).__name__,
)
async def test_what_others_said_and_the_sender_has_not_seen_stands_in_the_way(
    rig: Rig, event: Event
) -> None:
    old = await rig.owned()
    write = reset_of(rig, old, 1)
    await rig.one(rig.append(old, event))
    assert (await done(rig, write)).refusal is ResetRefusal.MOVED_ON
    assert (await rig.row()).run_id == old.run_id
    late = reset_of(rig, await rig.row(), 1)
    await rig.one(rig.append(await rig.row(), CancelRequested("no message that is kept")))
    assert (await done(rig, late)).refusal is None
    assert (await done(rig, reset_of(rig, old, 1))).refusal is ResetRefusal.MOVED_ON


async def test_an_id_that_another_execution_has_is_not_taken_from_it(rig: Rig) -> None:
    old = await rig.closed()
    rig.now_us += 1_000_000
    await rig.owned()
    assert (await done(rig, reset_of(rig, old, 1))).refusal is ResetRefusal.TAKEN
    fork = reset_of(rig, old, 1, run=rig.new("other"))
    assert (await done(rig, fork)).refusal is None
    gone = replace(fork, source=rig.new(), run=rig.new("third"))
    assert (await done(rig, gone)).refusal is ResetRefusal.GONE


@pytest.mark.parametrize("over", [False, True])
async def test_a_child_is_waited_for_by_the_new_run_or_its_end_is_told(
    rig: Rig, over: bool
) -> None:
    old = await rig.owned()
    child = rig.child("kid", 1, old.run_id)
    lost = rig.child("lost", 2, old.run_id)
    await rig.one(rig.append(old, signal(), outgoing=(child, lost)))
    if over:
        await rig.one(rig.terminate("w"))
    reunion = Reunion(1, old.run_id, rig.target("kid"), "terminate")
    row = await rig.row()
    assert (await done(rig, reset_of(rig, row, 1, reunions=(reunion,)))).refusal is None
    ended = CODES[ChildClosed]
    if over:
        assert ended in await mail_of(rig)
    else:
        assert (await rig.row("kid")).status is RunStatus.RUNNING
        await rig.one(rig.terminate("kid"))
        assert ended in await mail_of(rig)
    assert (await rig.row("lost")).status is RunStatus.TERMINATED
    assert await rig.problems() == []


async def test_what_an_execution_has_goes_with_the_last_of_its_runs(rig: Rig) -> None:
    old = await rig.owned("w", item(0), RunCompleted(b"done"))
    assert (await done(rig, reset_of(rig, old, 1))).refusal is None
    await rig.one(rig.terminate())
    horizon = rig.now_us + 10_000_000_000
    cursor, pruned = await rig.store.prune((-1, b""), horizon, 1)
    assert pruned == 1
    assert await rig.problems() == []
    assert cursor is not None
    assert (await rig.store.prune(cursor, horizon, 10))[1] == 1
    assert await rig.problems() == []
