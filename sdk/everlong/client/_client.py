"""`Client`: starts executions, finds them, lists them.

In a process that also has a Worker for the workflow, a start goes straight to it: its first drive
and its row are one transaction. From any other process it is left in the store as mail.
"""

import asyncio
import platform
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast, overload
from urllib.parse import unquote, urlsplit

from everlong import registry
from everlong._definitions import WorkflowDefinition
from everlong._records import Records
from everlong.channels import Signal
from everlong.client._approvals import Approving
from everlong.client._attachment import Attachment
from everlong.client._handle import WorkflowHandle, check_request_id
from everlong.client._reports import Reporting
from everlong.client._texts import storable
from everlong.client._views import ExecutionSummary, Page, summary
from everlong.codec import Codec
from everlong.exceptions import (
    EverlongError,
    InvalidArguments,
    StoreError,
    WorkflowAlreadyStarted,
    WorkflowClosed,
    WorkflowNotFound,
)
from everlong.workflow import Workflow
from everlong_engine import (
    Blobs,
    Engine,
    IfClosed,
    IfOpen,
    ItemPublished,
    LoadedRun,
    Problem,
    RunFilter,
    RunRow,
    RunStarted,
    RunStatus,
    StartResult,
    StartRun,
    StoreInfo,
    Target,
    WorkerRow,
    id_from_text,
    limits,
    pack,
    seconds_us,
)

__all__ = ["Client"]

P = ParamSpec("P")
R = TypeVar("R")

_PYTHON = platform.python_version()
_VERIFIED_AT_ONCE = 100
_START_TRIES = 5
_ID_CHARS_MAX = 512


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


class Client(Approving, Reporting):
    """A connection to a store. Make it with `Client.connect`.

    async with Client.connect("orders.db") as client:
        handle = await client.start(order, 17, id="order-17")
    """

    def __init__(
        self,
        path: Path,
        *,
        namespace: str,
        durability: str,
        retention_us: int | None,
        create: bool,
        codecs: Sequence[Codec],
    ) -> None:
        self.namespace = namespace
        self._path = path
        self._durability = durability
        self._retention_us = retention_us
        self._create = create
        self._engine: Engine | None = None
        self.records = Records(codecs)

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
    ) -> Self:
        """A client of a store; `async with` opens it, and closes it at the end.

        Args:
            url: a file's path, or `sqlite:///relative.db`, `sqlite:////absolute.db`.
            namespace: executions of other namespaces are not seen.
            durability: "full" syncs every commit before it is acknowledged; "relaxed" does not, and
                a power cut may lose the last acknowledged work.
            retention: how long closed runs are kept, once a worker runs; None keeps them for ever.
            create: make the file if it does not exist.
            codecs: what is done to payloads: `Compress()`, `Encrypt(…)` or both, in this order.
                Those of a worker's client decide how its runs are stored.

        Raises:
            ValueError: an option that makes no sense, named.
        """
        if durability not in ("full", "relaxed"):
            raise ValueError(f'durability={durability!r}: choose "full" or "relaxed"')
        if not namespace:
            raise ValueError("namespace must not be empty")
        storable(namespace, "namespace")
        retention_us = None if retention is None else seconds_us(retention, "retention")
        return cls(
            _path(url),
            namespace=namespace,
            durability=durability,
            retention_us=retention_us,
            create=create,
            codecs=codecs,
        )

    async def __aenter__(self) -> Self:
        if self._engine is None:
            self._engine = await Engine.open(
                self._path,
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

    # ------------------------------------------------------------------------------- starting

    @overload
    async def start(
        self,
        workflow: "Workflow[P, R]",
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self,
        workflow: "Workflow[..., R]",
        /,
        *args: Any,
        id: str | None = None,
        if_open: IfOpen = "use",
        if_closed: IfClosed = "allow",
        run_timeout: float | timedelta | None = None,
        execution_timeout: float | timedelta | None = None,
        request_id: str | None = None,
        signal: tuple[Signal[Any] | str, Any] | None = None,
        update: tuple[Any, ...] | None = None,
        update_id: str | None = None,
        **kwargs: Any,
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self,
        workflow: str,
        /,
        *args: Any,
        id: str | None = None,
        if_open: IfOpen = "use",
        if_closed: IfClosed = "allow",
        run_timeout: float | timedelta | None = None,
        execution_timeout: float | timedelta | None = None,
        request_id: str | None = None,
        signal: tuple[Signal[Any] | str, Any] | None = None,
        update: tuple[Any, ...] | None = None,
        update_id: str | None = None,
        **kwargs: Any,
    ) -> WorkflowHandle[Any]: ...
    async def start(  # type: ignore[misc]  # its options stand beside the workflow's own
        self,
        workflow: Any,
        /,
        *args: Any,
        id: str | None = None,
        if_open: IfOpen = "use",
        if_closed: IfClosed = "allow",
        run_timeout: float | timedelta | None = None,
        execution_timeout: float | timedelta | None = None,
        request_id: str | None = None,
        signal: tuple[Signal[Any] | str, Any] | None = None,
        update: tuple[Any, ...] | None = None,
        update_id: str | None = None,
        **kwargs: Any,
    ) -> WorkflowHandle[Any]:
        """Start an execution. Returns once it is stored for good.

        The arguments are checked before anything is stored. Options are keyword-only and stand
        beside the workflow's own parameters; a parameter of the same name is passed by position.

        Args:
            workflow: a function decorated with `@workflow`, or its name (for one that this process
                does not import; its arguments are then checked by the worker).
            id: the execution's name; a new one is made up unless given. At most one open execution
                has an id.
            if_open: when one is open under this id: "use" it, "fail", or "terminate" it first.
            if_closed: when one has ended under this id: "allow" a new one, "fail", or
                "allow_failed" (a new one unless the last one completed).
            run_timeout, execution_timeout: seconds (or timedelta) after which the run, or the whole
                execution over all its runs, is closed as timed out.
            request_id: a start repeated with the same id and request id gives the same execution.
            signal: `(signal, value)`, sent in the same transaction: to the new execution, or to the
                open one that is used instead.
            update: `(update, *arguments)`, likewise; `handle.started_update` waits for its result.
            update_id: names that update.

        Raises:
            InvalidArguments: the arguments do not fit the signature, or the signal its type.
            WorkflowAlreadyStarted: the id is taken, and the policies say fail. Nothing was sent.
        """
        engine = self.engine
        definition, name = self._definition(workflow)
        storable(name, "workflow")
        _check_choice("if_open", if_open, ("use", "fail", "terminate"))
        _check_choice("if_closed", if_closed, ("allow", "fail", "allow_failed"))
        check_request_id(request_id)
        execution_us = _duration(execution_timeout, "execution_timeout")
        started = RunStarted(
            workflow=name,
            arguments=_arguments(definition, name, args, kwargs),
            workflow_id=_made_up(engine, name) if id is None else _checked_id(id),
            seed=engine.random.getrandbits(60),
            code="" if definition is None else definition.digest,
            python=_PYTHON,
            run_timeout_us=_duration(run_timeout, "run_timeout"),
            execution_deadline_us=None
            if execution_us is None
            else engine.clock.now_us() + execution_us,
        )
        attachment = Attachment.of(engine, signal, update, update_id)
        if if_open == "terminate":
            result = await self._begin_in_place(engine, started, if_closed, request_id, attachment)
        else:
            result = await self._begin(engine, started, if_open, if_closed, request_id, attachment)
        if result.refused:
            raise WorkflowAlreadyStarted(workflow_id=started.workflow_id, status=result.status.text)
        handle: WorkflowHandle[Any] = WorkflowHandle(
            self,
            started.workflow_id,
            execution_id=result.execution_id,
            run_id=result.run_id,
            definition=definition,
        )
        if attachment is not None:
            handle.started_update = attachment.handle_of(handle, result.execution_id)
        return handle

    async def _begin(
        self,
        engine: Engine,
        started: RunStarted,
        if_open: IfOpen,
        if_closed: IfClosed,
        request_id: str | None,
        attachment: Attachment | None = None,
    ) -> StartResult:
        new = engine.new_run(
            self.namespace, started.workflow_id, started.workflow, "default", request_id
        )
        worker = self._hosting(started.workflow)
        if worker is not None and attachment is None:
            future: asyncio.Future[StartResult] = asyncio.get_running_loop().create_future()

            def done(result: StartResult | StoreError) -> None:
                if future.done():
                    return
                if isinstance(result, StoreError):
                    future.set_exception(result)
                else:
                    future.set_result(result)

            worker.begin(new, started, if_open, if_closed, done)
            return await future
        blobs: Blobs = {}
        kind, body = self.records.start(new, started, blobs)
        start = StartRun(
            new,
            if_open,
            if_closed,
            kind,
            body,
            blobs=blobs,
            wake_us=engine.clock.now_us(),
            attached=None if attachment is None else attachment.attached(self.records, new),
        )
        result = await engine.commits.put(start)
        assert isinstance(result, StartResult)
        engine.wake_hosts()
        if attachment is not None:
            engine.mail_arrived()
        return result

    async def _begin_in_place(
        self,
        engine: Engine,
        started: RunStarted,
        if_closed: IfClosed,
        request_id: str | None,
        attachment: Attachment | None,
    ) -> StartResult:
        """Start in the place of one that is open. It is terminated only once it is known to be in
        the way: a repeated request must not end what it began."""
        for _ in range(_START_TRIES):
            result = await self._begin(
                engine, started, "terminate", if_closed, request_id, attachment
            )
            if result.created or result.same_request or result.refused:
                return result
            in_the_way: WorkflowHandle[Any] = WorkflowHandle(
                self, started.workflow_id, execution_id=result.execution_id
            )
            with suppress(WorkflowNotFound, WorkflowClosed):
                await in_the_way.terminate("another one was started in its place")
            if_closed = "allow"  # That it has ended so was our doing.
        raise EverlongError(
            f"{started.workflow_id!r} is started again and again by others; try again"
        )

    @overload
    async def run(self, workflow: "Workflow[P, R]", /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(
        self, workflow: "Workflow[..., R]", /, *args: Any, id: str, **kwargs: Any
    ) -> R: ...
    async def run(self, workflow: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`start` and `result` in one. Options such as `id=` are those of `start`."""
        handle: WorkflowHandle[Any] = await self.start(workflow, *args, **kwargs)
        return await handle.result()

    def _definition(self, workflow: Any) -> tuple[WorkflowDefinition | None, str]:
        if isinstance(workflow, Workflow):
            return workflow.definition, workflow.definition.name
        if isinstance(workflow, str):
            found = registry.workflows.get(workflow)
            return (None if found is None else found.definition), workflow
        raise InvalidArguments(
            f"start() takes a function decorated with @workflow, or its name; not {workflow!r}"
        )

    # ---------------------------------------------------------------------------- finding, listing

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

    async def list(
        self,
        *,
        status: str | None = None,
        type: str | None = None,
        workflow_id: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page[ExecutionSummary]:
        """Runs, newest first, a page at a time.

            page = await client.list(status="running", limit=100)
            while page.next:
                page = await client.list(status="running", limit=100, after=page.next)

        Raises:
            ValueError: an unknown status, a limit outside 1 to 1000, a damaged cursor.
        """
        known = [one.text for one in RunStatus]
        if status is not None and status not in known:
            raise ValueError(f"status={status!r}: choose one of {', '.join(known)}")
        if not 1 <= limit <= 1000:
            raise ValueError(f"limit={limit}: choose 1 to 1000")
        storable(type or "", "type")
        storable(workflow_id or "", "workflow_id")
        try:
            cursor = None if after is None else id_from_text(after)
        except ValueError as error:
            raise ValueError(f"after={after!r} is no cursor: pass a page's `next`") from error
        wanted = RunFilter(self.namespace, status, type, workflow_id)
        rows = await self.engine.store.list_runs(wanted, limit + 1, cursor)
        items = [summary(row, self.records.shown_reason(row)) for row in rows[:limit]]
        return Page(items, items[-1].run_id if len(rows) > limit else None)

    async def run_row(self, run_id: str) -> RunRow | None:
        """Not public: a row by a run's id."""
        try:
            identifier = id_from_text(run_id)
        except ValueError:
            return None
        return await self.engine.store.run_by_id(identifier)

    async def workers(self) -> Sequence[WorkerRow]:
        """Workers that have registered on this store."""
        return await self.engine.store.workers()

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
            if isinstance(event, ItemPublished):
                found = await self.engine.store.published(
                    row.shard, row.execution_id, event.channel, event.number, 1
                )
                for item in found:
                    self.records.published(row.execution_id, row, item)

    async def store_info(self) -> StoreInfo:
        """Versions and settings in force, with warnings."""
        return await self.engine.store.info()

    # ---------------------------------------------------------------------- workers of this process

    def _workers(self) -> Sequence[LocalWorker]:
        """The engine knows its hosts by less than a client uses of them.

        On the hot path, behind a look at `engine`: that this is its loop is known.
        """
        return cast(Sequence[LocalWorker], () if self._engine is None else self._engine.hosts)

    def _hosting(self, kind: str) -> Any:
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
        return self.engine.hosts[0] if self.engine.hosts else None


def _made_up(engine: Engine, name: str) -> str:
    return f"{name}-{engine.random.getrandbits(64):016x}"


def _path(url: str | Path) -> Path:
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
        raise ValueError("PostgreSQL is not supported by this version; name a SQLite file")
    raise ValueError(f"{url!r}: unknown kind of store {parts.scheme!r}; name a file's path")


def _arguments(
    definition: WorkflowDefinition | None,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bytes:
    if definition is not None:
        return definition.parameters.encode(args, kwargs)
    if args:
        raise InvalidArguments(
            f"{name!r} is not imported here, so its parameters have no order: pass them by name"
        )
    return pack(kwargs)


def _checked_id(workflow_id: str) -> str:
    if not isinstance(workflow_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArguments(f"id={workflow_id!r}: a workflow id is a text")
    if not 1 <= len(workflow_id) <= _ID_CHARS_MAX:
        raise InvalidArguments(f"a workflow id has 1 to {_ID_CHARS_MAX} characters")
    return storable(workflow_id, "id")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}")


def _duration(value: float | timedelta | None, name: str) -> int | None:
    return None if value is None else seconds_us(value, name)
