"""Deadlines are met in order, never early, and do not pile up."""

import asyncio

from everlong.worker._deadlines import Deadlines


class HandClock:
    """Time that stands where it was put."""

    def __init__(self) -> None:
        self.us = 1_000_000

    def now_us(self) -> int:
        return self.us


def always(*_: object) -> bool:
    return True


def never(*_: object) -> bool:
    return False


async def test_deadlines_are_met_in_order_of_their_instants_and_then_of_arrival() -> None:
    clock = HandClock()
    met: list[str] = []
    last = asyncio.Event()
    deadlines = Deadlines(clock)
    deadlines.add(clock.us + 2, met.append, "second", matters=always)
    deadlines.add(clock.us + 1, met.append, "first", matters=always)
    deadlines.add(clock.us + 2, met.append, "third", matters=always)
    deadlines.add(clock.us + 3, last.set, matters=always)
    deadlines.add(clock.us + 9, met.append, "early", matters=always)
    clock.us += 3
    await last.wait()
    assert met == ["first", "second", "third"]
    deadlines.stop()


async def test_what_does_not_matter_any_more_is_not_called() -> None:
    clock = HandClock()
    met: list[str] = []
    last = asyncio.Event()
    deadlines = Deadlines(clock)
    deadlines.add(clock.us + 1, met.append, "void", matters=never)
    deadlines.add(clock.us + 2, last.set, matters=always)
    clock.us += 2
    await last.wait()
    assert met == []
    deadlines.stop()


async def test_a_hundred_thousand_timeouts_that_were_not_needed_leave_the_heap() -> None:
    clock = HandClock()
    deadlines = Deadlines(clock)
    for _ in range(100_000):
        deadlines.add(clock.us + 3_600_000_000, print, "late", matters=never)
    assert len(deadlines) <= 1_001
    deadlines.stop()
