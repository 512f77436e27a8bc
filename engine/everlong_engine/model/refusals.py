"""Why a store does not do what a worker asks of it."""

from enum import Enum

__all__ = ["Refusal"]


class Refusal(Enum):
    """Why a write of an owner was refused. Of an append each means: discard the run, look again."""

    FENCED = "the lease was lost, or the history has moved on"
    MAIL = "the inbox holds mail that must be fed first"
    CONFLICT = "a row that it is about is gone, or in other hands"
    STATEMENTS = "a statement that was to be stored with it failed"
