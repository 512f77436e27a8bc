"""Tags: what may be one, and that it comes back from every place where it is kept."""

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, strategies as st

from everlong_engine.model.codec import decode_event, encode_event
from everlong_engine.model.errors import InvalidTag, UndecodablePayload
from everlong_engine.model.events import RunStarted, TagsSet
from everlong_engine.model.limits import TAG_CHARS_MAX, TAGS_MAX
from everlong_engine.model.tags import (
    changed_tags,
    check_tag,
    check_tags,
    read_instant,
    same_tags,
    tag_from_stored,
    tag_to_stored,
)
from tests.support.events import tag_names, tag_values

zoned = st.datetimes(datetime(1970, 1, 2), datetime(4000, 1, 1), timezones=st.timezones())  # noqa: DTZ001
LATE = datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-9)))


@given(tag_names, tag_values | zoned)
def test_a_tag_comes_back_as_it_was_given(name: str, value: Any) -> None:
    kept = check_tag(name, value)
    assert kept == value
    assert same_tags([(name, tag_from_stored(*tag_to_stored(kept)))], [(name, kept)])


@given(st.dictionaries(tag_names, tag_values, max_size=TAGS_MAX), st.data())
def test_tags_come_back_from_their_events(given_tags: dict[str, Any], data: st.DataObject) -> None:
    tags = check_tags(given_tags)
    event = TagsSet((*tags, ("gone", None)), "here.py:1")
    found = decode_event(*encode_event(event, {}), {})
    assert isinstance(found, TagsSet)
    assert same_tags(found.tags, event.tags)
    started = RunStarted("flow", b"", "id", 7, "code", "3.11", tags=tags, memo=b"m")
    again = decode_event(*encode_event(started, {}), {})
    assert isinstance(again, RunStarted)
    assert same_tags(again.tags, tags)
    assert again.memo == b"m"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("", "x", "cannot name a tag"),
        ("1st", "x", "cannot name a tag"),
        ("a b", "x", "cannot name a tag"),
        ("größe", "x", "cannot name a tag"),
        ("x" * 65, "x", "64 characters at most"),
        ("a\n", "x", "cannot name a tag"),
        (7, "x", "cannot name a tag"),
        ("a", "x" * (TAG_CHARS_MAX + 1), "512 characters at most, this one 513"),
        ("a", "\ud800", "half a surrogate pair"),
        ("a", 1 << 63, "64 bits at most"),
        ("a", math.nan, "no number that can be compared"),
        ("a", -math.inf, "no number that can be compared"),
        ("a", datetime(2026, 11, 1), "has no time zone"),  # noqa: DTZ001
        ("a", datetime(1969, 1, 1, tzinfo=UTC), "before 1970"),
        ("a", LATE, "after 4253"),
        ("a", None, "NoneType is no type of a tag"),
        ("a", ["x"], "list is no type of a tag"),
        ("a", b"x", "bytes is no type of a tag"),
    ],
)
def test_what_is_no_tag_is_refused_with_what_to_do(name: Any, value: Any, told: str) -> None:
    with pytest.raises(InvalidTag, match=told):
        check_tag(name, value)


def test_there_are_only_so_many() -> None:
    assert len(check_tags({f"t{n}": n for n in range(TAGS_MAX)})) == TAGS_MAX
    with pytest.raises(InvalidTag, match="32 tags at most; this would make 33"):
        check_tags({f"t{n}": n for n in range(TAGS_MAX + 1)})


def test_the_last_word_on_a_tag_counts() -> None:
    before = (("a", 1), ("b", "x"))
    assert changed_tags(before, [("a", None), ("c", True), ("b", "y")]) == (("b", "y"), ("c", True))
    assert changed_tags(before, [("a", None), ("a", 2)]) == (("b", "x"), ("a", 2))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T09:30", datetime(2026, 11, 1, 9, 30, tzinfo=UTC)),
        ("2026-11-01 09:30:05.25+02:00", datetime(2026, 11, 1, 7, 30, 5, 250_000, tzinfo=UTC)),
        ("2026-11-01T09:30Z", datetime(2026, 11, 1, 9, 30, tzinfo=UTC)),
    ],
)
def test_what_reads_as_an_instant(text: str, at: datetime) -> None:
    found = read_instant(text)
    assert found is not None
    assert found[0] == at
    assert found[1] == text.endswith(("Z", "+02:00"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20261101",
        "2026-W45-1",
        "2026-13-01",
        "2026-11-31",
        "1969-12-31",
        "9999-01-01",
        "2026-11-01T25:00",
        "0001-01-01T00:00+23:59",
        "\u0662026-11-01",
        "2026-11-01T09:30+99:00",
    ],
)
def test_what_reads_as_no_instant(text: str) -> None:
    assert read_instant(text) is None


@pytest.mark.parametrize(
    ("kind", "value"),
    [(0, 7), (1, "7"), (2, 7), (3, -1), (3, 1 << 60), (3, 1.5), (9, 1), (1, None)],
)
def test_what_nobody_of_us_has_stored_is_damage(kind: int, value: Any) -> None:
    with pytest.raises(UndecodablePayload):
        tag_from_stored(kind, value)
