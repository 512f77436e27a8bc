"""Which keys messages have behind rewinds, by a model of what a loop reads."""

from typing import Any

from hypothesis import given, strategies as st

from everlong.streams import Position
from everlong.streams._moves import freshened, keys_from, suffix_of
from everlong_engine import pack, unpack

LONG = 6

Rewind = tuple[dict[str, int], bool, int]
rewinds = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("ab"), st.integers(0, LONG)),
        st.booleans(),
        st.integers(0, 9),
    ),
    max_size=12,
)


def is_behind(position: Position, other: Position) -> bool:
    return int(position) > int(other)


@given(rewinds)
def test_a_message_has_the_keys_of_the_last_fresh_rewind_that_went_before_it(
    told: list[Rewind],
) -> None:
    """Whatever is forgotten of older ones; and behind a fresh one no key was there before."""
    keys: Any = []
    wanted: dict[tuple[str, int], str] = {}
    ever: set[str] = set()
    first: Rewind = {}, False, LONG
    for number, (behind, fresh, count) in enumerate([first, *told]):
        places = [(one, at) for one in "ab" for at in range(behind.get(one, 0) + 1, LONG + 1)]
        if fresh:
            keys = keys_from(unpack(pack(freshened(keys, f"r{number}", behind, is_behind))))
            wanted.update(dict.fromkeys(places, f"#r{number}"))
        for partition, position in places:
            suffix = suffix_of(keys, partition, position, is_behind)
            assert suffix == wanted.get((partition, position), "")
            if position <= behind.get(partition, 0) + count:  # So far it was read.
                key = f"{partition}/{position}{suffix}"
                assert not (fresh and key in ever)
                ever.add(key)
    assert len(keys) <= len(told)


def test_what_a_later_rewind_covers_is_forgotten() -> None:
    one = freshened([], "one", {"a": 5}, is_behind)
    assert freshened(one, "two", {"a": 4}, is_behind) == [["two", {"a": 4}]]
    assert len(freshened(one, "two", {"a": 6}, is_behind)) == 2
    assert len(freshened(one, "two", {"b": 1}, is_behind)) == 2
    assert freshened(one, "two", {}, is_behind) == [["two", {}]]
