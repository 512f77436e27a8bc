"""Where an execution is, as its store remembers it, while it goes from one store to another.

Each departure is a turn, counted from 1, and the count travels with the execution. A store takes an
execution in only with a turn that it has not seen, so that what a stopped process still brings when
the execution has come and gone again is refused, and what is brought twice is known.
"""

from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

from msgspec import Struct, ValidationError, convert
from msgspec.structs import replace

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.payload import pack, unpack
from everlong_engine.model.runs import RunStatus

__all__ = ["HERE", "MOVER", "Move", "move_from_wire", "turn_from_wire", "turn_wire"]

T = TypeVar("T")

MOVER: Final = "everlong move"
"""Who pauses an execution that is about to go. Not by anybody's wish, so the pause stays behind."""


class _Wire(NamedTuple):
    turn: int
    to: str
    arrived: bool
    status: RunStatus
    closed_us: int | None
    reason: str | None
    held: tuple[int, str, str] | None


class _Turn(NamedTuple):
    turn: int


class Move(Struct, frozen=True, kw_only=True):
    """The last move of an execution, as the store says that it left, or that it came to."""

    turn: int
    to: str = ""
    """Where it has gone; "" where it is here."""
    arrived: bool = False
    """It is there for certain: what is kept of it here is history only."""
    status: RunStatus = RunStatus.RUNNING
    """Of its last run when it left; the next three are that run's as well."""
    closed_us: int | None = None
    reason: str | None = None
    held: tuple[int, str, str] | None = None
    """(since, by, reason) of a pause that goes with it."""

    @property
    def is_here(self) -> bool:
        return not self.to

    @property
    def is_under_way(self) -> bool:
        return bool(self.to) and not self.arrived

    def wire(self) -> bytes:
        held = None if self.held is None else list(self.held)
        rest = [self.arrived, int(self.status), self.closed_us, self.reason, held]
        return pack([self.turn, self.to, *rest])

    def ended(self) -> "Move":
        """The same, seen to have arrived."""
        return replace(self, arrived=True)


HERE: Final = Move(turn=0)
"""Of an execution that was never moved."""


def move_from_wire(data: object) -> Move:
    """Undo `Move.wire`; None is an execution that was never moved.

    Raises:
        UndecodablePayload: nobody of us has written that.
    """
    if data is None:
        return HERE
    turn, to, arrived, status, closed_us, reason, held = _read(data, _Wire)
    return Move(
        turn=turn,
        to=to,
        arrived=arrived,
        status=status,
        closed_us=closed_us,
        reason=reason,
        held=held,
    )


def _read(data: object, kind: type[T]) -> T:
    if isinstance(data, bytes):
        with suppress(ValidationError):
            return convert(unpack(data), kind)
    raise UndecodablePayload(reason="the note of a move cannot be read")


def turn_wire(turn: int) -> bytes:
    """Up to which turn an execution must not arrive any more."""
    return pack([turn])


def turn_from_wire(data: object) -> int:
    """Undo `turn_wire`; None is none. Raises UndecodablePayload."""
    if data is None:
        return 0
    return _read(data, _Turn)[0]
