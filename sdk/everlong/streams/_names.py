"""What a stream's name becomes in histories."""

from everlong._definitions import ENTITY, OWN

__all__ = [
    "activity_of",
    "control_of",
    "dead_letters_of",
    "entity_of",
    "hold_of",
    "isolation_of",
    "keys_of",
    "parked_of",
    "part_of",
]


def activity_of(name: str) -> str:
    """What fetches its batches."""
    return f"{OWN}stream.{name}"


def entity_of(name: str) -> str:
    """What calls its handlers; and under which its run carries when its next timer is due."""
    return f"{ENTITY}{name}"


def control_of(name: str) -> str:
    """The signal by which its loop is told what to do."""
    return f"{OWN}stream.{name}"


def dead_letters_of(name: str) -> str:
    """The output channel of what was set aside."""
    return f"{OWN}dead-letters.{name}"


def hold_of(name: str) -> str:
    """What pauses its execution. Not among those that fetch."""
    return f"{OWN}hold-stream.{name}"


def isolation_of(name: str) -> str:
    """Under which a run carries, among its cursors, what its loop looks for in a batch."""
    return f"{OWN}isolation.{name}"


def parked_of(name: str) -> str:
    """The same, for what waits behind a parked key; and the output channel that tells of it."""
    return f"{OWN}parked.{name}"


def keys_of(name: str) -> str:
    """Under which a run carries, among its cursors, which messages have fresh keys."""
    return f"{OWN}keys.{name}"


def part_of(name: str) -> str:
    """Under which a run carries, among its cursors, which part of the partitions is its own."""
    return f"{OWN}part.{name}"
