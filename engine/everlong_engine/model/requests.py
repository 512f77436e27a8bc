"""What an execution remembers of those who wrote to it, and under which names.

Several kinds of answers stand side by side in `requests`, each under its execution:

    name                  answer
    a user's request id   "accepted": the message with this id lies in the inbox, or was fed
    \\x01start ID          the run that a start was given which found this execution and used it
    \\x01sender ID         the number of the newest message without a request id of one sender
    \\x01update ID         "accepted" while the update with this id lies in the inbox; then what its
                         sender waits for, opaque here
    \\x01with RUN          "accepted": the message that came with the start of this run
    \\x01reset ID           the run that a reset with this request id has begun
    \\x01terminate ID       "accepted": it was terminated by this, or under a name of its own
    \\x01pin ID             "accepted": likewise
    \\x01report RUN N      what knows the answer again that was given to activity N by its token
    \\x01over RUN N        what whoever has that token is told: `machine.elsewhere`
    \\x01move              how often it has gone from store to store, and where it is: `model.moves`

No user's id begins like the last ones, nor like the request id of a child's start: control
characters are refused.
"""

from typing import Final

from msgspec import Struct

__all__ = [
    "MOVE",
    "SENDERS",
    "SENT_BEHIND",
    "Sent",
    "child_request_id",
    "is_request_id",
    "mark_of",
    "name_of_attached",
    "name_of_gone",
    "name_of_over",
    "name_of_pin",
    "name_of_report",
    "name_of_reset",
    "name_of_start",
    "name_of_termination",
    "name_of_update",
]

_START: Final = "\x01start "
SENDERS: Final = "\x01sender "
"""What the names of all senders begin with."""
SENT_BEHIND: Final = "\x01sender!"
"""The first text behind all of them."""

MOVE: Final = "\x01move"
"""Under which an execution remembers its moves."""
_GONE: Final = "\x01move "

_UPDATE: Final = "\x01update "
_ATTACHED: Final = "\x01with "
_REPORT: Final = "\x01report "
_OVER: Final = "\x01over "
_RESET: Final = "\x01reset "
_TERMINATE: Final = "\x01terminate "
_PIN: Final = "\x01pin "

_CHARS_MAX: Final = 512


def is_request_id(text: object) -> bool:
    """Whether a user may name a request so."""
    if not isinstance(text, str) or not 1 <= len(text) <= _CHARS_MAX:
        return False
    # A half of a surrogate pair is no text to a database.
    return not any(char < " " or "\ud800" <= char <= "\udfff" for char in text)


def name_of_start(request_id: str) -> str:
    """The name of a start, apart from that of a message with the same request id."""
    return _START + request_id


def name_of_update(update_id: str) -> str:
    """The name of an update, under which its answer is found."""
    return _UPDATE + update_id


def name_of_attached(run_id: bytes) -> str:
    """The name of what was sent together with a start."""
    return _ATTACHED + run_id.hex()


def child_request_id(parent_run: bytes, number: int) -> str:
    """The request id of a child's start: one decision of one run begins one execution."""
    return f"\x01child {parent_run.hex()} {number}"


def name_of_report(run_id: bytes, activity_id: int) -> str:
    """The name of what somebody answered in an activity's place."""
    return f"{_REPORT}{run_id.hex()} {activity_id}"


def name_of_over(run_id: bytes, activity_id: int) -> str:
    """The name of what has become of an activity whose token somebody may have."""
    return f"{_OVER}{run_id.hex()} {activity_id}"


def name_of_reset(request_id: str) -> str:
    """The name of a reset, apart from that of a message with the same request id."""
    return _RESET + request_id


def name_of_termination(request_id: str | None, append_id: int) -> str:
    """The name of a termination; without a request id one that no user can give."""
    return f"{_TERMINATE}\x01{append_id:x}" if request_id is None else _TERMINATE + request_id


def name_of_pin(request_id: str) -> str:
    """The name of a pin, apart from that of a message with the same request id."""
    return _PIN + request_id


def name_of_gone(execution_id: bytes) -> str:
    """The name, beside all executions of a namespace, of an arrival that must not come any more."""
    return _GONE + execution_id.hex()


class Sent(Struct, frozen=True):
    """Who sent a message without a request id, and as which: so that it is known again when its
    commit succeeded, its answer was lost, and the group is repeated.

    A sender's numbers grow, and its messages reach the store in their order, so one number per
    sender is all that must be remembered.
    """

    sender: str
    number: int
    """Of the sender's clock, in microseconds, or more: what is old can be forgotten."""

    @property
    def name(self) -> str:
        return SENDERS + self.sender

    @property
    def mark(self) -> bytes:
        """The number as bytes that are ordered as numbers are."""
        return mark_of(self.number)


def mark_of(number: int) -> bytes:
    return number.to_bytes(8, "big")
