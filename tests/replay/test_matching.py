"""What a mismatch says: the reader must see what has changed without opening a debugger."""

import pytest

from everlong._replay.matching import check
from everlong.exceptions import NondeterminismError
from everlong_engine import ActivityOptions, ActivityScheduled, Decision, pack


def scheduled(what: str) -> ActivityScheduled:
    return ActivityScheduled(1, "book", pack({"what": what}), ActivityOptions(), "trip.py:19")


def unchanged(_: Decision, data: bytes) -> bytes:
    return data


def test_a_mismatch_in_arguments_alone_shows_both() -> None:
    with pytest.raises(NondeterminismError) as caught:
        check([scheduled("flight")], [scheduled("car")], 2, unchanged)
    assert "{'what': 'flight'}" in caught.value.recorded
    assert "{'what': 'car'}" in caught.value.made


def test_long_arguments_are_cut() -> None:
    with pytest.raises(NondeterminismError) as caught:
        check([scheduled("x" * 5000)], [scheduled("car")], 2, unchanged)
    assert len(caught.value.recorded) < 200
