"""How a message that is set aside is published, and read again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from everlong.streams._batch import moment_of
from everlong.streams._isolation import Suspect
from everlong.streams._source import Position
from everlong_engine import instant_us, limits

__all__ = [
    "ERROR_CHARS_MAX",
    "RECORD_BYTES_MAX",
    "TOO_LARGE",
    "DeadLetter",
    "ParkedKey",
    "dead_letter_of",
    "first_letter",
    "letter",
    "record_of",
]

ERROR_CHARS_MAX: Final = 500
RECORD_BYTES_MAX: Final = limits.PAYLOAD_BYTES_MAX // 4
TOO_LARGE: Final = f"it has more than {RECORD_BYTES_MAX:,} bytes, and only its beginning is kept"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was set aside: it did not fit the declared type, or the body failed on it."""

    number: int
    """Among the dead letters of its execution, counted from 0; of a parked key among its
    messages."""
    partition: str
    position: Position
    value: bytes
    key: bytes | None
    error: str
    """Why. Empty for one that only follows another one of its key."""
    identity: str
    """Of what it was read from."""
    cut: bool
    """It was too large for a history: `value` is its beginning."""
    headers: dict[str, bytes] = field(default_factory=dict[str, bytes])
    at: datetime | None = None
    """When it was written, if its source knows."""
    attempts: int = 0
    """How often what failed was tried with it alone; 0 if it could not be decoded."""
    code: str = ""
    """Digest of the workflow's source, as its run began."""


@dataclass(frozen=True, slots=True)
class ParkedKey:
    """A key whose messages wait, behind one on which the body has failed."""

    key: bytes
    messages: list[DeadLetter]
    """In their order; the first says what was wrong."""


def first_letter(identity: str, record: Sequence[Any], error: str) -> dict[str, Any]:
    """As the first versions published it: their histories are replayed."""
    partition, position, value, *more = record
    return {
        "partition": partition,
        "position": position,
        "value": value,
        "key": more[0] if more else None,
        "error": error,
        "identity": identity,
        "cut": error == TOO_LARGE,
    }


def letter(one: Suspect, code: str) -> dict[str, Any]:
    """With all that is known."""
    _, _, _, *more = one.record
    _, at_us, headers = [*more, None, None, None][:3]
    return {
        **first_letter(one.identity, one.record, one.error),
        "at_us": at_us,
        "headers": headers or {},
        "attempts": one.attempts,
        "code": code,
    }


def dead_letter_of(number: int, told: Any) -> DeadLetter:
    known = dict(told)
    at_us = known.pop("at_us", None)
    return DeadLetter(number=number, at=moment_of(at_us), **known)


def record_of(one: DeadLetter) -> list[Any]:
    """As it was read, without what is not there at its end."""
    found: list[Any] = [one.partition, one.position, one.value, one.key]
    if one.headers:
        return [*found, None if one.at is None else instant_us(one.at), dict(one.headers)]
    return found if one.at is None else [*found, instant_us(one.at)]
