"""Which partition belongs to which flow of a family, and how flows lie with workers."""

from random import Random

import pytest
from hypothesis import given, strategies as st

from everlong.streams._parts import Part, holder_of, own_of, part_from
from everlong.worker._balance import excess_of

names = st.integers(0, 10_000).map(str) | st.text(max_size=8)


@given(there=st.sets(names), parts=st.integers(1, 50))
def test_each_partition_has_exactly_one_part(there: set[str], parts: int) -> None:
    shares = [own_of(Part(number, parts), there, {}, None) for number in range(parts)]
    assert sorted(one for share in shares for one in share) == sorted(there)


@given(there=st.sets(names), more=st.sets(names), parts=st.integers(1, 50))
def test_partitions_that_come_take_none_away(there: set[str], more: set[str], parts: int) -> None:
    for number in range(parts):
        part = Part(number, parts)
        before = set(own_of(part, there, {}, None))
        assert before <= set(own_of(part, there | more, {}, None))
        assert set(own_of(part, more, dict.fromkeys(before, 0), None)) >= before


def test_who_has_a_partition_is_for_ever() -> None:
    """Flows that run for years go by it: another answer would have partitions read twice."""
    found = {name: holder_of(name, 8) for name in ("0", "7", "8", "123", "eu-west", "", "१", "-1")}
    assert found == {
        "0": 0,
        "7": 7,
        "8": 0,
        "123": 3,
        "eu-west": 5,
        "": 0,
        "१": 5,
        "-1": 2,
    }


def test_a_part_that_cannot_be_told_is_not_taken_for_all() -> None:
    assert part_from(None) is None
    assert part_from([1, 2]) == Part(1, 2)
    wrong: list[object] = ["sealed", [2, 2], [-1, 2], [0], [0, 2, 3], {}]
    for nonsense in wrong:
        with pytest.raises(ValueError, match="no part"):
            part_from(nonsense)


@given(
    flows=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    due=st.integers(0, 20),
    chance=st.randoms(use_true_random=False),
)
def test_flows_come_to_lie_evenly_and_then_stay(flows: list[int], due: int, chance: Random) -> None:
    """Workers look in any order. Who has more than his share hands back, who has less takes."""
    names = [bytes([one]) for one in range(len(flows))]
    lie: dict[bytes | None, int] = {**dict(zip(names, flows, strict=True)), None: due}

    def excess(one: bytes) -> int:
        return excess_of({name: count for name, count in lie.items() if count}, one, len(names))

    for _ in range(len(names) + 2):
        for one in sorted(names, key=lambda _: chance.random()):
            handed = max(0, excess(one))
            lie[one], lie[None] = lie[one] - handed, lie[None] + handed
        for one in sorted(names, key=lambda _: chance.random()):
            taken = min(lie[None], max(0, -excess(one)))
            lie[one], lie[None] = lie[one] + taken, lie[None] - taken
    assert lie.pop(None) == 0
    assert max(lie.values()) - min(lie.values()) <= 1
    assert all(excess(one) <= 0 for one in names)


def test_a_share_shrinks_with_workers() -> None:
    excesses = [excess_of({b"a": 8}, b"a", workers) for workers in range(1, 10)]
    assert excesses == [0, 4, 5, 6, 6, 6, 6, 7, 7]
