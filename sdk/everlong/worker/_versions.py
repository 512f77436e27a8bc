"""Which version of each workflow a worker has, and which runs it may drive.

A run is pinned to a version, or follows: then it belongs to the newest version that is here, that
of the worker that began last in a process, and of the newest that any process has.
"""

from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

from everlong import registry
from everlong._definitions import QUEUE, Versioning, WorkflowDefinition
from everlong.worker._owned import OwnedRun
from everlong_engine import Wants

__all__ = ["Versions", "signals_of"]


class Versions:
    """One worker's workflows, and the version that it has of each."""

    def __init__(
        self,
        workflows: Mapping[str, WorkflowDefinition],
        name: str | None,
        versioning: Versioning,
        is_newest: Callable[[str], bool],
    ) -> None:
        self.workflows = workflows
        self.names = {kind: name or one.digest for kind, one in workflows.items()}
        self.is_newest = is_newest
        """Whether no later worker of this process has another version of a type."""
        self.left_to_others: frozenset[tuple[str, str | None]] = frozenset()
        """(type, version) of flows of which this worker has its share: see `_balance`."""
        self._policies = {kind: one.versioning or versioning for kind, one in workflows.items()}

    def pin(self, kind: str) -> str | None:
        """The version that a run is pinned to which begins here; None if it follows."""
        return None if self._policies[kind] == "auto" else self.names[kind]

    def pin_of_child(self, parent: OwnedRun, kind: str) -> str | None:
        """A child of a pinned run goes with it, if it is pinned itself and at home here."""
        if parent.version is None or kind not in self._policies:
            return None
        return self.pin(kind)

    def pin_of_successor(self, run: OwnedRun) -> str | None:
        """What the next run of an execution is pinned to before it begins."""
        return run.version if self._policies[run.type] == "pinned" else None

    def may_drive(self, run: OwnedRun) -> bool:
        """Whether a run that is here belongs here."""
        return self.may_have(run.type, run.version)

    def may_have(self, kind: str, version: str | None) -> bool:
        """Whether a run that is in nobody's hands belongs here."""
        return self.is_newest(kind) if version is None else version == self.names[kind]

    def may_move(self, run: OwnedRun) -> bool:
        """Whether beginning anew would bring it to a newer version."""
        return self._policies[run.type] == "pinned_run" and not self.is_newest(run.type)

    def wants(self, worker_id: bytes, fleet: int | None = None) -> Wants:
        """What may be claimed now, while the fleet is this one."""
        left = self.left_to_others
        follows = (kind for kind in self.names if self.is_newest(kind) and (kind, None) not in left)
        pinned = (one for one in self.names.items() if one not in left)
        return Wants(worker_id, QUEUE, tuple(follows), tuple(pinned), fleet=fleet)


def signals_of(definition: WorkflowDefinition) -> Mapping[str, Any]:
    """Those that a workflow may be sent: declared beside it, or by what was imported before."""
    if definition.signals is registry.signals:
        return registry.signals
    return ChainMap(definition.signals, registry.signals)
