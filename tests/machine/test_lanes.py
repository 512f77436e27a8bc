"""Who is dealt which slot, and what a rate lets through."""

from hypothesis import given, strategies as st

from everlong_engine.machine.lanes import MARKS_MAX, Dealer, Lane, free_at, noted, room_in
from everlong_engine.model.queues import (
    QueueLimits,
    RateLimit,
    Starts,
    starts_from_wire,
    starts_to_wire,
)

RATES = st.builds(RateLimit, st.integers(1, 50), st.integers(1_000, 100_000))


@given(RATES, st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 60)), max_size=150))
def test_no_period_sees_more_starts_than_its_rate(
    rate: RateLimit, steps: list[tuple[int, int]]
) -> None:
    now_us = 0
    began: list[int] = []
    marks: Starts = ()
    for pause_us, wanted in steps:
        now_us += pause_us
        count = min(wanted, room_in(marks, rate, now_us))
        if count:
            marks = noted(marks, rate, now_us, count)
            began += [now_us] * count
        assert len(marks) <= MARKS_MAX + 1
        assert starts_from_wire(starts_to_wire(marks)) == marks
    for last in range(len(began) - rate.count):
        assert began[last + rate.count] - began[last] >= rate.period_us


@given(RATES, st.lists(st.integers(0, 30_000), min_size=1, max_size=100))
def test_who_waits_for_room_finds_it(rate: RateLimit, pauses: list[int]) -> None:
    now_us = 0
    starts: Starts = ()
    for pause_us in pauses:
        now_us += pause_us
        if room_in(starts, rate, now_us) == 0:
            free_us = free_at(starts, rate, now_us)
            assert now_us < free_us <= now_us + rate.period_us
            now_us = free_us
        assert room_in(starts, rate, now_us) > 0
        assert free_at(starts, rate, now_us) == now_us
        starts = noted(starts, rate, now_us, 1)


@given(RATES)
def test_who_always_wants_more_gets_nearly_all_that_the_rate_allows(rate: RateLimit) -> None:
    """What is merged into one mark costs at most its share of the period."""
    now_us, began = 0, 0
    starts: Starts = ()
    for _ in range(rate.count * 8):
        now_us = max(now_us + 1, free_at(starts, rate, now_us))
        starts = noted(starts, rate, now_us, 1)
        began += 1
    periods = now_us / (rate.period_us * (1 + 1 / MARKS_MAX) + rate.count)
    assert began >= rate.count * int(periods)


def test_a_start_in_the_future_counts_as_one_that_is_just_beginning() -> None:
    rate = RateLimit(1, 1_000)
    starts = noted((), rate, 1_000_000, 1)
    assert room_in(starts, rate, 5) == 0
    assert free_at(starts, rate, 5) == 1_005


def test_a_rate_that_was_lowered_waits_until_enough_are_over() -> None:
    starts: Starts = ((0, 0, 3), (10, 10, 1), (20, 20, 1))
    assert free_at(starts, RateLimit(2, 100), 30) == 110
    assert free_at(starts, RateLimit(1, 100), 30) == 120


# ---------------------------------------------------------------------------------------- dealing


def lane(key: str = "", rank: int = 0, queue: str = "q", activity: str = "a") -> Lane:
    return Lane(queue, activity, rank, key)


def dealt(dealer: Dealer, slots: int, *lanes: Lane) -> dict[str, int]:
    found = dealer.deal(dict.fromkeys(lanes, 0), slots)
    return {one.key: count for one, count in found}


def test_keys_get_equal_shares() -> None:
    dealer = Dealer({}, 0)
    assert dealt(dealer, 9, lane("a"), lane("b"), lane("c")) == {"a": 3, "b": 3, "c": 3}


def test_who_has_fewest_at_work_comes_first() -> None:
    dealer = Dealer({}, 0)
    dealer.count("q", "a", 2)
    dealer.count("q", "b", 1)
    assert dealt(dealer, 1, lane("a"), lane("b")) == {"b": 1}


def test_among_equals_it_is_the_next_ones_turn() -> None:
    lanes = [lane("a"), lane("b"), lane("c")]
    assert dealt(Dealer({}, 0, after="b"), 1, *lanes) == {"c": 1}
    assert dealt(Dealer({}, 0, after="c"), 2, *lanes) == {"a": 1, "b": 1}


def test_the_most_urgent_have_all_slots_that_they_may() -> None:
    limits = {"q": QueueLimits(key_concurrency=2)}
    dealer = Dealer(limits, 0)
    assert dealt(dealer, 9, lane("a", rank=-1), lane("b"), lane("c", rank=3)) == {
        "a": 2,
        "b": 2,
        "c": 2,
    }
    assert dealt(dealer, 2, lane("a", rank=-1), lane("b")) == {"a": 2}


@given(
    st.integers(0, 6),
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-1, 1)), max_size=8, unique=True),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 5)),
    st.integers(1, 12),
)
def test_nothing_is_dealt_beyond_a_limit(
    concurrency: int,
    key_concurrency: int,
    lanes: list[tuple[str, int]],
    taken: dict[str, int],
    slots: int,
) -> None:
    limits = QueueLimits(concurrency=concurrency, key_concurrency=key_concurrency)
    dealer = Dealer({"q": limits}, 0)
    for key, count in taken.items():
        dealer.count("q", key, count)
    found = dealer.deal({lane(key, rank): 0 for key, rank in lanes}, slots)
    assert sum(count for _, count in found) <= min(slots, max(0, concurrency - sum(taken.values())))
    for key in "abcd":
        more = sum(count for one, count in found if one.key == key)
        assert more <= max(0, key_concurrency - taken.get(key, 0))


def test_what_a_rate_holds_back_is_due_when_there_is_room() -> None:
    dealer = Dealer({"q": QueueLimits(rate=RateLimit(1, 100), key_rate=RateLimit(1, 500))}, 1_000)
    dealer.know(("q", ""), ())
    dealer.know(("q", "a"), ())
    dealer.note(lane("a"), 1)
    assert dealer.room(lane("b")) == 0
    assert dealer.next_us([lane("b")]) == 1_100
    assert dealer.next_us([lane("a")]) == 1_500


def test_a_lane_that_gave_nothing_holds_nobody_back() -> None:
    """All that waits there is paused, say."""
    dealer = Dealer({"q": QueueLimits(rate=RateLimit(1, 100))}, 1_000)
    dealer.know(("q", ""), ((950, 950, 1),))
    dealer.note(lane(), 0)
    assert dealer.starts(("q", "")) == ((950, 950, 1),)
    assert not dealer.changed


def test_starts_that_cannot_be_read_hold_a_queue_for_a_period() -> None:
    dealer = Dealer({"q": QueueLimits(rate=RateLimit(3, 100))}, 1_000)
    dealer.know(("q", ""), None)
    assert dealer.room(lane()) == 0
    assert dealer.next_us([lane()]) == 1_100
    assert dealer.changed == {("q", "")}
