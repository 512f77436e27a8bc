"""Filters over both stores, against a model of the language that shares no code with them."""

import asyncio
import sqlite3
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msgspec.structs import replace

from everlong_engine.model.events import RunCompleted, RunFailed
from everlong_engine.model.failure import Failure
from everlong_engine.model.filter_text import parse_field, parse_filter
from everlong_engine.model.filters import (
    Among,
    And,
    Begins,
    Compare,
    Filter,
    IsSet,
    Not,
    Or,
    TagField,
)
from everlong_engine.model.runs import RunRow
from everlong_engine.store.interface import RunFilter, Store
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.sqlite.filters import select_runs
from everlong_engine.store.sqlite.inline import InlineDatabase
from tests.support.events import tag_values
from tests.support.filters import trees
from tests.support.store_rig import SECOND_US, Rig

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
NOW_US = (NOVEMBER - EPOCH) // timedelta(microseconds=1)
"""When everything is looked at: what begins behind it has not begun."""
TAG_VALUES = (
    st.sampled_from(["", "a", "ab", "b", "c1", "2026-11-01", 0, 1, 1.0, -2, 0.5, True, False])
    | st.sampled_from([NOVEMBER, NOVEMBER + timedelta(microseconds=5)])
    | tag_values
)
A_RUN = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "ab", "b", "it's", "c"]),
        "type": st.sampled_from(["a", "flow"]),
        "end": st.sampled_from(["no", "completed", "failed"]),
        "tags": st.dictionaries(st.sampled_from(["a", "b", "order.id-2"]), TAG_VALUES, max_size=3),
        "later_us": st.sampled_from([0, 5, SECOND_US]),
        "begins_us": st.sampled_from([None, None, 5, SECOND_US]),
    }
)


# ----------------------------------------------------------------------------------- the model


def means(tree: Filter, row: RunRow, tags: dict[str, Any]) -> bool:
    """The language once more, in the words of the guide."""
    match tree:
        case And(parts):
            return not [one for one in parts if not means(one, row, tags)]
        case Or(parts):
            return bool([one for one in parts if means(one, row, tags)])
        case Not(part):
            return not means(part, row, tags)
        case IsSet(of):
            return found(of, row, tags) is not None
        case Begins(of, prefix):
            there = found(of, row, tags)
            return type(there) is str and there[: len(prefix)] == prefix
        case Among(of, values, negated):
            there = found(of, row, tags)
            return there is not None and (negated ^ any(relate(there, one) == 0 for one in values))
        case Compare(of, op, value):
            there = found(of, row, tags)
            order = None if there is None else relate(there, value)
            if order is None:
                return there is not None and op == "!="
            allowed = {"=": [0], "!=": [-1, 1], "<": [-1], "<=": [-1, 0], ">": [1], ">=": [0, 1]}
            return order in allowed[op]


def found(of: Any, row: RunRow, tags: dict[str, Any]) -> Any:
    if isinstance(of, TagField):
        return tags.get(of.name)
    put_off = row.next_seq == 1 and row.status.text == "running"
    ahead = put_off and row.wake_us is not None and row.wake_us > NOW_US
    begins_us = row.wake_us if ahead else None
    instants = {"started": row.started_us, "closed": row.closed_us, "begins": begins_us}
    if of.name in instants:
        us = instants[of.name]
        return None if us is None else EPOCH + timedelta(microseconds=us)
    texts = {"status": row.status.text, "type": row.type, "id": row.workflow_id, "queue": row.queue}
    return texts[of.name]


def relate(there: Any, given: Any) -> int | None:
    """-1, 0 or 1; None for what cannot be compared."""
    if isinstance(there, datetime) and given == "2026-11-01":
        given = NOVEMBER
    families = (bool,), (str,), (int, float), (datetime,)
    for kinds in families:
        if type(there) in kinds:
            return (there > given) - (there < given) if type(given) in kinds else None
    raise AssertionError(f"{there!r} is no value")


# --------------------------------------------------------------------------------- both stores


async def filled(store: Store, runs: list[dict[str, Any]]) -> Rig:
    rig = Rig(store, seed=7)
    rig.now_us = NOW_US
    ends: dict[str, Any] = {
        "no": (),
        "completed": (RunCompleted(b""),),
        "failed": (RunFailed(Failure(type="t", message="m")),),
    }
    for number, one in enumerate(runs):
        rig.now_us += one["later_us"]
        name = one["name"] if one["end"] != "no" else f"{one['name']}{number}"
        tags = tuple(one["tags"].items())
        start = rig.start_here(name, *ends[one["end"]], type=one["type"], tags=tags)
        if one["begins_us"] is not None and one["end"] == "no":
            put_off = rig.start(name, type=one["type"], tags=tags)
            start = replace(put_off, wake_us=rig.now_us + one["begins_us"])
        await rig.one(start)
    return rig


def meaning(where: Filter | None) -> RunFilter:
    return RunFilter("default", where=where, now_us=NOW_US)


async def every(store: Store, where: Filter | None) -> list[RunRow]:
    """By pages of three."""
    rows: list[RunRow] = []
    after: bytes | None = None
    while page := await store.list_runs(meaning(where), 3, after):
        rows += page
        after = page[-1].run_id
    return rows


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(A_RUN, max_size=8), st.lists(trees(), min_size=1, max_size=8))
def test_stores_find_what_the_filter_means(
    runs: list[dict[str, Any]], wanted: list[Filter]
) -> None:
    async def compare(store: Store) -> None:
        await filled(store, runs)
        rows = await every(store, None)
        assert len(rows) == len(runs)
        tags = await store.tags([(row.shard, row.run_id) for row in rows])
        for where in wanted:
            meant = [row for row in rows if means(where, row, dict(tags.get(row.run_id, ())))]
            assert await every(store, where) == meant
            total = await store.count_runs(meaning(where), None)
            assert total == [(None, len(meant))]
            for by in ("status", "tag.a"):
                field = parse_field(by)
                groups = await store.count_runs(meaning(where), field)
                counts: Counter[str] = Counter()
                for value, count in groups:
                    counts[repr_of(value)] += count  # Large whole numbers may be one float.
                assert sorted(counts.items()) == counted(meant, tags, field)

    database = InlineDatabase()
    try:
        asyncio.run(compare(MemoryStore(MemoryData())))
        asyncio.run(compare(database.open()))
    finally:
        database.close()


def repr_of(value: Any) -> str:
    return repr(float(value)) if type(value) in (int, float) else repr(value)


def counted(rows: list[RunRow], tags: Any, by: Any) -> list[tuple[str, int]]:
    values = [repr_of(found(by, row, dict(tags.get(row.run_id, ())))) for row in rows]
    return sorted((value, values.count(value)) for value in set(values))


async def test_other_namespaces_are_not_seen(rig: Rig) -> None:
    await rig.owned("w", tags=(("a", 1),))
    await rig.owned("w", tags=(("a", 1),), namespace="other")
    for text in ("tag.a = 1", "tag.a > 0", "status = 'running'", "id = 'w'"):
        where = parse_filter(text)
        assert len(await rig.store.list_runs(RunFilter("default", where=where), 9, None)) == 1
        assert await rig.store.count_runs(RunFilter("other", where=where), None) == [(None, 1)]


async def test_what_is_put_off_is_found_until_it_is_to_begin(rig: Rig) -> None:
    at_us = NOW_US + SECOND_US
    rig.now_us = NOW_US
    await rig.one(replace(rig.start("later"), wake_us=at_us))
    await rig.one(rig.start("now"))
    await rig.claim_one()  # It sleeps no more, and has not begun either.
    await rig.closed("over")
    instant = (EPOCH + timedelta(microseconds=at_us)).isoformat()
    for text, names in (
        ("begins is set", ["later"]),
        ("begins is not set and status = 'running'", ["now"]),
        (f"begins = '{instant}' and begins in ('{instant}')", ["later"]),
        (f"begins < '{instant}'", []),
        (f"not begins < '{instant}'", ["over", "now", "later"]),
        (f"id = 'over' or begins != '{instant}'", ["over"]),
    ):
        wanted = meaning(parse_filter(text))
        found = await rig.store.list_runs(wanted, 9, None)
        assert [row.workflow_id for row in found] == names, text
        assert await rig.store.count_runs(wanted, None) == [(None, len(names))]
    late = RunFilter("default", where=parse_filter("begins is set"), now_us=at_us)
    assert await rig.store.list_runs(late, 9, None) == []


# -------------------------------------------------------------------------------------- indexes


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("tag.a = 'c1'", "SEARCH lead USING COVERING INDEX tags_by_value"),
        ("tag.a = 7 and status = 'running'", "SEARCH lead USING COVERING INDEX tags_by_value"),
        ("status = 'failed' and tag.a = 'c1' and type = 'order'", "SEARCH lead USING COVERING"),
        ("id = 'order-7'", "SEARCH runs USING COVERING INDEX runs_of_workflow"),
        ("started >= '2026-11-01'", "SEARCH runs USING PRIMARY KEY (shard=? AND run_id>?)"),
        ("status = 'failed'", "SEARCH runs USING COVERING INDEX runs_of_status"),
        ("status = 'running' and type = 'order'", "SEARCH runs USING INDEX runs_of_status"),
        ("status = 'running' and started > '2026-11-01'", "SEARCH runs USING INDEX runs_of_status"),
        ("begins is set", "SEARCH runs USING INDEX runs_of_status"),
        ("status = 'failed' and id = 'a'", "SEARCH runs USING INDEX runs_of_workflow"),
        ("status = 'completed'", "SEARCH runs USING PRIMARY KEY (shard=?)"),
        ("type = 'order'", "SEARCH runs USING PRIMARY KEY (shard=?)"),
        ("tag.a > 7", "SEARCH t USING PRIMARY KEY (shard=? AND run_id=? AND name=?)"),
    ],
)
@pytest.mark.parametrize("after", [None, b"\xff" * 16])
def test_common_filters_read_in_the_order_of_an_index(
    database: InlineDatabase, text: str, plan: str, after: bytes | None
) -> None:
    statement, values = select_runs(RunFilter("default", where=parse_filter(text)), 50, after)
    connection: sqlite3.Connection = database.connection
    steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    if after is None or "run_id>" not in plan:
        assert any(step.startswith(plan.removesuffix(")")) for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in steps), steps


@pytest.fixture
def database() -> Any:
    found = InlineDatabase()
    found.open()
    yield found
    found.close()
