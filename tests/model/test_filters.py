"""The language of filters: what is read, what is written again, and what is refused, and where."""

from datetime import UTC, datetime
from time import process_time
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from everlong_engine.model.errors import InvalidFilter
from everlong_engine.model.filter_text import parse_field, parse_filter
from everlong_engine.model.filters import (
    Among,
    And,
    Begins,
    Compare,
    Field,
    Filter,
    IsSet,
    Not,
    Op,
    Or,
    TagField,
    filter_text,
    literal,
    prefix_end,
)
from everlong_engine.model.limits import FILTER_CHARS_MAX, FILTER_DEPTH_MAX, FILTER_VALUES_MAX
from tests.support.filters import trees

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
RUNNING = Compare(Field("status"), Op.EQ, "running")
C1 = Compare(TagField("customer"), Op.EQ, "c1")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("status = 'running'", RUNNING),
        (
            "status = 'running' and tag.customer = 'c1' and started > '2026-11-01'",
            And((RUNNING, C1, Compare(Field("started"), Op.GT, NOVEMBER))),
        ),
        ("STATUS == \"running\"AND(TAG.customer='c1')", And((RUNNING, C1))),
        (
            "status='running' or status='running' and tag.customer='c1'",
            Or((RUNNING, And((RUNNING, C1)))),
        ),
        ("not status = 'running' and tag.customer = 'c1'", And((Not(RUNNING), C1))),
        ("not (status = 'running' and tag.customer = 'c1')", Not(And((RUNNING, C1)))),
        ("not not tag.customer = 'c1'", Not(Not(C1))),
        ("workflow <> 'order'", Compare(Field("type"), Op.NE, "order")),
        ("id starts with 'it''s'", Begins(Field("id"), "it's")),
        ('id starts with "it\'s"', Begins(Field("id"), "it's")),
        ("tag.Customer = ''", Compare(TagField("Customer"), Op.EQ, "")),
        (
            "tag.order.id in (1, -2.5, 1e3, true, 'x')",
            Among(TagField("order.id"), (1, -2.5, 1000.0, True, "x")),
        ),
        ("queue not in ('a')", Among(Field("queue"), ("a",), negated=True)),
        ("closed is set", IsSet(Field("closed"))),
        ("closed is not null", IsSet(Field("closed"))),
        ("closed is null", Not(IsSet(Field("closed")))),
        ("tag.a is not set", Not(IsSet(TagField("a")))),
        (
            "tag.a between 1 and 2 and tag.b = 3",
            And(
                (
                    And((Compare(TagField("a"), Op.GE, 1), Compare(TagField("a"), Op.LE, 2))),
                    Compare(TagField("b"), Op.EQ, 3),
                )
            ),
        ),
        (
            "closed <= '2026-11-01T01:00+01:00'",
            Compare(Field("closed"), Op.LE, NOVEMBER),
        ),
    ],
)
def test_what_a_filter_says(text: str, tree: Filter) -> None:
    assert parse_filter(text) == tree
    assert parse_filter(filter_text(tree)) == tree


@given(trees())
def test_a_tree_that_was_written_reads_as_the_same_tree(tree: Filter) -> None:
    assert parse_filter(filter_text(tree)) == tree


@pytest.mark.parametrize(
    ("text", "at", "told"),
    [
        ("", 0, "the filter ends; expected a field: status, type, id"),
        ("  ", 2, "the filter ends; expected a field"),
        ("happy = 1", 0, "there is no field 'happy'; choose one of status, type"),
        ("tag.1st = 1", 0, "'1st' cannot be the name of a tag"),
        ("tag = 1", 0, "there is no field 'tag'"),
        ("and", 0, "there is 'and'; expected a field"),
        (
            "status",
            6,
            "the filter ends; expected =, !=, <, <=, >, >=, in, between, starts with, or is",
        ),
        ("status = ", 9, "the filter ends; expected a value: a text in quotes"),
        ("status = running", 9, "there is 'running'; expected a value: a text in quotes"),
        ("status = 'happy'", 9, "there is no status 'happy'; choose one of running, blocked"),
        ("status < 'running'", 7, "statuses have no order"),
        ("status between 'a' and 'b'", 7, "statuses have no order"),
        ("status starts with 'r'", 7, "compare a status with = or !="),
        ("type = 7", 7, "type is compared with a text in quotes"),
        ("type = true", 7, "type is compared with a text in quotes"),
        ("started > 2026", 10, "started is compared with a date in quotes"),
        ("started > 'yesterday'", 10, "started is compared with a date from 1970 on, such as"),
        ("started starts with '2026'", 8, "started is an instant, and starts with nothing"),
        ("tag.a = 2026-11-01", 8, "this is no number; a date, or any text, stands in quotes"),
        ("tag.a = 7x", 8, "this is no number"),
        ("tag.a = 9223372036854775808", 8, "the number is too large"),
        ("tag.a = 1e999", 8, "the number is too large"),
        ("tag.a = " + "9" * 101, 8, "the number is too large"),
        ("tag.a = 'x", 8, "a text that begins with ' must end with '"),
        ("tag.a = '\ud800'", 8, "half a surrogate pair"),
        ("tag.a ~ 1", 6, "'~' means nothing here"),
        ("tag.a = 1 tag.b = 2", 10, "there is 'tag.b'; expected and, or, or the end"),
        ("(tag.a = 1", 10, "the filter ends; expected and, or, or )"),
        ("tag.a in 1", 9, "there is '1'; expected ("),
        ("tag.a in ()", 10, "there is ')'; expected a value"),
        ("tag.a in (1", 11, "the filter ends; expected , or )"),
        ("tag.a not 1", 10, "there is '1'; expected in"),
        ("tag.a is 1", 9, "there is '1'; expected set or null"),
        ("tag.a between 1 or 2", 16, "there is 'or'; expected and"),
        ("tag.a starts 'x'", 13, "expected with"),
        ("tag.a starts with 1", 18, "only texts start with something"),
        ("(" * 60, FILTER_DEPTH_MAX + 1, "nested deeper than 40"),
        ("not " * 60, (FILTER_DEPTH_MAX + 1) * 4, "nested deeper than 40"),
        ("x" * (FILTER_CHARS_MAX + 1), 0, "more than 10000"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, at: int, told: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(text)
    assert told in str(caught.value)
    assert caught.value.position == at


def test_a_filter_compares_with_so_many_values() -> None:
    most = ", ".join(["1"] * FILTER_VALUES_MAX)
    assert isinstance(parse_filter(f"tag.a in ({most})"), Among)
    with pytest.raises(InvalidFilter, match="more than 500 values"):
        parse_filter(f"tag.a in ({most}, 1)")


@given(st.text() | st.text("stauwid.'\"()=<>!, 01-e\n\tnotrbwhglk").map(lambda it: it * 3))
@example("\x00")
@example("'" * 9_999)
@example("(" * 9_999)
@example("tag.a=1 or " * 900)
@example(" " * 9_999 + "\u2003")
def test_any_text_is_a_filter_or_is_refused_with_a_place(text: str) -> None:
    began = process_time()
    position = 0
    try:
        tree = parse_filter(text)
    except InvalidFilter as error:
        position = error.position
    else:
        assert parse_filter(filter_text(tree)) == tree
    assert 0 <= position <= len(text)
    assert process_time() - began < 1


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_can_be_put_into_a_filter(text: str) -> None:
    assert parse_filter(f"tag.a = {literal(text)}") == Compare(TagField("a"), Op.EQ, text)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(max_size=3))
@example("\U0010ffff", "")
@example("a\ud7ff", "\ue000")
def test_what_begins_so_lies_before_the_end_of_a_prefix(prefix: str, rest: str) -> None:
    end = prefix_end(prefix)
    if end is None:
        assert set(prefix) == {"\U0010ffff"}
    else:
        assert prefix <= prefix + rest < end
        end.encode()


def test_a_field_alone() -> None:
    assert (parse_field("status"), parse_field("tag.a")) == (Field("status"), TagField("a"))
    for wrong in ("", "status status", "nonsense", "status = 'running'"):
        with pytest.raises(InvalidFilter):
            parse_field(wrong)


def test_a_literal_of_each_type() -> None:
    values: list[Any] = ["it's", 7, -0.5, True, False, NOVEMBER]
    assert [literal(one) for one in values] == [
        "'it''s'",
        "7",
        "-0.5",
        "true",
        "false",
        "'2026-11-01T00:00:00Z'",
    ]
