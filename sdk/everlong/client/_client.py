"""`Client`: starts executions, finds them, lists them.

In a process that also has a Worker for the workflow, a start goes straight to it: its first drive
and its row are one transaction. From any other process it is left in the store as mail.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload
from urllib.parse import unquote, urlsplit

from everlong._interception import Hooks
from everlong._records import Records
from everlong._texts import storable
from everlong.client._approvals import Approving
from everlong.client._bulk import Bulking
from everlong.client._finding import Finding
from everlong.client._handle import WorkflowHandle
from everlong.client._moving import Moving
from everlong.client._outboxes import Outboxes
from everlong.client._pausing import Pausing
from everlong.client._queues import Queues
from everlong.client._reports import Reporting
from everlong.client._transferring import Transferring
from everlong.client._versions import VersionSummary, summaries
from everlong.codec import Codec
from everlong.exceptions import (
    EverlongError,
)
from everlong.interceptors import Interceptor
from everlong.outboxes import outbox_in
from everlong.workflow import Workflow
from everlong_engine import (
    Engine,
    ItemPublished,
    LoadedRun,
    Problem,
    RunFilter,
    StoreInfo,
    WorkerRow,
    limits,
    seconds_us,
)

__all__ = ["Client"]

P = ParamSpec("P")
R = TypeVar("R")

_VERIFIED_AT_ONCE = 100


class Client(
    Approving, Bulking, Finding, Moving, Outboxes, Pausing, Queues, Reporting, Transferring
):
    """A connection to a store. Make it with `Client.connect`.

    async with Client.connect("orders.db") as client:
        handle = await client.start(order, 17, id="order-17")
    """

    def __init__(
        self,
        path: Path | str,
        *,
        namespace: str,
        durability: str,
        retention_us: int | None,
        create: bool,
        codecs: Sequence[Codec],
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        self.namespace = namespace
        self.path = path
        """The file of the store, or the URL of its database."""
        self.codecs = tuple(codecs)
        self._durability = durability
        self._retention_us = retention_us
        self._create = create
        self._engine: Engine | None = None
        self.records = Records(codecs)
        self.hooks = Hooks(interceptors)

    @classmethod
    def connect(
        cls,
        url: str | Path,
        *,
        namespace: str = "default",
        durability: str = "full",
        retention: timedelta | float | None = timedelta(microseconds=limits.RETENTION_US),
        create: bool = True,
        codecs: Sequence[Codec] = (),
        interceptors: Sequence[Interceptor] = (),
    ) -> Self:
        """A client of a store; `async with` opens it, and closes it at the end.

        Args:
            url: a file's path, `sqlite:///relative.db` or `sqlite:////absolute.db`; or the database
                of a server, `postgresql://user@host/database` (needs `everlong[postgres]`).
            namespace: executions of other namespaces are not seen.
            durability: "full" syncs every commit before it is acknowledged; "relaxed" does not, and
                a power cut may lose the last acknowledged work.
            retention: how long closed runs are kept, once a worker runs; None keeps them for ever.
            create: make the file if it does not exist.
            codecs: what is done to payloads: `Compress()`, `Encrypt(…)` or both, in this order.
                Those of a worker's client decide how its runs are stored.
            interceptors: what stands around its calls, the first one outermost; a worker of this
                client has them too. See `Interceptor`.

        Raises:
            ValueError: an option that makes no sense, named.
            DefinitionError: what is no interceptor.
        """
        if durability not in ("full", "relaxed"):
            raise ValueError(f'durability={durability!r}: choose "full" or "relaxed"')
        if not namespace:
            raise ValueError("namespace must not be empty")
        storable(namespace, "namespace")
        retention_us = None if retention is None else seconds_us(retention, "retention")
        return cls(
            _place(url),
            namespace=namespace,
            durability=durability,
            retention_us=retention_us,
            create=create,
            codecs=codecs,
            interceptors=interceptors,
        )

    @classmethod
    def beside(
        cls, engine: Engine, records: Records, path: Path | str, hooks: Hooks, namespace: str
    ) -> Self:
        """Not public: a client for as long as somebody else keeps the engine open."""
        made = cls(
            path,
            namespace=namespace,
            durability=engine.durability,
            retention_us=None,
            create=False,
            codecs=(),
        )
        made._engine, made.records, made.hooks = engine, records, hooks
        return made

    @property
    def is_durable(self) -> bool:
        """Not public: whether what is committed survives a power cut."""
        return self._durability == "full"

    async def __aenter__(self) -> Self:
        if self._engine is None:
            self._engine = await Engine.open(
                self.path,
                durability=self._durability,
                create=self._create,
                retention_us=self._retention_us,
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._engine is None:
            return
        engine = self.engine  # Refused on another loop.
        self._engine = None
        await engine.close()

    # ------------------------------------------------------------------------------------ finding

    @overload
    def get_handle(self, workflow_id: str) -> WorkflowHandle[Any]: ...
    @overload
    def get_handle(self, workflow_id: str, workflow: "Workflow[..., R]") -> WorkflowHandle[R]: ...
    def get_handle(
        self, workflow_id: str, workflow: "Workflow[..., Any] | None" = None
    ) -> WorkflowHandle[Any]:
        """A handle by workflow id. Give the workflow to have its result rebuilt by its types."""
        _ = self.engine  # A handle of a client that is not open is of no use.
        definition = None if workflow is None else workflow.definition
        return WorkflowHandle(self, storable(workflow_id, "id"), definition=definition)

    async def workers(self) -> Sequence[WorkerRow]:
        """Workers that have registered on this store."""
        return await self.engine.store.workers()

    async def versions(self) -> Sequence[VersionSummary]:
        """The versions that open runs of this namespace are pinned to, and those that workers have.

        A version whose `drained` is true is needed by no run any more: its worker may go.
        """
        counts = await self.engine.store.versions(self.namespace)
        return summaries(counts, await self.workers())

    async def verify(self) -> Sequence[Problem]:
        """Check every history of the store: gapless, checksums, orphans. Empty: all is well.

        With codecs, also whether they open every payload of this namespace's executions; without,
        what is encrypted is taken as it is.
        """
        found = await self.engine.store.verify()
        if not self.records.seals:
            return found
        known = {one.run_id for one in found}
        return [*found, *[one async for one in self._not_opened() if one.run_id not in known]]

    async def _not_opened(self) -> AsyncIterator[Problem]:
        """Runs with a payload that the codecs do not open."""
        store = self.engine.store
        after: bytes | None = None
        while True:
            rows = await store.list_runs(RunFilter(self.namespace), _VERIFIED_AT_ONCE, after)
            for row in rows:
                try:
                    loaded = await store.load(row.shard, row.run_id)
                    if loaded is not None:
                        self.records.check(loaded)
                        await self._check_items(loaded)
                except EverlongError as error:
                    yield Problem(row.run_id, f"{type(error).__name__}: {error}")
            if len(rows) < _VERIFIED_AT_ONCE:
                return
            after = rows[-1].run_id

    async def _check_items(self, loaded: LoadedRun) -> None:
        """Open what a run has published. Raises EverlongError."""
        row = loaded.row
        for one in loaded.history:
            event = one.event
            if isinstance(event, ItemPublished) and outbox_in(event.channel) is None:
                found = await self.engine.store.published(
                    row.shard, row.execution_id, event.channel, event.number, 1
                )
                for item in found:
                    self.records.published(row.execution_id, row, item)

    async def store_info(self) -> StoreInfo:
        """Versions and settings in force, with warnings."""
        return await self.engine.store.info()


def _place(url: str | Path) -> Path | str:
    """A file, or a server's URL."""
    if isinstance(url, Path):
        return url
    if not url:
        raise ValueError("name a store: a file's path, or a URL such as sqlite:///orders.db")
    parts = urlsplit(url)
    if parts.scheme in ("", "file") or len(parts.scheme) == 1:
        return Path(parts.path if parts.scheme == "file" else url)
    if parts.scheme == "sqlite":
        path = unquote(parts.path)
        if parts.netloc or len(path) < 2:
            raise ValueError(f"{url!r}: write sqlite:///relative.db or sqlite:////absolute.db")
        return Path(path[1:])
    if parts.scheme in ("postgres", "postgresql"):
        return url
    raise ValueError(f"{url!r}: unknown kind of store {parts.scheme!r}; name a file's path")
