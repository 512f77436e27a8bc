"""`WorkflowHandle`: one execution, seen from outside."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Literal, TypeVar, overload

from everlong._failures import ExceptionRegistry, decode_failure
from everlong._texts import check_request_id, storable
from everlong._values import Value, within_limit
from everlong.channels import Output, Query, Signal, Update, name_of, output_of, sent
from everlong.client._connected import require_here
from everlong.client._intercepting import (
    around_cancel,
    around_query,
    around_signal,
    around_update,
)
from everlong.client._lifecycle import Lifecycle
from everlong.client._pauses import held_by
from everlong.client._resetting import Resetting
from everlong.client._subscribing import PublishedItem, follow
from everlong.client._updates import BEGUN, UpdateHandle
from everlong.client._versions import Pinning
from everlong.client._views import ExecutionDescription, HistoryEvent, describe, view_history
from everlong.exceptions import (
    EverlongError,
    NoAnswer,
    QueryFailed,
    StoreError,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowNotFound,
    WorkflowTerminated,
    WorkflowTimedOut,
)
from everlong_engine import (
    ApprovalRequested,
    Ask,
    Blobs,
    CancelRequested,
    Closing,
    Input,
    Message,
    MessageResult,
    RunCancelled,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunRow,
    RunStarted,
    RunStatus,
    RunTerminated,
    RunTimedOut,
    SignalReceived,
    Target,
    UpdateReceived,
    name_of_update,
    pack,
    unpack,
)

__all__ = ["WorkflowHandle", "requested", "signalled"]

R = TypeVar("R")
T = TypeVar("T")


class WorkflowHandle(Lifecycle, Resetting[R], Pinning):
    """One execution: its result, its messages, its end. Works from any process.

    A handle from `client.start` means that very execution; one from `client.get_handle` means
    whatever execution has the workflow id at the time of the call.
    """

    started_update: UpdateHandle[Any] | None = None
    """The update that was sent with the start, if one was."""

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self.workflow_id}>"

    # ------------------------------------------------------------------------------- the result

    async def result(self) -> R:
        """Wait for the end and return what the workflow returned, rebuilt by its type hint.

        Follows the execution over checkpoints and continue-as-new. What people get wrong: a run
        that is blocked by a fault in its code has not ended, and is waited for, as one is that no
        worker hosts: `describe()` tells, by its `status` and `hosted`.

        Raises:
            WorkflowFailed: an exception left the function; it is the `__cause__`.
            WorkflowCancelled, WorkflowTerminated, WorkflowTimedOut: it ended so.
            WorkflowNotFound: there is no such execution.
        """
        event = await self._closing()
        while isinstance(event, RunContinuedAsNew):  # pragma: no cover - between two runs
            event = await self._closing()
        return self._outcome(event)

    async def _closing(self) -> Closing:
        target, execution_id = self._target(), self._execution_id
        while True:
            engine = self._engine
            if execution_id is not None and self._client.owner_of(target) is not None:
                # Nothing is read meanwhile, however often others, or its own worker, commit.
                closed = await engine.closing(execution_id)
                if closed is not None:
                    return closed[1]
                engine = self._engine
            if engine.commits.failed is not None:
                raise engine.commits.failed
            row = await engine.store.latest(target)
            if row is None:
                raise WorkflowNotFound(workflow_id=self.workflow_id)
            # Listen first, then look: what closes in between is not missed. It may be the client.
            engine = self._engine
            here = engine.closing(row.execution_id)
            elsewhere = engine.changed()
            try:
                row = await engine.store.latest(target)
                if row is None:
                    raise WorkflowNotFound(workflow_id=self.workflow_id)
                if not (row.status.is_open or row.status.is_followed):
                    require_here(row)
                    return await self._last_event(row)
                both: list[asyncio.Future[Any]] = [here, elsewhere]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if here.done() and not here.cancelled() and (closed := here.result()) is not None:
                    return closed[1]
            finally:
                here.cancel()
                elsewhere.cancel()

    async def _last_event(self, row: RunRow) -> Closing:
        recorded = await self._engine.store.last_event(row.shard, row.run_id)
        if recorded is None:
            raise WorkflowNotFound(workflow_id=self.workflow_id)
        return self._client.records.closing(row, recorded)

    def _outcome(self, event: Closing) -> R:
        match event:
            case RunCompleted():
                value: Any = (
                    unpack(event.result)
                    if self._definition is None
                    else self._definition.result.decode(event.result)
                )
                return value  # type: ignore[no-any-return]
            case RunFailed():
                failure = event.failure
                exceptions = (
                    ExceptionRegistry() if self._definition is None else self._definition.exceptions
                )
                raise WorkflowFailed(
                    workflow_id=self.workflow_id,
                    type=failure.type,
                    message=f"{failure.type}: {failure.message}",
                    traceback=failure.traceback,
                ) from decode_failure(failure, exceptions, strict=False)
            case RunCancelled():
                raise WorkflowCancelled(workflow_id=self.workflow_id, reason=event.reason)
            case RunTerminated():
                raise WorkflowTerminated(workflow_id=self.workflow_id, reason=event.reason)
            case RunTimedOut():
                raise WorkflowTimedOut(workflow_id=self.workflow_id, kind=event.timeout)
            case RunContinuedAsNew():
                raise AssertionError("a continued run is followed")

    # -------------------------------------------------------------------------------- messages

    @overload
    async def signal(
        self, signal: Signal[T], value: T, *, request_id: str | None = None
    ) -> None: ...
    @overload
    async def signal(self, signal: Signal[None], *, request_id: str | None = None) -> None: ...
    @overload
    async def signal(
        self, signal: str, value: Any = None, *, request_id: str | None = None
    ) -> None: ...
    async def signal(
        self, signal: Signal[Any] | str, value: Any = None, *, request_id: str | None = None
    ) -> None:
        """Send a value. Returns once it is stored for good: it is then delivered exactly once.

        Args:
            signal: the declared channel, or its name.
            value: of the declared type.
            request_id: the same id sends the value at most once, however often it is repeated.

        Raises:
            InvalidArguments: the value does not fit the declared type; nothing was sent.
            WorkflowClosed, WorkflowNotFound: nobody is there to receive it.
        """
        hooks = self._client.hooks
        if not hooks.signal_workflow:
            await self._send(signalled(signal, value), request_id)
            return

        async def send(given: Any) -> None:
            await self._send(signalled(signal, given), request_id)

        await around_signal(hooks, self.workflow_id, signal, value, send)

    async def cancel(self, reason: str = "", *, request_id: str | None = None) -> None:
        """Ask the workflow to stop: `CancelledError` is raised where it waits, and it may clean up.

        Returns once the request is stored. It is delivered once; asking again changes nothing.
        """
        hooks = self._client.hooks
        reason = reason or "no reason was given"
        if not hooks.cancel_workflow:
            await self._send(CancelRequested(reason), request_id)
            return

        async def send(given: str) -> None:
            await self._send(CancelRequested(given), request_id)

        await around_cancel(hooks, self.workflow_id, reason, send)

    async def _send(self, event: Input, request_id: str | None) -> None:
        check_request_id(request_id)
        target = self._target()
        owner = self._client.owner_of(target) if request_id is None else None
        if owner is not None:
            worker, run = owner
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def done(error: EverlongError | None) -> None:
                if future.done():
                    return
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

            worker.send(run, event, done)
            await future
            return
        await self._mail(target, event, request_id)

    async def _mail(self, target: Target, event: Input, request_id: str | None) -> MessageResult:
        """Leave a message in the inbox."""
        blobs: Blobs = {}
        kind, body = self._client.records.message(target, event, blobs)
        now_us = self._engine.clock.now_us()
        sent = self._engine.sent() if request_id is None else None
        message = Message(target, kind, body, now_us, request_id, blobs, sent)
        result = await self._engine.commits.put(message)
        assert isinstance(result, MessageResult)
        await self._require_accepted(result)
        self._engine.mail_arrived()
        return result

    @overload
    async def update(
        self, update: Update[T], *args: Any, update_id: str | None = None, **kwargs: Any
    ) -> T: ...
    @overload
    async def update(
        self, update: str, *args: Any, update_id: str | None = None, **kwargs: Any
    ) -> Any: ...
    async def update(
        self, update: Update[Any] | str, *args: Any, update_id: str | None = None, **kwargs: Any
    ) -> Any:
        """Ask the workflow to do something, and wait for the result.

            size = await handle.update(add_item, "apple", count=3)

        Args:
            update: the declared update, or its name.
            update_id: names the request: sent again, it has the same result and no second effect.
                A new one is made up unless given.

        Raises:
            UpdateRejected: the validator refused it, or its arguments do not fit.
            UpdateFailed: an exception left the handler; it is the `__cause__`.
            UpdateUnfinished: the workflow ended before the handler had finished.
            WorkflowBlocked: a fault in its code; the update is stored, and waits for the fix.
            WorkflowClosed, WorkflowNotFound: nobody is there to perform it.
        """
        sent = await self._send_update(update, args, kwargs, update_id)
        return await sent.result()

    @overload
    async def start_update(
        self, update: Update[T], *args: Any, update_id: str | None = None, **kwargs: Any
    ) -> UpdateHandle[T]: ...
    @overload
    async def start_update(
        self, update: str, *args: Any, update_id: str | None = None, **kwargs: Any
    ) -> UpdateHandle[Any]: ...
    async def start_update(
        self, update: Update[Any] | str, *args: Any, update_id: str | None = None, **kwargs: Any
    ) -> UpdateHandle[Any]:
        """The same, but return once the workflow has accepted it: it is then recorded for good.

        Raises:
            UpdateRejected, WorkflowBlocked, WorkflowClosed, WorkflowNotFound: as `update`.
        """
        sent = await self._send_update(update, args, kwargs, update_id)
        await sent.wait(until=BEGUN)
        return sent

    @overload
    async def get_update(self, update_id: str, update: Update[T]) -> UpdateHandle[T]: ...
    @overload
    async def get_update(self, update_id: str, update: str = "?") -> UpdateHandle[Any]: ...
    async def get_update(
        self, update_id: str, update: Update[Any] | str = "?"
    ) -> UpdateHandle[Any]:
        """A handle of an update that was sent before. Give the update to have its result rebuilt.

        Raises:
            WorkflowNotFound: there is no such execution.
        """
        check_request_id(update_id, "update_id")
        row = await self._row()
        return self.update_handle(row.execution_id, update_id, update)

    async def _send_update(
        self, update: Update[T] | str, args: Any, kwargs: Any, update_id: str | None
    ) -> UpdateHandle[T]:
        check_request_id(update_id, "update_id")
        if update_id is None:
            update_id = f"{self._engine.random.getrandbits(64):016x}"
        name = name_of_update(update_id)

        async def send(args: Any, kwargs: Any, headers: bytes = b"") -> UpdateHandle[T]:
            event = requested(update, update_id, args, kwargs, headers)
            result = await self._mail(self._target(), event, name)
            return self.update_handle(result.execution_id, update_id, update)

        hooks = self._client.hooks
        if not hooks.update_workflow:
            return await send(args, kwargs)
        handle: UpdateHandle[T] = await around_update(
            hooks, self.workflow_id, update, update_id, args, kwargs, send
        )
        return handle

    def update_handle(
        self, execution_id: bytes, update_id: str, update: Update[T] | str
    ) -> UpdateHandle[T]:
        """Not public: of an update that was sent to this very execution."""
        target = self._engine.target(self._client.namespace, self.workflow_id, execution_id)
        return UpdateHandle(
            self._client,
            target,
            update_id,
            update if isinstance(update, str) else update.name,
            value=None if isinstance(update, str) else update.value,
            exceptions=None if self._definition is None else self._definition.exceptions,
        )

    @overload
    async def query(
        self, query: Query[T], *args: Any, timeout: float = 10.0, **kwargs: Any
    ) -> T: ...
    @overload
    async def query(self, query: str, *args: Any, timeout: float = 10.0, **kwargs: Any) -> Any: ...
    async def query(
        self, query: Query[Any] | str, *args: Any, timeout: float = 10.0, **kwargs: Any
    ) -> Any:
        """Ask a question that the workflow answers from its state, also after its end.

        Args:
            query: the declared query, or its name.
            timeout: seconds to wait for a worker in another process.

        Raises:
            QueryFailed: no such query, its handler raised, or the run is blocked.
            NoAnswer: no worker answered in time.
        """
        hooks = self._client.hooks
        if not hooks.query_workflow:
            return await self._query(query, args, kwargs, timeout)

        async def ask(args: Any, kwargs: Any, headers: bytes) -> Any:
            return await self._query(query, args, kwargs, timeout, headers)

        return await around_query(hooks, self.workflow_id, query, args, kwargs, ask)

    async def _query(
        self,
        query: Query[Any] | str,
        args: Any,
        kwargs: Any,
        timeout_s: float,
        headers: bytes = b"",
    ) -> Any:
        name = name_of(query, Query)
        arguments = _call(f"query {name}", args, kwargs, headers)
        target = self._target()
        worker = self._client.host_for(target)
        if worker is not None:
            answer = await worker.query(
                target.namespace, self.workflow_id, self._execution_id, name, arguments
            )
        else:
            answer = await self._ask(name, arguments, timeout_s)
        decoder: Value | None = None if isinstance(query, str) else query.value
        return unpack(answer) if decoder is None else decoder.decode(answer)

    async def _ask(self, name: str, arguments: bytes, timeout_s: float) -> bytes:
        """Through the store, to the process that owns it."""
        engine = self._engine
        now_us = engine.clock.now_us()
        question_id = engine.ids.next(now_us)
        target, records = self._target(), self._client.records
        sent = records.question(target, question_id, name, arguments)
        ask = Ask(question_id, target, name, sent, now_us)
        result = await engine.commits.put(ask)
        engine.mail_arrived()  # A worker of this process may be the one to answer.
        assert isinstance(result, MessageResult)
        if result.status is None:
            raise WorkflowNotFound(workflow_id=self.workflow_id)
        if result.status is RunStatus.MOVED:
            require_here(await self._row())
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    changed = self._engine.changed()
                    found = await engine.store.answer(question_id)
                    if found is not None:
                        changed.cancel()
                        break
                    await changed
        except TimeoutError as error:
            row = await engine.store.latest(target)
            pinned = "" if row is None or row.version is None else f" in version {row.version}"
            raise NoAnswer(
                workflow_id=self.workflow_id, what=f"the workflow{pinned}", timeout_s=timeout_s
            ) from error
        finally:
            with suppress(StoreError):  # Closed, say. Whoever sweeps the store forgets it too.
                await engine.store.forget_question(question_id)
        ok, answer = found
        if not ok:
            refusal = records.refused(target, question_id, name, answer)
            raise QueryFailed(refusal, workflow_id=self.workflow_id, query=name)
        return records.answered(target, question_id, name, answer)

    # --------------------------------------------------------------------------------- outputs

    @overload
    def subscribe(
        self,
        channel: Output[T],
        start: int = 0,
        *,
        numbered: Literal[False] = False,
        live: bool = True,
    ) -> AsyncIterator[T]: ...
    @overload
    def subscribe(
        self, channel: Output[T], start: int = 0, *, numbered: Literal[True], live: bool = True
    ) -> AsyncIterator[PublishedItem[T]]: ...
    @overload
    def subscribe(
        self, channel: str, start: int = 0, *, numbered: Literal[False] = False, live: bool = True
    ) -> AsyncIterator[Any]: ...
    @overload
    def subscribe(
        self, channel: str, start: int = 0, *, numbered: Literal[True], live: bool = True
    ) -> AsyncIterator[PublishedItem[Any]]: ...
    def subscribe(
        self,
        channel: Output[Any] | str,
        start: int = 0,
        *,
        numbered: bool = False,
        live: bool = True,
    ) -> AsyncIterator[Any]:
        """What the execution publishes, in order and without gaps, from item `start` on.

        It waits for items to come, over checkpoints and restarts of workers, and ends when the
        execution has ended and everything was read. Any number of subscribers, in any process, read
        each for itself. What people get wrong: who goes on later must remember the number of the
        last item, which `numbered=True` tells, and start behind it.

            async for item in handle.subscribe(progress):
                print(item.done)

        Args:
            channel: a declared `Output`, or its name.
            start: the number of the first item that is wanted; they count from 0, which also means
                the oldest that is kept.
            numbered: give each item as a `PublishedItem`, with its number and time.
            live: False ends it behind the last item that is there now.

        Raises:
            WorkflowNotFound: there is no such execution, or it went with its retention.
            ItemsGone: item `start`, or the next one for a subscriber that is slow, is not kept any
                more (`Output(keep=…)`). Nothing is passed over in silence.
            UndecodablePayload: an item does not fit the declared type, or is damaged.
        """
        if type(start) is not int or start < 0:
            raise ValueError(f"start={start!r}: give the number of an item; they count from 0")
        declared = output_of(channel)
        name = storable(channel if isinstance(channel, str) else channel.name, "channel")
        decoder = None if declared is None else declared.value
        target = self._target()
        items = follow(self._client, target, name, decoder, start, live=live)
        return items if numbered else _values(items)

    # -------------------------------------------------------------------------------- to look at

    async def describe(self) -> ExecutionDescription:
        """How it stands: status, pending activities with their last errors, timers, approvals."""
        row = await self._row()
        store = self._engine.store
        loaded = await store.load(row.shard, row.run_id)
        if loaded is None:
            raise WorkflowNotFound(workflow_id=self.workflow_id)
        records = self._client.records
        workers = await store.workers()
        there = [one for one in workers if one.is_there]
        owner = next((one.name for one in there if one.worker_id == loaded.row.owner), None)
        hosted = any(one.may_drive(row.type, row.version) for one in there)
        reason = records.shown_reason(loaded.row)
        asked = any(isinstance(one.event, ApprovalRequested) for one in loaded.history)
        tags = await store.tags([(row.shard, row.run_id)])
        return describe(
            records.shown(loaded),
            owner,
            reason,
            await held_by(self._client, loaded.row),
            hosted=hosted,
            approvals=await self._client.open_of(loaded.row) if asked else (),
            tags=tags.get(row.run_id, ()),
            start=records.start_of(loaded),
            now_us=self._engine.clock.now_us(),
        )

    def now_us(self) -> int:
        """Not public: what the clock of its store says."""
        return self._engine.clock.now_us()

    async def waiting_start(self) -> RunStarted | None:
        """Not public: with what the current run is to begin, as long as it has not."""
        row = await self._row()
        loaded = await self._engine.store.load(row.shard, row.run_id)
        return None if loaded is None else self._client.records.start_of(loaded)

    async def history(self, run_id: str | None = None) -> list[HistoryEvent]:
        """The events of the current run (or of an earlier one), with the attempts of activities."""
        row = await self._row(run_id)
        loaded = await self._engine.store.load(row.shard, row.run_id)
        if loaded is None:
            raise WorkflowNotFound(workflow_id=self.workflow_id)
        loaded = self._client.records.shown(loaded)
        return view_history(loaded.history, loaded.attempts)


async def _values(items: AsyncIterator[PublishedItem[T]]) -> AsyncIterator[T]:
    async for item in items:
        yield item.value


def signalled(signal: Signal[Any] | str, value: Any) -> SignalReceived:
    """A value as a message. Raises InvalidArguments where it does not fit the declared type."""
    return SignalReceived(*sent(signal, value))


def requested(
    update: Update[Any] | str,
    update_id: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    headers: bytes = b"",
) -> UpdateReceived:
    name = name_of(update, Update)
    return UpdateReceived(update_id, name, _call(f"update {name}", args, kwargs, headers))


def _call(owner: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], headers: bytes) -> bytes:
    """Positional ones under their numbers: only the handler knows its names. Headers follow."""
    call: list[Any] = [list(args), dict(kwargs)]
    if headers:
        call.append(headers)
    return within_limit(f"the call of {owner}", pack(call))
