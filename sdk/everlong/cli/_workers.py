"""Which workers could take up a run."""

from collections.abc import Sequence

from everlong_engine import WorkerRow

__all__ = ["hosting"]


def hosting(workers: Sequence[WorkerRow], kind: str) -> list[str]:
    """The names of those that are there and host a type of workflow."""
    return [one.name for one in workers if kind in one.types and one.is_there]
