"""Brokers that forget, in a model: what is sent again comes once, if it bears an id."""

from collections import Counter, deque
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from everlong.exceptions import InvalidArguments
from everlong.streams import Cursor, Record
from everlong.streams._forgetful import ForgetfulReader, check_prefetch, require_whole


class Broker:
    """Gives out in order, so many at a time; what was not acknowledged comes again, first."""

    def __init__(self, names: list[str | None], prefetch: int) -> None:
        self.waits = deque(enumerate(names))
        self.prefetch = prefetch
        self.out: dict[int, tuple[int, str | None]] = {}
        self.delivery = 0

    def give(self) -> tuple[int, str | None] | None:
        if not self.waits or len(self.out) >= self.prefetch:
            return None
        self.delivery += 1
        self.out[self.delivery] = self.waits.popleft()
        return self.delivery, self.out[self.delivery][1]

    def hears(self, delivery: int, *, multiple: bool) -> None:
        for one in [one for one in self.out if one == delivery or (multiple and one < delivery)]:
            del self.out[one]

    def loses_its_reader(self) -> None:
        self.waits.extendleft(reversed(self.out.values()))
        self.out.clear()


class Model(ForgetfulReader):
    async def fetch(self, max_messages: int, max_bytes: int, wait_s: float | None) -> list[Record]:
        raise AssertionError("what is read is put in by hand here")


def read(
    broker: Broker, cursor: Cursor | None, chance: Random, stored: list[str]
) -> tuple[Cursor | None, bool]:
    """One worker's life: batches are cut, stored, told, and at some moment it dies."""
    reader = Model("model", cursor, broker.prefetch, "the model")
    fetched: deque[Record] = deque()
    while True:
        while (given := broker.give()) is not None:
            delivery, name = given
            position = reader.position_of(name, delivery)
            if position is not None:
                fetched.append(Record("0", position, b""))
            elif chance.random() < 0.8:
                broker.hears(delivery, multiple=False)
            else:
                return cursor, False  # It dies before the broker hears that it had it before.
            if chance.random() < 0.3:
                break
        if not fetched:
            return cursor, not broker.waits and not broker.out
        batch = [fetched.popleft() for _ in range(chance.randint(1, len(fetched)))]
        if chance.random() < 0.1:
            return cursor, False  # Before the commit.
        cursor = reader.cursor_behind(cursor, batch)
        stored += [str(one.position) for one in batch]
        if chance.random() < 0.3:
            return cursor, False  # Before the acknowledgement.
        if chance.random() < 0.8 and (deliveries := reader.to_acknowledge(cursor)):
            broker.hears(deliveries[-1], multiple=True)
        elif chance.random() < 0.5:
            return cursor, False


@given(
    count=st.integers(0, 60),
    prefetch=st.integers(1, 12),
    seed=st.integers(0, 1 << 32),
    without=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_what_is_sent_again_is_dropped_and_nothing_else(
    count: int, prefetch: int, seed: int, without: bool
) -> None:
    chance = Random(seed)
    names = [None if without and one % 3 == 0 else f"m{one}" for one in range(count)]
    broker = Broker(names, prefetch)
    cursor: Cursor | None = None
    stored: list[str] = []
    for _ in range(10_000):
        cursor, empty = read(broker, cursor, chance, stored)
        if empty:
            break
        broker.loses_its_reader()
        if cursor is not None:
            cursor = Cursor.from_wire(cursor.to_wire())
            assert cursor.taken is not None
            assert len(cursor.taken) <= 8 * 2 * prefetch
    times = Counter(stored)
    assert set(times.values()) <= {1}  # Also the names that are made up are new ones each time.
    named = {f"id:{name}" for name in names if name is not None}
    assert {one for one in times if one.startswith("id:")} == named
    assert len(times) >= count


def test_an_id_that_two_messages_share_makes_the_second_a_repetition() -> None:
    reader = Model("model", None, 10, "the model")
    assert [reader.position_of("a", 1), reader.position_of("a", 2)] == ["id:a", None]


def test_names_that_are_made_up_are_not_made_up_twice() -> None:
    """Not by another reader that begins at the same place, be it another execution's."""
    names = {Model("model", None, 10, "the model").position_of(None, 1) for _ in range(3)}
    assert len(names) == 3


@pytest.mark.parametrize("prefetch", [0, -1, 10_001])
def test_a_prefetch_has_bounds(prefetch: int) -> None:
    assert check_prefetch(10_000) == 10_000
    with pytest.raises(InvalidArguments, match="give 1 to 10,000"):
        check_prefetch(prefetch)


def test_there_is_one_partition() -> None:
    require_whole(["0"], "it")
    with pytest.raises(InvalidArguments, match="has one partition"):
        require_whole(["1"], "it")
