"""What a stream's name becomes in histories."""

from everlong._definitions import OWN

__all__ = ["activity_of", "control_of", "dead_letters_of", "keys_of"]


def activity_of(name: str) -> str:
    """What fetches its batches."""
    return f"{OWN}stream.{name}"


def control_of(name: str) -> str:
    """The signal by which its loop is told what to do."""
    return f"{OWN}stream.{name}"


def dead_letters_of(name: str) -> str:
    """The output channel of what could not be decoded."""
    return f"{OWN}dead-letters.{name}"


def keys_of(name: str) -> str:
    """Under which a run carries, among its cursors, which messages have fresh keys."""
    return f"{OWN}keys.{name}"
