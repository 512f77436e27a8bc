"""What an append leaves for brokers: letters in outboxes, until somebody has published them."""

from typing import TypeAlias

from msgspec import Struct

from everlong_engine.model.codec import checksum
from everlong_engine.model.events import CODES, ItemPublished
from everlong_engine.model.ids import id_text

__all__ = ["KeptLetter", "Letter", "OutboxRow", "Refused", "check_of_letter", "letter_id"]

_LETTER = CODES[ItemPublished]

Refused: TypeAlias = tuple[int, str]
"""A letter's position, and why no repetition would help."""


class Letter(Struct, frozen=True):
    """One message. Its name is made of where it was committed, so that it never bears another."""

    outbox: str
    shard: int
    execution_id: bytes
    run_id: bytes
    seq: int
    """Of the event with which it was stored."""
    number: int
    """Among those of the event."""
    at_us: int
    payload: bytes
    checksum: int


class KeptLetter(Struct, frozen=True):
    """As a store has it. Positions grow: what was stored before another one began has a smaller."""

    position: int
    letter: Letter
    refused: str | None = None
    """Why the broker refuses it for good; it waits no more then."""

    @property
    def is_whole(self) -> bool:
        return check_of_letter(self.letter) == self.letter.checksum


class OutboxRow(Struct, frozen=True):
    """What stands in an outbox, and how it goes."""

    name: str
    waiting: int
    refused: int
    oldest_us: int | None
    """When the oldest that waits was stored."""
    holder: bytes | None
    """The worker that publishes from it, or did so last."""
    failures: int = 0
    """Times in a row that its broker took nothing."""
    fault: str | None = None
    fault_us: int | None = None


def letter_id(letter: Letter) -> str:
    """By which those who get it twice know it again."""
    return f"{id_text(letter.run_id)}-{letter.seq}-{letter.number}"


def check_of_letter(letter: Letter) -> int:
    return checksum(letter.seq, _LETTER, letter.payload)
