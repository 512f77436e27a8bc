"""Where a run comes from: that it was reset or forked, or that several starts have made it.
It stands in the first event of the run.

One that was reset begins with a copy of what other runs have recorded. What the code was told of
itself there (its workflow id, its run) must be the same on replay, so each part of the copy names
the run that recorded it first.
"""

from typing import Any

from msgspec import Struct

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.ids import ID_BYTES
from everlong_engine.model.limits import INSTANT_US_MAX

__all__ = ["CopiedPart", "Debounced", "Numbers", "Reset"]

Numbers = tuple[tuple[str, int], ...]
"""Output channels with the number that the next item of each will have."""

_SEQ_MAX = 1 << 53


class CopiedPart(Struct, frozen=True):
    """A part of the copy, behind the parts before it."""

    run: bytes
    """That recorded it first."""
    workflow_id: str
    last: int
    """The number of its last event. A part without events is the mark of a run that was reset to
    its start."""
    published: Numbers
    """How far the output channels had come when the next part began: items stay published."""


class Reset(Struct, frozen=True):
    """What a run repeats, oldest part first, and why."""

    copied: tuple[CopiedPart, ...]
    at_us: int
    """When: time limits count from here."""
    reason: str

    @property
    def last(self) -> int:
        """The number of the last copied event; 0 if there is none."""
        return self.copied[-1].last

    def to_wire(self) -> list[Any]:
        parts = [[one.run, one.workflow_id, one.last, one.published] for one in self.copied]
        return [parts, self.at_us, self.reason]

    @classmethod
    def from_wire(cls, wire: Any) -> "Reset":
        match wire:
            case [[*_] as parts, int(at_us), str(reason)] if 0 <= at_us <= INSTANT_US_MAX:
                copied = tuple(_part(one) for one in parts)  # pyright: ignore[reportUnknownVariableType]
            case _:
                raise _no_reset()
        ends = [one.last for one in copied]
        if not ends or ends != sorted(ends) or type(at_us) is not int:
            raise _no_reset()
        return cls(copied, at_us, reason)


class Debounced(Struct, frozen=True):
    """Of an execution that several starts have made together: under which key, and how."""

    key: str
    first_us: int
    """When the first of them came."""
    latest_us: int | None
    """When it begins at the latest; None: when no more have come for a while."""
    starts: int
    """How many there were."""

    def to_wire(self) -> list[Any]:
        return [self.key, self.first_us, self.latest_us, self.starts]

    @classmethod
    def from_wire(cls, wire: Any) -> "Debounced":
        match wire:
            case [str(key), int(first_us), int() | None as latest_us, int(starts)]:
                numbers = (first_us, latest_us or 0, starts)
            case _:
                raise _no_debounce()
        if any(type(one) is not int or not 0 <= one <= INSTANT_US_MAX for one in numbers):
            raise _no_debounce()
        return cls(key, first_us, latest_us, starts)


def _no_debounce() -> UndecodablePayload:
    return UndecodablePayload(reason="it does not say which starts came together")


def _part(wire: Any) -> CopiedPart:
    match wire:
        case [bytes(run), str(workflow_id), int(last), [*_] as published]:
            numbers = tuple(_number(one) for one in published)  # pyright: ignore[reportUnknownVariableType]
        case _:
            raise _no_reset()
    if len(run) != ID_BYTES or type(last) is not int or not 0 <= last <= _SEQ_MAX:
        raise _no_reset()
    return CopiedPart(run, workflow_id, last, numbers)


def _number(wire: Any) -> tuple[str, int]:
    match wire:
        case [str(channel), int(number)] if type(number) is int and 0 <= number <= _SEQ_MAX:
            return channel, number
        case _:
            raise _no_reset()


def _no_reset() -> UndecodablePayload:
    return UndecodablePayload(reason="it does not say what a run repeats that was reset")
