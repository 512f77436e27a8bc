"""What an append sends to other executions, and how they are named."""

from typing import TypeAlias

from msgspec import Struct

from everlong_engine.model.codec import Blobs
from everlong_engine.model.policies import IfClosed, IfOpen, OnParentClose
from everlong_engine.model.runs import NewRun

__all__ = ["AwaitEnd", "CancelChild", "Outgoing", "SendTo", "StartChild", "Target"]


class Target(Struct, frozen=True):
    """An execution by workflow id; a given `execution_id` must be the one that has it now."""

    shard: int
    namespace: str
    workflow_id: str
    execution_id: bytes | None = None


class StartChild(Struct, frozen=True):
    """A child, as a start that is left as mail. Its request id is made of the parent's run and the
    number, so that one decision never begins two."""

    number: int
    run: NewRun
    kind: int
    body: bytes
    blobs: Blobs
    on_parent_close: OnParentClose
    if_open: IfOpen
    if_closed: IfClosed
    wants_start: bool
    wake_us: int


class CancelChild(Struct, frozen=True):
    """A request to cancel, for the child with this number."""

    number: int
    kind: int
    body: bytes
    now_us: int


class SendTo(Struct, frozen=True):
    """A message to any execution; the sender is told what came of it."""

    number: int
    target: Target
    kind: int
    body: bytes
    blobs: Blobs
    now_us: int


class AwaitEnd(Struct, frozen=True):
    """Tell the sender when an execution has ended, at once if it has already."""

    number: int
    target: Target


Outgoing: TypeAlias = StartChild | CancelChild | SendTo | AwaitEnd
