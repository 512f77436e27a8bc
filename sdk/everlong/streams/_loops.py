"""What loops over streams share: the run that they are in, and what it carries for them."""

from everlong._context import RunPort, current_run
from everlong.exceptions import EverlongError

__all__ = ["cursors_of", "run_here"]


def run_here(what: str) -> RunPort:
    """The run whose code calls. Raises EverlongError outside of workflows."""
    run = current_run()
    if run is None:
        raise EverlongError(f"{what} inside a workflow")
    return run


def cursors_of(run: RunPort) -> dict[str, bytes]:
    """How far its loops have come, by name. They go with the execution, over every roll-over."""
    if run.cursors is None:
        run.cursors = {}
    return run.cursors
