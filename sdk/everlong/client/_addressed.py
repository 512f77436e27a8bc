"""What every part of a handle stands on: whom it means, and what was said to it."""

from typing import TYPE_CHECKING, Any, Final, Self

from everlong._records import Records
from everlong.client._connected import require_here
from everlong.exceptions import WorkflowClosed, WorkflowNotFound
from everlong_engine import (
    Engine,
    EntityLook,
    EntityRow,
    MessageResult,
    RunFilter,
    RunRow,
    RunStatus,
    Target,
    id_text,
    parse_filter,
)

if TYPE_CHECKING:
    from everlong.client._client import Client

__all__ = ["Addressed"]

_LAST: Final = parse_filter(
    "status != 'continued_as_new' and status != 'retried' and status != 'reset'"
)
"""Of the runs of an execution the last one."""
_LISTED_AT_ONCE: Final = 200


class Addressed:
    """One execution, as its client finds it."""

    def __init__(
        self,
        client: "Client",
        workflow_id: str,
        *,
        execution_id: bytes | None = None,
        run_id: bytes | None = None,
        definition: Any = None,
    ) -> None:
        self._client = client
        self._execution_id = execution_id
        self._run_id = run_id
        self._definition = definition
        self.workflow_id = workflow_id

    @property
    def run_id(self) -> str | None:
        """The run that this handle was made for; None for one from `get_handle`."""
        return None if self._run_id is None else id_text(self._run_id)

    @property
    def _engine(self) -> Engine:
        """Looked up at each use: the client may have been closed."""
        return self._client.engine

    def _target(self) -> Target:
        return self._engine.target(self._client.namespace, self.workflow_id, self._execution_id)

    async def _row(self, run_id: str | None = None) -> RunRow:
        if run_id is not None:
            row = await self._client.run_row(run_id)
        else:
            row = await self._engine.store.latest(self._target())
        if row is None:
            raise WorkflowNotFound(workflow_id=self.workflow_id)
        return row

    async def pinned(self) -> Self:
        """Not public: a handle of the very execution that this one means now."""
        row = await self._row()
        return self._of(row.execution_id)

    async def kept(self) -> list[Self]:
        """Not public: of each execution that this one may mean, the oldest first: those that are
        kept under its workflow id, or just its own."""
        if self._execution_id is not None:
            return [self]
        client, store = self._client, self._engine.store
        now_us = self._engine.clock.now_us()
        wanted = RunFilter(
            client.namespace, workflow_id=self.workflow_id, where=_LAST, now_us=now_us
        )
        found: dict[bytes, None] = {}
        after: bytes | None = None
        while rows := await store.list_runs(wanted, _LISTED_AT_ONCE, after):
            found.update(dict.fromkeys(row.execution_id for row in rows))
            after = rows[-1].run_id
        if not found:
            raise WorkflowNotFound(workflow_id=self.workflow_id)
        return [self._of(one) for one in reversed(found)]

    @property
    def records(self) -> Records:
        """Not public: opens what is stored."""
        return self._client.records

    async def entities(self, look: EntityLook) -> tuple[RunRow, list[EntityRow]]:
        """Not public: states of keys, and whose they are."""
        row = await self._row()
        found = await self._engine.store.entities(row.shard, row.execution_id, look)
        return row, found

    def new_request(self) -> str:
        """Not public: a request id that nobody else has."""
        return id_text(self._engine.ids.next(self._engine.clock.now_us()))

    def _of(self, execution_id: bytes) -> Self:
        return type(self)(
            self._client,
            self.workflow_id,
            execution_id=execution_id,
            definition=self._definition,
        )

    async def _require_accepted(self, result: MessageResult) -> None:
        if result.status is None:
            raise WorkflowNotFound(workflow_id=self.workflow_id)
        if result.position is None and not result.duplicate:
            raise await self._closed(result.status)

    async def _closed(self, status: RunStatus) -> WorkflowClosed:
        """The error for one that takes no more messages."""
        if status is RunStatus.MOVED:
            require_here(await self._row())
        return WorkflowClosed(workflow_id=self.workflow_id, status=status.text)

    async def _open(self, result: object) -> bytes:
        """The open execution that was meant, or the one that was told this before."""
        assert isinstance(result, MessageResult)
        if result.status is None:
            raise WorkflowNotFound(workflow_id=self.workflow_id)
        if not (result.status.is_open or result.duplicate):
            raise await self._closed(result.status)
        return result.execution_id
