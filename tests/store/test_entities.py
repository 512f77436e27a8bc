"""States of keys: rows that an append writes over, and what becomes of them."""

from typing import Any

import pytest

from everlong_engine.model.entities import (
    ByDue,
    ByKey,
    EntityChanges,
    EntityLook,
    EntityRow,
    OfKeys,
    entity_checksum,
)
from everlong_engine.model.errors import UnreadableExport
from everlong_engine.model.events import RunCompleted, RunContinuedAsNew
from everlong_engine.model.export_lines import export_lines, read_export
from everlong_engine.model.limits import ENTITIES_READ_BYTES_MAX
from everlong_engine.model.runs import RunRow
from everlong_engine.model.writes import Append, Refusal, ResetRefusal, ResetResult
from tests.store.test_store_resets import reset_of
from tests.support.store_rig import SECOND_US, Rig, refusal, signal


def state(key: str, payload: bytes = b"state", due_us: int | None = None) -> EntityRow:
    return EntityRow(key, due_us, payload, entity_checksum(key, due_us, payload))


def changing(rig: Rig, row: RunRow, *rows: EntityRow, gone: tuple[str, ...] = ()) -> Append:
    return rig.append(row, entities=EntityChanges(rows, gone))


async def change(rig: Rig, *rows: EntityRow, gone: tuple[str, ...] = (), run: str = "w") -> None:
    assert refusal(await rig.one(changing(rig, await rig.row(run), *rows, gone=gone))) is None


async def found(rig: Rig, look: EntityLook | None = None, run: str = "w") -> list[EntityRow]:
    row = await rig.row(run)
    return await rig.store.entities(row.shard, row.execution_id, look or ByKey("", 100))


async def test_a_state_takes_the_place_of_the_one_before(rig: Rig) -> None:
    await rig.owned()
    await change(rig, state("a", b"1"), state("b", b"1", 7))
    await change(rig, state("a", b"2", 5))
    assert await found(rig) == [state("a", b"2", 5), state("b", b"1", 7)]
    await change(rig, state("b", b"2"), gone=("a", "never there"))
    assert await found(rig) == [state("b", b"2")]
    assert await rig.problems() == []


async def test_states_are_found_by_keys_in_order_and_by_time(rig: Rig) -> None:
    """By the bytes of keys in UTF-8, whatever the language of the database."""
    await rig.owned()
    keys = ["b", "B", "ä", "a", "\U0001f6d2", "\ufb01", "10", "9"]
    rows = [state(key, key.encode(), 100 - at if at % 2 else None) for at, key in enumerate(keys)]
    await change(rig, *rows)
    in_order = sorted(keys, key=str.encode)
    assert [one.key for one in await found(rig)] == in_order
    assert [one.key for one in await found(rig, ByKey("a", 3))] == ["b", "ä", "\ufb01"]
    some = await found(rig, OfKeys(("ä", "nobody", "10", "ä")))
    assert [one.key for one in some] == ["10", "ä"]
    assert await found(rig, OfKeys(())) == []
    due = await found(rig, ByDue(3))
    assert [one.due_us for one in due] == [93, 95, 97]
    await change(rig, state("a", b"", 95), state("b", b"", 95))
    assert [(one.due_us, one.key) for one in await found(rig, ByDue(4))] == [
        (93, "9"),
        (95, "a"),
        (95, "b"),
        (95, "\ufb01"),
    ]


async def test_what_is_refused_changes_no_state(rig: Rig) -> None:
    """A zombie's, one at the wrong place, and one that is known again behind a newer one."""
    zombie = await rig.owned()
    await rig.register()
    first = changing(rig, zombie, state("a", b"1"))
    assert refusal(await rig.one(first)) is None
    await change(rig, state("a", b"2"))
    assert refusal(await rig.one(first)) in (None, Refusal.FENCED)  # Its answer was lost.
    assert await found(rig) == [state("a", b"2")]
    stale = changing(rig, zombie, state("a", b"stale"))
    assert refusal(await rig.one(stale)) is Refusal.FENCED
    await rig.die()
    (taken,) = await rig.claim()
    late = rig.append(zombie, base=taken.row.next_seq, entities=EntityChanges((), ("a",)))
    assert refusal(await rig.one(late)) is Refusal.FENCED
    assert await found(rig) == [state("a", b"2")]


async def test_appends_of_one_group_change_states_one_behind_the_other(rig: Rig) -> None:
    row = await rig.owned()
    other = await rig.owned("other")
    results = await rig.group(
        rig.append(row, entities=EntityChanges((state("a", b"1"), state("b", b"1")))),
        rig.append(row, signal(), base=3, entities=EntityChanges((state("a", b"2"),), ("b",))),
        rig.append(other, entities=EntityChanges((state("a", b"other"),))),
        rig.append(row, signal(), base=4, entities=EntityChanges((), ("c",))),
        rig.append(row, signal(), base=9, entities=EntityChanges((), ("a",))),
    )
    assert [refusal(one) for one in results] == [None] * 4 + [Refusal.FENCED]
    assert await found(rig) == [state("a", b"2")]
    assert await found(rig, run="other") == [state("a", b"other")]


async def test_many_states_are_written_and_read_at_once(rig: Rig) -> None:
    await rig.owned()
    rows = [state(f"{number:06}", b"%d" % number) for number in range(3000)]
    await change(rig, *rows)
    assert await found(rig, OfKeys(tuple(one.key for one in rows))) == rows
    assert await found(rig, ByKey("001499", 2000)) == rows[1500:]


async def test_a_page_ends_where_it_gets_too_large(rig: Rig) -> None:
    await rig.owned()
    large = bytes(ENTITIES_READ_BYTES_MAX // 2 - 10)
    await change(rig, *(state(key, large, 1) for key in "abcd"))
    assert [one.key for one in await found(rig)] == ["a", "b"]
    assert [one.key for one in await found(rig, ByDue(9))] == ["a", "b"]
    assert [one.key for one in await found(rig, ByKey("b", 9))] == ["c", "d"]
    assert len(await found(rig, OfKeys(("a", "b", "c", "d")))) == 4  # All that were asked for.


async def test_states_belong_to_the_execution_and_go_with_its_last_run(rig: Rig) -> None:
    row = await rig.owned()
    await change(rig, state("a"))
    row = await rig.row()
    leaving = rig.append(
        row, RunContinuedAsNew(b"", (), 0), next_run=rig.successor(row), mail_free=False
    )
    await rig.one(leaving)
    assert await found(rig) == [state("a")]
    await rig.claim()
    last = await rig.row()
    mail = tuple(one.position for one in (await rig.load()).mail)
    await rig.one(rig.append(last, RunCompleted(b""), consumed=mail))
    horizon = rig.now_us
    await rig.store.prune((-1, b""), horizon, 100)
    assert await found(rig) == [state("a")]
    rig.now_us += 10 * SECOND_US
    await rig.store.prune((-1, b""), rig.now_us, 100)
    gone = await rig.store.entities(last.shard, last.execution_id, ByKey("", 10))
    assert gone == []
    assert await rig.problems() == []


async def test_an_execution_with_states_is_not_reset_and_not_forked(rig: Rig) -> None:
    row = await rig.owned("w", signal(), signal())
    await change(rig, state("a"))
    row = await rig.row()
    result = await rig.one(reset_of(rig, row, 2))
    assert isinstance(result, ResetResult)
    assert result.refusal is ResetRefusal.STATES
    assert (await rig.row()).run_id == row.run_id
    await change(rig, gone=("a",))
    result = await rig.one(reset_of(rig, await rig.row(), 2))
    assert isinstance(result, ResetResult)
    assert result.refusal is None


async def test_states_travel_with_their_execution(rig: Rig) -> None:
    await rig.owned()
    rows = [state("a", b"\xc1\x00", 7), state("ä", b"")]
    await change(rig, *rows)
    export = await rig.store.export(rig.target(), family=False)
    lines = list(export_lines(export, written_by="test", at_us=rig.now_us))
    read = read_export(lines)
    assert read[0].entities == tuple(rows)
    assert list(export_lines(read, written_by="test", at_us=rig.now_us)) == lines


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ((state("a")._replace(payload=b"other"),), "the key 'a' has a wrong checksum"),
        ((state("a")._replace(due_us=5),), "the key 'a' has a wrong checksum"),
        ((state("a")._replace(key="b"),), "the key 'b' has a wrong checksum"),
        ((state("a"), state("a")), "the key 'a' is there twice"),
    ],
)
async def test_an_export_with_other_states_is_refused(
    rig: Rig, rows: tuple[EntityRow, ...], why: str
) -> None:
    await rig.owned()
    (execution,) = await rig.store.export(rig.target(), family=False)
    changed: Any = type(execution)(runs=execution.runs, entities=rows)
    lines = export_lines([changed], written_by="test", at_us=rig.now_us)
    with pytest.raises(UnreadableExport, match=why):
        read_export(lines)
