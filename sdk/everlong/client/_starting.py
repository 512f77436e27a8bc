"""Starting an execution, from outside.

Options stand beside the workflow's own parameters in one call, which Python's types cannot say in
one signature (PEP 612). So there are several: with no options, or with all arguments by position,
type checkers see every argument. With `id=` and arguments by keyword they see the first two, and
not the options.
"""

import asyncio
import platform
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace as replace_terms
from datetime import datetime, timedelta
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    ParamSpec,
    TypedDict,
    TypeVar,
    TypeVarTuple,
    Unpack,
    cast,
    overload,
)

from msgspec.structs import replace

from everlong import registry
from everlong._definitions import WorkflowDefinition, run_policy
from everlong._savepoints import Savepoint
from everlong._texts import check_request_id, checked_id, storable
from everlong.channels import Signal
from everlong.client._attachment import Attachment
from everlong.client._connected import Connected, require_here
from everlong.client._handle import WorkflowHandle
from everlong.client._intercepting import around_start
from everlong.client._terms import Terms
from everlong.exceptions import (
    EverlongError,
    InvalidArguments,
    StoreError,
    WorkflowAlreadyStarted,
    WorkflowClosed,
    WorkflowNotFound,
)
from everlong.labels import TagValue, checked_memo, checked_tags
from everlong.starts import Debounce, Dedup
from everlong.workflow import Workflow
from everlong_engine import (
    Blobs,
    Engine,
    IfClosed,
    IfOpen,
    Retry,
    RunStarted,
    RunStatus,
    StartResult,
    StartRun,
    instant_us,
    limits,
    pack,
    seconds_us,
)

if TYPE_CHECKING:
    from everlong.client._client import Client

__all__ = ["Starting"]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
Ts = TypeVarTuple("Ts")

_PYTHON = platform.python_version()
_START_TRIES = 5


class StartOptions(TypedDict, total=False):
    """What may stand beside the workflow's own arguments; `Starting.start` explains each."""

    id: str | None
    if_open: IfOpen
    if_closed: IfClosed
    run_timeout: float | timedelta | None
    execution_timeout: float | timedelta | None
    start_delay: float | timedelta | None
    start_at: datetime | None
    retry: Retry | None
    request_id: str | None
    signal: tuple[Signal[Any] | str, Any] | None
    update: tuple[Any, ...] | None
    update_id: str | None
    tags: Mapping[str, TagValue] | None
    memo: Any
    from_savepoint: Savepoint | None
    debounce: Debounce | None
    dedup: Dedup | None


class Starting(Connected):
    """The part of a client that begins executions."""

    @overload
    async def start(
        self, workflow: "Workflow[P, R]", /, *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self,
        workflow: Callable[[*Ts], Coroutine[object, None, R]],
        /,
        *args: *Ts,
        **options: Unpack[StartOptions],
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self, workflow: "Workflow[..., R]", /, *, id: str | None, **kwargs: Any
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self,
        workflow: "Workflow[Concatenate[A, ...], R]",
        first: A,
        /,
        *,
        id: str | None,
        **kwargs: Any,
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self,
        workflow: "Workflow[Concatenate[A, B, ...], R]",
        first: A,
        second: B,
        /,
        *,
        id: str | None,
        **kwargs: Any,
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(self, workflow: str, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]: ...
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
        start_delay: float | timedelta | None = None,
        start_at: datetime | None = None,
        retry: Retry | None = None,
        request_id: str | None = None,
        signal: tuple[Signal[Any] | str, Any] | None = None,
        update: tuple[Any, ...] | None = None,
        update_id: str | None = None,
        tags: Mapping[str, TagValue] | None = None,
        memo: Any = None,
        from_savepoint: Savepoint | None = None,
        debounce: Debounce | None = None,
        dedup: Dedup | None = None,
        **kwargs: Any,
    ) -> WorkflowHandle[Any]:
        """Start an execution. Returns once it is stored for good.

        The arguments are checked before anything is stored. Options are keyword-only and stand
        beside the workflow's own parameters; a parameter of the same name is passed by position.
        Type checkers see every argument that is passed by position; with options and arguments by
        keyword only the first two, and only beside `id=`.

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
            start_delay, start_at: begin later: seconds (or timedelta) from now, or an aware
                datetime. It is stored and has its id at once, takes no memory, and can be
                signalled, cancelled and terminated; its time limits count from its beginning. An
                open one that is used instead is not put off.
            retry: when it is tried again if it fails, in place of what `@workflow(retry=…)` says.
            request_id: a start repeated with the same id and request id gives the same execution.
            signal: `(signal, value)`, sent in the same transaction: to the new execution, or to the
                open one that is used instead.
            update: `(update, *arguments)`, likewise; `handle.started_update` waits for its result.
            update_id: names that update.
            tags: what the execution is found by: texts, numbers, bools, aware datetimes. They are
                stored readable. One that is used instead keeps its own.
            memo: any plain value, for people and programs that look at it.
            from_savepoint: go on where a flow was (`StreamControl.savepoint`), with what it carried
                as arguments; those that are given by name are changed. An open one under this id
                is then refused, and not used.
            debounce: `Debounce(span, key=…, at_most=…)`: starts that come one upon the other become
                one execution, which begins when no more have come for a while, as the last one
                says. It makes up its id.
            dedup: `Dedup(key, within=…)`: a start whose key was seen lately gives the execution
                which that one gave, also when it has ended.

        Raises:
            InvalidArguments: the arguments do not fit the signature, or the signal its type.
            InvalidTag: a tag will not do.
            WorkflowAlreadyStarted: the id is taken, and the policies say fail. Nothing was sent.
        """
        engine = self.engine
        definition, name = self._definition(workflow)
        check_request_id(request_id)
        terms = Terms(if_open, if_closed, request_id, debounce, dedup)
        beside = {"id": id, "start_delay": start_delay, "start_at": start_at, "signal": signal}
        terms.require_sense({**beside, "update": update, "from_savepoint": from_savepoint})
        now_us = engine.clock.now_us()
        begins_us = terms.begins_us(now_us) or _beginning(engine, start_delay, start_at)
        point = from_savepoint
        if point is not None and if_open == "use":  # It would go on where it is, and not there.
            terms = replace_terms(terms, if_open="fail")
        encode = partial(_arguments, definition, name, point)
        started = RunStarted(
            workflow=name,
            arguments=encode(args, kwargs),
            workflow_id=_made_up(engine, name) if id is None else checked_id(id),
            seed=engine.random.getrandbits(60),
            code="" if definition is None else definition.digest,
            python=_PYTHON,
            run_timeout_us=_duration(run_timeout, "run_timeout"),
            execution_deadline_us=_deadline(engine, execution_timeout, begins_us),
            tags=checked_tags(tags),
            memo=checked_memo(memo),
            begins_us=begins_us,
            retry=_policy(definition, retry),
            cursors=() if point is None else point.cursors,
            carried=() if point is None else point.carried,
        )
        started = terms.put_off(started, now_us)
        attachment = Attachment.of(engine, signal, update, update_id)
        if self.hooks.start_workflow:
            return await self._start_through(
                started, definition, encode, (args, kwargs), terms, attachment
            )
        result = await self._begin_so(engine, started, terms, attachment)
        return await self._handle_of(started.workflow_id, result, definition, attachment)

    async def _start_through(
        self,
        started: RunStarted,
        definition: WorkflowDefinition | None,
        encode: Callable[[tuple[Any, ...], dict[str, Any]], bytes],
        call: tuple[tuple[Any, ...], dict[str, Any]],
        terms: Terms,
        attachment: Attachment | None,
    ) -> WorkflowHandle[Any]:
        """The same with interceptors around it, which may change arguments and headers."""
        workflow_id, name = started.workflow_id, started.workflow

        async def begin(args: Any, kwargs: Any, headers: bytes) -> WorkflowHandle[Any]:
            changed = replace(started, arguments=encode(args, dict(kwargs)), headers=headers)
            attached = None if attachment is None else attachment.beside(headers)
            begun = await self._begin_so(self.engine, changed, terms, attached)
            return await self._handle_of(workflow_id, begun, definition, attached)

        handle: WorkflowHandle[Any] = await around_start(
            self.hooks, workflow_id, name, *call, begin
        )
        return handle

    async def _handle_of(
        self,
        workflow_id: str,
        result: StartResult,
        definition: WorkflowDefinition | None,
        attachment: Attachment | None,
    ) -> WorkflowHandle[Any]:
        workflow_id = result.workflow_id or workflow_id  # A key may have led to another one.
        if result.refused and result.status is RunStatus.MOVED:
            row = await self.engine.store.run_by_id(result.run_id)
            if row is not None:
                require_here(row)
        if result.refused:
            raise WorkflowAlreadyStarted(workflow_id=workflow_id, status=result.status.text)
        handle: WorkflowHandle[Any] = WorkflowHandle(
            cast("Client", self),
            workflow_id,
            execution_id=result.execution_id,
            run_id=result.run_id,
            definition=definition,
        )
        if attachment is not None:
            handle.started_update = attachment.handle_of(handle, result.execution_id)
        return handle

    async def _begin_so(
        self, engine: Engine, started: RunStarted, terms: Terms, attachment: Attachment | None
    ) -> StartResult:
        if terms.if_open == "terminate":
            return await self._begin_in_place(engine, started, terms, attachment)
        return await self._begin(engine, started, terms, attachment)

    async def _begin(
        self, engine: Engine, started: RunStarted, terms: Terms, attachment: Attachment | None
    ) -> StartResult:
        new = engine.new_run(
            self.namespace,
            started.workflow_id,
            started.workflow,
            "default",
            None if terms.debounce is not None else terms.request_id,
            started.tags,
        )
        worker = self.hosting(started.workflow)
        waits = started.begins_us is not None or terms.has_key
        if worker is not None and attachment is None and not waits:
            future: asyncio.Future[StartResult] = asyncio.get_running_loop().create_future()

            def done(result: StartResult | StoreError) -> None:
                if future.done():
                    return
                if isinstance(result, StoreError):
                    future.set_exception(result)
                else:
                    future.set_result(result)

            worker.begin(new, started, terms.if_open, terms.if_closed, done)
            return await future
        blobs: Blobs = {}
        kind, body = self.records.start(new, started, blobs)
        start = StartRun(
            new,
            terms.if_open,
            terms.if_closed,
            kind,
            body,
            blobs=blobs,
            wake_us=started.begins_us or engine.clock.now_us(),
            attached=None if attachment is None else attachment.attached(self.records, new),
            key=terms.start_key(engine),
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
        terms: Terms,
        attachment: Attachment | None,
    ) -> StartResult:
        """Start in the place of one that is open. It is terminated only once it is known to be in
        the way: a repeated request must not end what it began."""
        for _ in range(_START_TRIES):
            result = await self._begin(engine, started, terms, attachment)
            if result.created or result.same_request or result.refused:
                return result
            in_the_way: WorkflowHandle[Any] = WorkflowHandle(
                cast("Client", self), started.workflow_id, execution_id=result.execution_id
            )
            with suppress(WorkflowNotFound, WorkflowClosed):
                await in_the_way.terminate("another one was started in its place")
            # That it has ended so was our doing.
            terms = replace_terms(terms, if_closed="allow")
        raise EverlongError(
            f"{started.workflow_id!r} is started again and again by others; try again"
        )

    @overload
    async def run(self, workflow: "Workflow[P, R]", /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(
        self,
        workflow: Callable[[*Ts], Coroutine[object, None, R]],
        /,
        *args: *Ts,
        **options: Unpack[StartOptions],
    ) -> R: ...
    @overload
    async def run(self, workflow: "Workflow[..., R]", /, *, id: str | None, **kwargs: Any) -> R: ...
    @overload
    async def run(
        self,
        workflow: "Workflow[Concatenate[A, ...], R]",
        first: A,
        /,
        *,
        id: str | None,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def run(
        self,
        workflow: "Workflow[Concatenate[A, B, ...], R]",
        first: A,
        second: B,
        /,
        *,
        id: str | None,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def run(self, workflow: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def run(  # type: ignore[misc]  # as above
        self, workflow: Any, /, *args: Any, **kwargs: Any
    ) -> Any:
        """`start` and `result` in one. Options such as `id=` are those of `start`."""
        handle: WorkflowHandle[Any] = await self.start(workflow, *args, **kwargs)
        return await handle.result()

    def _definition(self, workflow: Any) -> tuple[WorkflowDefinition | None, str]:
        if isinstance(workflow, Workflow):
            return workflow.definition, workflow.definition.name
        if isinstance(workflow, str):
            found = registry.workflows.get(workflow)
            return (None if found is None else found.definition), storable(workflow, "workflow")
        raise InvalidArguments(
            f"start() takes a function decorated with @workflow, or its name; not {workflow!r}"
        )


def _made_up(engine: Engine, name: str) -> str:
    return f"{name}-{engine.random.getrandbits(64):016x}"


def _arguments(
    definition: WorkflowDefinition | None,
    name: str,
    point: Savepoint | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bytes:
    if point is not None:
        if args:
            raise InvalidArguments(
                "from_savepoint: what the flow carried are its arguments; give those that change "
                "by name"
            )
        return point.arguments_for(definition, name, kwargs)
    if definition is not None:
        return definition.parameters.encode(args, kwargs)
    if args:
        raise InvalidArguments(
            f"{name!r} is not imported here, so its parameters have no order: pass them by name"
        )
    return pack(kwargs)


def _deadline(
    engine: Engine, timeout: float | timedelta | None, begins_us: int | None
) -> int | None:
    timeout_us = _duration(timeout, "execution_timeout")
    return None if timeout_us is None else (begins_us or engine.clock.now_us()) + timeout_us


def _policy(definition: WorkflowDefinition | None, retry: Retry | None) -> tuple[Any, ...] | None:
    if retry is not None:
        return run_policy(retry, "start(retry=…)")
    return None if definition is None else definition.retry


def _beginning(engine: Engine, delay: float | timedelta | None, at: datetime | None) -> int | None:
    """When it is to begin; None: now."""
    if delay is not None and at is not None:
        raise ValueError("give start_delay or start_at, not both")
    delay_us = _duration(delay, "start_delay")
    if delay_us is not None:
        return engine.clock.now_us() + delay_us if delay_us else None
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError(
            f"start_at={at!r}: give an aware datetime, such as datetime(2026, 12, 24, tzinfo=UTC)"
        )
    begins_us = instant_us(at)
    if begins_us > limits.INSTANT_US_MAX:
        raise ValueError(f"start_at={at!r} is later than anything can begin")
    return begins_us if begins_us > engine.clock.now_us() else None


def _duration(value: float | timedelta | None, name: str) -> int | None:
    return None if value is None else seconds_us(value, name)
