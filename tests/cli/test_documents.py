"""What `--json` writes can be read by any program."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest

from everlong.cli._documents import as_plain, document, for_people
from everlong.cli._durations import ago, clock_time, span

NOON = datetime(2026, 7, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (NOON.astimezone(timezone(timedelta(hours=2))), "2026-07-29T12:00:00Z"),
        (NOON.replace(tzinfo=None), "2026-07-29T12:00:00"),
        (date(2026, 7, 29), "2026-07-29"),
        (timedelta(minutes=1), 60.0),
        (b"\x00\xff", "AP8="),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({1, 2}, [1, 2]),
        ((1, [None, True]), [1, [None, True]]),
        ({1: {b"k": 2.5}}, {"1": {"aw==": 2.5}}),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_values_become_what_json_can_hold(value: object, plain: object) -> None:
    assert as_plain(value) == plain
    assert json.loads(document(value)) == plain


def test_a_document_has_only_printable_ascii() -> None:
    text = document({"id": "\x1b[2J\x7f\u202e\ud800", "ü": 1})
    assert all(" " <= char <= "~" or char == "\n" for char in text)


def test_people_see_letters_as_they_are() -> None:
    assert for_people({"city": "Zürich"}) == '{\n  "city": "Zürich"\n}'
    assert for_people("two\nlines") == "two\nlines"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.04, "40 ms"),
        (1.24, "1.2 s"),
        (59.4, "59 s"),
        (200, "3 min 20 s"),
        (120, "2 min"),
        (10_740, "2 h 59 min"),
        (360_000, "4 d 4 h"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_times_tell_how_long_ago_and_on_which_day() -> None:
    assert ago(NOON - timedelta(seconds=200), NOON) == "3 min ago"
    assert ago(NOON, NOON) == "just now"
    assert clock_time(NOON + timedelta(days=2, milliseconds=7), NOON) == "12:00:00.007 +2d"
