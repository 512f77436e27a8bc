"""Counts what a test file tries over its tests, and records it once at the end.

For parts whose tries are tests of their own: a try that ends in an exception is one that broke.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.proof.record import record

__all__ = ["Tally"]


class Tally:
    def __init__(self) -> None:
        self.times = 0
        self.broken = 0
        self.figures: dict[str, int | float | str] = {}
        self._began = time.monotonic()

    @contextmanager
    def trying(self, what: str | None = None) -> Generator[None]:
        """One try; `what` counts it under that name, too."""
        self.times += 1
        if what is not None:
            self.figures[what] = int(self.figures.get(what, 0)) + 1
        try:
            yield
        except (Exception, pytest.fail.Exception):  # But not a skip, which is no try that broke.
            self.broken += 1
            raise

    def record(self, part: str, *, invariants: list[int], tried: str, reproduce: str) -> None:
        """Nothing, where nothing was tried."""
        if self.times:
            record(
                part,
                invariants=invariants,
                tried=tried,
                times=self.times,
                broken=self.broken,
                seconds=time.monotonic() - self._began,
                figures=self.figures,
                reproduce=reproduce,
            )
