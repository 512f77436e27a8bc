"""What every part of a client stands on: the open store, and the workers of this process."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

from everlong._interception import Hooks
from everlong._records import Records
from everlong.exceptions import EverlongError, WorkflowMoved
from everlong_engine import Engine, RunRow, RunStatus, Target, id_from_text

__all__ = ["Connected", "LocalWorker", "require_here"]


class LocalWorker(Protocol):
    """What a client uses of a worker in its own process."""

    def hosts(self, kind: str) -> bool: ...
    def begin(
        self, new: Any, started: Any, if_open: Any, if_closed: Any, on_result: Any
    ) -> None: ...
    def owned_run(self, namespace: str, workflow_id: str, execution_id: bytes | None) -> Any: ...
    def send(self, run: Any, event: Any, on_done: Any) -> None: ...
    async def query(
        self,
        namespace: str,
        workflow_id: str,
        execution_id: bytes | None,
        name: str,
        arguments: bytes,
    ) -> bytes: ...


class Connected:
    """The part of a client that has the engine."""

    namespace: str
    records: Records
    hooks: Hooks
    """Not public: its interceptors, sorted."""
    _engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """Not public: the engine beneath.

        Raises:
            EverlongError: the client is not open, or is used on another event loop than its own.
        """
        if self._engine is None:
            raise EverlongError(
                "this client is not open: use `async with Client.connect(…) as client`"
            )
        self._engine.require_its_loop()
        return self._engine

    async def run_row(self, run_id: str) -> RunRow | None:
        """Not public: a row by a run's id."""
        try:
            identifier = id_from_text(run_id)
        except ValueError:
            return None
        return await self.engine.store.run_by_id(identifier)

    def _workers(self) -> Sequence[LocalWorker]:
        """The engine knows its hosts by less than a client uses of them.

        On the hot path, behind a look at `engine`: that this is its loop is known.
        """
        return cast(Sequence[LocalWorker], () if self._engine is None else self._engine.hosts)

    def hosting(self, kind: str) -> Any:
        for host in self._workers():
            if host.hosts(kind):
                return host
        return None

    def owner_of(self, target: Target) -> tuple[Any, Any] | None:
        """Not public: the worker of this process that has the execution in hand, and its run."""
        for host in self._workers():
            run: Any = host.owned_run(target.namespace, target.workflow_id, target.execution_id)
            if run is not None:
                return host, run
        return None

    def host_for(self, target: Target) -> Any:
        """Not public: a worker of this process that can answer for the execution."""
        owner = self.owner_of(target)
        if owner is not None:
            return owner[0]
        if self.engine.shared:  # Another process may have it: whoever does answers.
            return None
        return self.engine.hosts[0] if self.engine.hosts else None


def require_here(row: RunRow) -> None:
    """Raises WorkflowMoved."""
    if row.status is RunStatus.MOVED:
        place = row.reason or "another store"
        raise WorkflowMoved(workflow_id=row.workflow_id, place=place)
