"""The outcome of an activity, as the code of a run awaits it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from everlong._definitions import ActivityDefinition
from everlong._replay.anyio_adapter import message_of
from everlong._replay.loop import WorkflowFuture, WorkflowLoop
from everlong_engine import ActivityScheduled, ChildScheduled, Decision

__all__ = ["ActivityFuture", "keep_options"]


class Others(Protocol):
    def keep_options(self, recorded: ChildScheduled) -> None: ...


def keep_options(
    recorded: Sequence[Decision],
    activities: "Mapping[int, ActivityFuture]",
    others: Callable[[], Others],
) -> None:
    """What was in force when an activity or a child was scheduled stays so, whatever the code says
    now."""
    for decision in recorded:
        if type(decision) is ActivityScheduled:
            future = activities.get(decision.activity_id)
            if future is not None:
                future.decision = decision
        elif type(decision) is ChildScheduled:
            others().keep_options(decision)


class Canceller(Protocol):
    """What the future asks of its run."""

    loop: WorkflowLoop

    def cancel_activity(self, future: "ActivityFuture") -> bool: ...


class ActivityFuture(WorkflowFuture[Any]):
    """Cancelling it is a decision.

    With `on_cancel="wait"` whoever awaits it stays suspended: it is cancelled when the attempt has
    ended, with the message of the first request, or of anyio's (`message_of`).
    """

    def __init__(
        self, run: Canceller, definition: ActivityDefinition, decision: ActivityScheduled
    ) -> None:
        super().__init__(run.loop)
        self.run = run
        self.definition = definition
        self.decision = decision
        self.cancelling = False
        """Asked to end, and waited for."""
        self._message: Any = None

    def cancel(self, msg: Any = None) -> bool:
        if self.cancelling:
            self._message = message_of(self._message, msg)
            return True
        if self.done():
            return False
        if self.run.cancel_activity(self):
            return super().cancel(msg)
        self.cancelling, self._message = True, msg
        return True

    def ended(self) -> None:
        """What was waited for has come."""
        self.cancelling = False
        super().cancel(self._message)
