"""The outcome of an activity, as the code of a run awaits it."""

from typing import Any, Protocol

from everlong._definitions import ActivityDefinition
from everlong._replay.loop import WorkflowFuture, WorkflowLoop
from everlong_engine import ActivityScheduled

__all__ = ["ActivityFuture"]


class Canceller(Protocol):
    """What the future asks of its run."""

    loop: WorkflowLoop

    def cancel_activity(self, future: "ActivityFuture") -> None: ...


class ActivityFuture(WorkflowFuture[Any]):
    """Cancelling it is a decision."""

    def __init__(
        self, run: Canceller, definition: ActivityDefinition, decision: ActivityScheduled
    ) -> None:
        super().__init__(run.loop)
        self.run = run
        self.definition = definition
        self.decision = decision

    def cancel(self, msg: Any = None) -> bool:
        if not self.done():
            self.run.cancel_activity(self)
        return super().cancel(msg)
