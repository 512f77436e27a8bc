"""Which workers could take up a run."""

from collections.abc import Sequence

from everlong.client import ExecutionSummary
from everlong_engine import WorkerRow

__all__ = ["hosting", "missing"]


def hosting(workers: Sequence[WorkerRow], run: ExecutionSummary) -> list[str]:
    """The names of those that are there and host its workflow, in the version that it is pinned
    to."""
    return [one.name for one in workers if one.is_there and one.may_drive(run.type, run.version)]


def missing(run: ExecutionSummary) -> str:
    """Whom a run without such a worker waits for."""
    if run.version is None:
        return f"none is here for {run.type}"
    return f"waits for a worker of version {run.version}"
