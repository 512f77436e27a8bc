"""What the parts of a run may do with it: look at what is recorded, decide, and stop it."""

from collections.abc import Sequence
from typing import NoReturn, Protocol

from everlong._definitions import WorkflowDefinition
from everlong._interception import Hooks
from everlong._replay.loop import WorkflowLoop
from everlong.exceptions import WorkflowFault
from everlong_engine import Decision, RunStarted

__all__ = ["Ledger"]


class Ledger(Protocol):
    """A `WorkflowRun`, as its parts see it."""

    definition: WorkflowDefinition
    loop: WorkflowLoop
    started: RunStarted | None
    now_us: int
    made: list[Decision]
    """What the code has decided in this drive."""
    recorded: Sequence[Decision] | None
    """What the history holds behind the input that is fed; None live."""
    hooks: Hooks | None
    """Interceptors around its code, if there are any."""

    def require_live(self) -> None:
        """Raise unless the code may still decide something."""
        ...

    def stop_with(self, error: WorkflowFault) -> NoReturn:
        """Flag the run and leave its code at once."""
        ...

    def new_id(self) -> int:
        """The next number of an activity, a timer, or whatever else is open for a while."""
        ...

    def net_out(self, decision: Decision) -> bool:
        """Forget what was begun in this very drive; False when it is on record already."""
        ...

    def close(self, decision: Decision) -> None:
        """The run's last decision."""
        ...
