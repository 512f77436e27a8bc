"""What becomes of a message that does not fit its type, or on which the body of the loop fails."""

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from everlong.exceptions import InvalidArguments
from everlong.streams._source import Source

__all__ = ["AS_IT_IS", "OnPoison", "Poison", "dead_letter", "park_key", "poison_of", "skip", "stop"]

Policy: TypeAlias = Literal["stop", "dead_letter", "park_key", "skip"]
_POLICIES: Final[tuple[Policy, ...]] = ("stop", "dead_letter", "park_key", "skip")
_AFTER: Final = 5
_AFTER_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Poison:
    """What `on_poison=` takes: `stop`, `dead_letter()`, `park_key()` or `skip()` make one."""

    policy: Policy | Literal["as it is"]
    after: int = _AFTER
    """Attempts."""


OnPoison: TypeAlias = Poison | Policy

stop: Final = Poison("stop")
"""The default: nothing is looked for. What cannot be decoded pauses the execution, and what the
body raises is the workflow's exception, as anywhere."""


AS_IT_IS: Final = Poison("as it is")
"""Of Everlong's own: whoever asks for the batch judges its messages. Those that are too large for a
history are dead letters all the same."""


def dead_letter(after: int = _AFTER) -> Poison:
    """Publish the message as a dead letter, in the append that moves past it, and go on.

        orders.batches(max_messages=500, on_poison=dead_letter(after=5))

    A batch on which the body fails is tried `after` times, then its halves, and theirs, until a
    message is alone; that is tried `after` times again. `everlong stream dead-letters` shows what
    was set aside, and `redrive` gives it to the loop again. What people get wrong: the body begins
    anew at its last checkpoint, so call `checkpoint` behind each batch.

    Args:
        after: attempts of an activity that has no limit of its own; 1 to 1,000.

    Raises:
        InvalidArguments: another number.
    """
    return _made("dead_letter", after)


def park_key(after: int = _AFTER) -> Poison:
    """As `dead_letter`, but what follows with the same key is set aside as well, in its order.

    `everlong stream parked` shows it, and `redrive --key` gives all of a key back, in order. A
    message without a key becomes a dead letter.

    Args:
        after: as for `dead_letter`.

    Raises:
        InvalidArguments: another number.
    """
    return _made("park_key", after)


def skip(after: int = _AFTER) -> Poison:
    """As `dead_letter`, but the message is dropped, and is only at its source.

    Args:
        after: as for `dead_letter`.

    Raises:
        InvalidArguments: another number.
    """
    return _made("skip", after)


def _made(policy: Policy, after: object) -> Poison:
    if isinstance(after, bool) or not isinstance(after, int) or not 1 <= after <= _AFTER_MAX:
        raise InvalidArguments(f"{policy}(after={after!r}): give 1 to {_AFTER_MAX:,} attempts")
    return Poison(policy, after)


def poison_of(given: Any, source: Source[Any]) -> Poison:
    """Raises InvalidArguments: it is none, or nothing that this source can have."""
    found = Poison(given) if isinstance(given, str) and given in _POLICIES else given
    if not isinstance(found, Poison) or found.policy not in _POLICIES:
        raise InvalidArguments(
            f"on_poison={given!r:.100}: give stop, dead_letter(after=5), park_key(after=5) or "
            f"skip(after=5), or one of the texts {', '.join(_POLICIES)}"
        )
    if found.policy == "park_key" and not source.keyed:
        raise InvalidArguments(
            f"on_poison=park_key: the messages of {source!r} have no keys, so none follows another "
            "one. Give dead_letter(after=5)"
        )
    return found
