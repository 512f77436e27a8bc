"""Other executions inside a run: children, messages to others, and waits for their end.

Each has a number of the run, like an activity. What comes back bears it. A child that is called is
its caller's: cancelling the caller asks the child to stop, and its `on_cancel` says whether its end
is waited for. One that was started has a handle, and goes on whoever waits for it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any, Final, TypeAlias

from everlong._context import user_line
from everlong._definitions import WorkflowDefinition
from everlong._failures import ExceptionRegistry, decode_failure
from everlong._replay.anyio_adapter import message_of
from everlong._replay.identity import Named, naming_seed_of, workflow_id_of
from everlong._replay.intercepting import call_child
from everlong._replay.loop import WorkflowFuture, WorkflowLoop
from everlong._texts import ID_CHARS_MAX
from everlong.children import ChildOptions
from everlong.exceptions import (
    EverlongError,
    InvalidArguments,
    NondeterminismError,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowFailed,
    WorkflowFault,
    WorkflowNotFound,
    WorkflowTerminated,
    WorkflowTimedOut,
)
from everlong_engine import (
    ChildCancelRequested,
    ChildClosed,
    ChildScheduled,
    ChildStarted,
    ChildStartFailed,
    Decision,
    ExternalAnswered,
    ExternalAwaited,
    ExternalCancelSent,
    ExternalSignalSent,
    unpack,
)

__all__ = ["ANSWERS", "Child", "Others"]

_NOT_FOUND: Final = "not_found"
ANSWERS: Final = (ChildStarted, ChildStartFailed, ChildClosed, ExternalAnswered)
"""What comes back from other executions."""
_Answers: TypeAlias = ChildStarted | ChildStartFailed | ChildClosed | ExternalAnswered


class _Awaited:
    """Something that ends once, and whoever waits for it."""

    def __init__(self) -> None:
        self.waiters: list[asyncio.Future[None]] = []
        self.is_over = False
        self._value: Any = None
        self._error: Exception | None = None

    def end(self, value: Any = None, error: Exception | None = None) -> None:
        self.is_over, self._value, self._error = True, value, error
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until_over(self, create_future: Callable[[], asyncio.Future[None]]) -> None:
        while not self.is_over:
            waiter = create_future()
            self.waiters.append(waiter)
            try:
                await waiter
            finally:
                self.waiters.remove(waiter)

    async def wait(self, create_future: Callable[[], asyncio.Future[None]]) -> Any:
        await self.until_over(create_future)
        if self._error is not None:
            raise self._error
        return self._value


class _Patient(WorkflowFuture[None]):
    """Whoever awaits it was cancelled already, and stays suspended until it is done."""

    def __init__(self, loop: WorkflowLoop, error: asyncio.CancelledError) -> None:
        super().__init__(loop)
        self._error = error

    def cancel(self, msg: Any = None) -> bool:
        first = self._error.args[0] if self._error.args else None
        if (message := message_of(first, msg)) is not first:
            self._error.args = (message,)
        return not self.done()


class Child:
    """One that this run has begun."""

    def __init__(self, decision: ChildScheduled, definition: WorkflowDefinition) -> None:
        self.decision = decision
        self.definition = definition
        self.workflow_id = decision.target
        self.execution: bytes | None = None
        self.start = _Awaited()
        self.end = _Awaited()


class _Ending(_Awaited):
    """The end of an execution that is no child."""

    def __init__(self, decision: ExternalAwaited, definition: WorkflowDefinition | None) -> None:
        super().__init__()
        self.decision = decision
        self.definition = definition


class _Call(_Awaited):
    """A message on its way."""

    def __init__(self, decision: ExternalSignalSent | ExternalCancelSent) -> None:
        super().__init__()
        self.decision = decision


class Others:
    """All of them for one run."""

    def __init__(self, run: Named) -> None:
        self._run = run
        self._children: dict[int, Child] = {}
        self._endings: dict[int, _Ending] = {}
        self._calls: dict[int, _Call] = {}

    # -------------------------------------------------------------------------------- children

    async def call_child(
        self, definition: WorkflowDefinition, options: ChildOptions, arguments: bytes, where: str
    ) -> Any:
        """Run a workflow as a child, and return its result."""
        hooks = self._run.hooks
        if hooks is None or not hooks.call_child:
            return await self._call(definition, options, arguments, where)

        async def begins(changed: bytes, headers: bytes) -> Any:
            return await self._call(definition, replace(options, headers=headers), changed, where)

        return await call_child(self._run, hooks, definition, arguments, begins, waits=True)

    async def _call(
        self, definition: WorkflowDefinition, options: ChildOptions, arguments: bytes, where: str
    ) -> Any:
        child = self._schedule(definition, options, arguments, where, wants_start=False)
        try:
            return await child.end.wait(self._run.loop.create_future)
        except asyncio.CancelledError as error:
            if self._ask_to_cancel(child, error):
                # Whatever comes of the child, the cancellation stands (decision 0010).
                await child.end.until_over(partial(_Patient, self._run.loop, error))
            raise

    async def start_child(
        self, definition: WorkflowDefinition, options: ChildOptions, arguments: bytes, where: str
    ) -> Child:
        """Begin a child, and return it once it is there."""
        hooks = self._run.hooks
        if hooks is None or not hooks.call_child:
            return await self._start(definition, options, arguments, where)

        async def begins(changed: bytes, headers: bytes) -> Child:
            return await self._start(definition, replace(options, headers=headers), changed, where)

        begun = await call_child(self._run, hooks, definition, arguments, begins, waits=False)
        if not isinstance(begun, Child):
            self._run.stop_with(
                WorkflowFault(
                    "call_child of an interceptor returned something else than came back from "
                    f"next() for {definition.name}.start(…): {begun!r:.80}"
                )
            )
        return begun

    async def _start(
        self, definition: WorkflowDefinition, options: ChildOptions, arguments: bytes, where: str
    ) -> Child:
        child = self._schedule(definition, options, arguments, where, wants_start=True)
        try:
            await child.start.wait(self._run.loop.create_future)
        except asyncio.CancelledError as error:
            self._ask_to_cancel(child, error)  # Nobody has a handle of it.
            raise
        return child

    async def child_end(self, child: Child) -> Any:
        self._run.require_live()
        return await child.end.wait(self._run.loop.create_future)

    def _schedule(
        self,
        definition: WorkflowDefinition,
        options: ChildOptions,
        arguments: bytes,
        where: str,
        *,
        wants_start: bool,
    ) -> Child:
        run = self._run
        run.require_live()
        assert run.started is not None
        if options.id == workflow_id_of(run):
            raise InvalidArguments(
                f"id={options.id!r} is the workflow id of this very execution: give its child "
                "another one"
            )
        number = run.new_id()
        decision = ChildScheduled(
            number,
            definition.name,
            options.id or self._id_of(definition, number),
            arguments,
            where,
            options.on_parent_close,
            options.if_open,
            options.if_closed,
            options.run_timeout_us,
            options.execution_timeout_us,
            wants_start,
            options.tags,
            options.memo,
            "try" if wants_start else options.on_cancel,
            options.headers,
            options.retry,
        )
        run.made.append(decision)
        child = self._children[number] = Child(decision, definition)
        return child

    def _id_of(self, definition: WorkflowDefinition, number: int) -> str:
        """By the run's seed: numbers begin anew in each run, and an abandoned child may outlive the
        execution that bore the same workflow id."""
        seed = naming_seed_of(self._run) & 0xFFFF_FFFF
        chosen = f"{workflow_id_of(self._run)}/{seed:08x}-{number}"
        if len(chosen) <= ID_CHARS_MAX:
            return chosen
        # Children of children of children: their names would grow without end.
        return f"{definition.name:.400}/{sha256(chosen.encode()).hexdigest()[:32]}"

    def _ask_to_cancel(self, child: Child, error: asyncio.CancelledError) -> bool:
        """What a cancellation means for a child; whether its end is to be waited for."""
        run, decision = self._run, child.decision
        number = decision.child_id
        if self._children.get(number) is not child:
            return False  # It is over.
        run.require_live()
        if run.net_out(decision):
            del self._children[number]
            return False
        if decision.on_cancel == "abandon":
            return False
        reason = str(error.args[0]) if error.args and error.args[0] else ""
        words = reason or "its parent does not wait for it any more"
        run.made.append(ChildCancelRequested(number, child.workflow_id, words))
        if decision.on_cancel == "wait":
            return True
        del self._children[number]
        return False

    def keep_options(self, recorded: ChildScheduled) -> None:
        """What was in force when a child was scheduled stays so, whatever the code says now."""
        child = self._children.get(recorded.child_id)
        if child is not None:
            child.decision = recorded

    # ---------------------------------------------------------------------------------- others

    async def signal(
        self, target: str, execution: bytes | None, signal: str, payload: bytes
    ) -> None:
        self._run.require_live()
        number = self._run.new_id()
        await self._send(
            number,
            ExternalSignalSent(number, target, execution, signal, payload, user_line()),
        )

    async def cancel(self, target: str, execution: bytes | None, reason: str) -> None:
        self._run.require_live()
        number = self._run.new_id()
        await self._send(number, ExternalCancelSent(number, target, execution, reason, user_line()))

    async def _send(self, number: int, decision: ExternalSignalSent | ExternalCancelSent) -> None:
        run = self._run
        run.made.append(decision)
        call = self._calls[number] = _Call(decision)
        try:
            await call.wait(run.loop.create_future)
        except asyncio.CancelledError:
            # Sent is sent; what was not is forgotten without a trace.
            if number in self._calls and run.net_out(decision):
                del self._calls[number]
            raise

    async def end_of(self, target: str, definition: WorkflowDefinition | None) -> Any:
        """Wait for the end of any execution, and return its result."""
        run = self._run
        run.require_live()
        assert run.started is not None
        if target == workflow_id_of(run):
            raise EverlongError(f"{target!r} is this very execution: it would wait for itself")
        ending = self._ending(target, definition)
        try:
            return await ending.wait(run.loop.create_future)
        except asyncio.CancelledError:
            # On record, it is kept: whoever waits for the same again need not ask again.
            if not (ending.is_over or ending.waiters) and run.net_out(ending.decision):
                del self._endings[ending.decision.call_id]
            raise

    def _ending(self, target: str, definition: WorkflowDefinition | None) -> _Ending:
        run = self._run
        for known in self._endings.values():
            if known.decision.target == target and known.definition is definition:
                return known
        decision = ExternalAwaited(run.new_id(), target, user_line())
        run.made.append(decision)
        made = self._endings[decision.call_id] = _Ending(decision, definition)
        return made

    # ------------------------------------------------------------------------------ what comes back

    def is_open(self, event: _Answers) -> bool:
        """Whether the code still waits for this."""
        match event:
            case ChildStarted() | ChildStartFailed():
                return event.child_id in self._children
            case ChildClosed():
                return event.child_id in self._children or event.child_id in self._endings
            case ExternalAnswered():
                return event.call_id in self._calls or event.call_id in self._endings

    def take(self, event: _Answers) -> None:
        """One of the inputs of this family."""
        if not self.is_open(event):
            raise NondeterminismError(
                recorded=f"{type(event).__name__} for another execution that nobody here waits for",
                made="no such child, message or wait is open",
            )
        match event:
            case ChildStarted():
                child = self._children[event.child_id]
                child.execution = event.execution
                child.start.end()
            case ChildStartFailed():
                child = self._children.pop(event.child_id)
                error = WorkflowAlreadyStarted(workflow_id=child.workflow_id, status=event.status)
                child.start.end(error=error)
                child.end.end(error=error)
            case ChildClosed():
                self._take_end(event)
            case ExternalAnswered():
                self._take_answer(event)

    def _take_end(self, event: ChildClosed) -> None:
        child = self._children.get(event.child_id)
        if child is None:
            ending = self._endings[event.child_id]
            _end(ending, event, ending.decision.target, ending.definition)
            del self._endings[event.child_id]
        else:
            _end(child.end, event, child.workflow_id, child.definition)
            del self._children[event.child_id]

    def _take_answer(self, event: ExternalAnswered) -> None:
        call: _Call | _Ending | None = self._calls.pop(event.call_id, None)
        call = call or self._endings.pop(event.call_id)
        target = call.decision.target
        if not event.problem:
            call.end()
        elif event.problem == _NOT_FOUND:
            call.end(error=WorkflowNotFound(workflow_id=target))
        else:
            call.end(error=WorkflowClosed(workflow_id=target, status=event.problem))

    # ------------------------------------------------------------------------------ what others ask

    def in_flight(self) -> list[str]:
        """What would be lost if the run ended now. A child that nobody waits for is not: it goes
        on, and can be found by its workflow id."""
        return [
            *(
                f"child {child.workflow_id}"
                for child in self._children.values()
                if child.end.waiters or child.start.waiters
            ),
            *(f"message to {call.decision.target}" for call in self._calls.values()),
            *(f"end of {one.decision.target}" for one in self._endings.values() if one.waiters),
        ]

    def definition_of(self, child_id: int) -> WorkflowDefinition:
        """What a child runs that was scheduled in this very drive."""
        return self._children[child_id].definition

    def canonical(self, decision: Decision, recorded: bytes) -> bytes:
        """Recorded arguments as today's types write them."""
        if isinstance(decision, ChildScheduled):
            child = self._children.get(decision.child_id)
            if child is not None:
                return child.definition.parameters.canonical(recorded)
        return recorded


def _end(
    awaited: _Awaited, event: ChildClosed, workflow_id: str, definition: WorkflowDefinition | None
) -> None:
    """Decoded here, while the input is fed: what cannot be is a fault, not an exception of code."""
    if event.failure is not None:
        failure = event.failure
        failed = WorkflowFailed(
            workflow_id=workflow_id,
            type=failure.type,
            message=f"{failure.type}: {failure.message}",
            traceback=failure.traceback,
        )
        if definition is None:
            failed.__cause__ = decode_failure(failure, ExceptionRegistry(), strict=False)
        else:
            failed.__cause__ = decode_failure(failure, definition.exceptions)
        awaited.end(error=failed)
        return
    match event.status:
        case "completed":
            value: Any = (
                unpack(event.result)
                if definition is None
                else definition.result.decode(event.result)
            )
            awaited.end(value)
        case "cancelled":
            awaited.end(error=WorkflowCancelled(workflow_id=workflow_id, reason=event.reason))
        case "terminated":
            awaited.end(error=WorkflowTerminated(workflow_id=workflow_id, reason=event.reason))
        case _:
            awaited.end(error=WorkflowTimedOut(workflow_id=workflow_id, kind=event.reason))
