"""Other executions, seen from inside a workflow: children, and whatever else has a workflow id.

A child is begun by calling a workflow inside a workflow. It is an execution of its own, with its
own history, and whichever worker hosts it runs it. Here are its options and the handles; what they
do is decided by the run, and happens with the commit of that decision.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Generic, ParamSpec, TypeVar, overload

from everlong._context import calling_frame, current_run, source_line
from everlong._definitions import WorkflowDefinition, run_policy
from everlong._texts import checked_id
from everlong.channels import Signal, sent
from everlong.exceptions import EverlongError
from everlong.labels import TagValue, checked_memo, checked_tags
from everlong_engine import (
    ON_CANCEL,
    IfClosed,
    IfOpen,
    OnCancel,
    OnParentClose,
    Retry,
    Tags,
    seconds_us,
)

__all__ = ["ChildHandle", "ChildOptions", "ChildWorkflow", "ExternalHandle"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ChildOptions:
    """What a child is begun with. Validated when made."""

    id: str | None = None
    on_parent_close: OnParentClose = "terminate"
    on_cancel: OnCancel = "wait"
    if_open: IfOpen = "fail"
    if_closed: IfClosed = "allow"
    run_timeout_us: int | None = None
    execution_timeout_us: int | None = None
    tags: Tags = ()
    memo: bytes = b""
    headers: bytes = b""
    retry: tuple[Any, ...] | None = None
    """None: as its workflow says."""


DEFAULTS: Final = ChildOptions()


class ChildWorkflow(Generic[P, R]):
    """A workflow with options, to be begun as a child: what `workflow.options(…)` returns."""

    def __init__(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        definition: WorkflowDefinition,
        options: ChildOptions,
    ) -> None:
        self.function = function
        self.definition = definition
        self._options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """In a workflow: run it as a child. Anywhere else: just the bare coroutine."""
        return called(self.function, self.definition, self._options, args, kwargs)

    def start(self, *args: P.args, **kwargs: P.kwargs) -> "Coroutine[object, None, ChildHandle[R]]":
        """Begin it as a child; returns once it is there. In a workflow only."""
        return started(self.definition, self._options, args, kwargs)

    def options(
        self,
        *,
        id: str | None = None,
        on_parent_close: OnParentClose | None = None,
        on_cancel: OnCancel | None = None,
        if_open: IfOpen | None = None,
        if_closed: IfClosed | None = None,
        run_timeout: float | timedelta | None = None,
        execution_timeout: float | timedelta | None = None,
        retry: Retry | None = None,
        tags: Mapping[str, TagValue] | None = None,
        memo: Any = None,
    ) -> "ChildWorkflow[P, R]":
        """The same with further options; those that are not given stay as they are."""
        changed = with_options(
            self._options,
            id,
            on_parent_close,
            on_cancel,
            if_open,
            if_closed,
            run_timeout,
            execution_timeout,
            retry,
        )
        changed = with_labels(changed, tags, memo)
        return ChildWorkflow(self.function, self.definition, changed)

    def __repr__(self) -> str:
        return f"<child workflow {self.definition.name}>"


def with_options(
    options: ChildOptions,
    id: str | None,
    on_parent_close: OnParentClose | None,
    on_cancel: OnCancel | None,
    if_open: IfOpen | None,
    if_closed: IfClosed | None,
    run_timeout: float | timedelta | None,
    execution_timeout: float | timedelta | None,
    retry: Retry | None,
) -> ChildOptions:
    """Only what was given is changed. Raises ValueError, TypeError, InvalidArguments."""
    changes: dict[str, Any] = {}
    if id is not None:
        changes["id"] = checked_id(id)
    choices = (
        ("on_parent_close", on_parent_close, ("terminate", "cancel", "abandon")),
        ("on_cancel", on_cancel, ON_CANCEL),
        ("if_open", if_open, ("use", "fail", "terminate")),
        ("if_closed", if_closed, ("allow", "fail", "allow_failed")),
    )
    for name, value, known in choices:
        if value is None:
            continue
        if value not in known:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(known)}")
        changes[name] = value
    for name, given in (("run_timeout", run_timeout), ("execution_timeout", execution_timeout)):
        if given is not None:
            duration = seconds_us(given, name)
            if duration == 0:
                raise ValueError(f"{name} must be more than 0 seconds")
            changes[f"{name}_us"] = duration
    if retry is not None:
        changes["retry"] = run_policy(retry, "options(retry=…)")
    return replace(options, **changes)


def with_labels(
    options: ChildOptions, tags: Mapping[str, TagValue] | None, memo: Any
) -> ChildOptions:
    """The same for what it is found by. Raises InvalidTag, NotSerializable, PayloadTooLarge."""
    if tags is not None:
        options = replace(options, tags=checked_tags(tags))
    return options if memo is None else replace(options, memo=checked_memo(memo))


def called(
    function: Callable[..., Coroutine[Any, Any, Any]],
    definition: WorkflowDefinition,
    options: ChildOptions,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Coroutine[Any, Any, Any]:
    """One call of a workflow."""
    run = current_run()
    if run is None:
        return function(*args, **kwargs)
    # Arguments are checked here, at the call, where the traceback shows the culprit's line.
    arguments = definition.parameters.encode(args, kwargs)
    where = source_line(calling_frame(2))
    # Looked up here: what may not decide anything (a query) raises at the call, awaited or not.
    return _called(run.others.call_child, definition, options, arguments, where)


def started(
    definition: WorkflowDefinition,
    options: ChildOptions,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> "Coroutine[Any, Any, ChildHandle[Any]]":
    """One call of `start`."""
    run = current_run()
    if run is None:
        raise EverlongError(
            f"{definition.name}.start() begins a child, so it belongs in a workflow; from outside "
            "use client.start(…)"
        )
    arguments = definition.parameters.encode(args, kwargs)
    where = source_line(calling_frame(2))
    return _started(run.others.start_child, definition, options, arguments, where)


# Coroutines of their own, with these names: one that nobody awaits is told by them.


async def _called(
    call: Callable[..., Coroutine[Any, Any, Any]],
    definition: WorkflowDefinition,
    options: ChildOptions,
    arguments: bytes,
    where: str,
) -> Any:
    return await call(definition, options, arguments, where)


async def _started(
    start: Callable[..., Coroutine[Any, Any, Any]],
    definition: WorkflowDefinition,
    options: ChildOptions,
    arguments: bytes,
    where: str,
) -> "ChildHandle[Any]":
    return ChildHandle(await start(definition, options, arguments, where))


class _Handle(ABC, Generic[R]):
    """What both kinds of handles can do. Only in the workflow that made them."""

    workflow_id: str
    _execution: bytes | None = None

    @abstractmethod
    async def result(self) -> R:
        """Wait for the end and return what the workflow returned."""

    def __await__(self) -> Generator[Any, Any, R]:
        return self.result().__await__()

    @overload
    async def signal(self, signal: Signal[T], value: T) -> None: ...
    @overload
    async def signal(self, signal: Signal[None]) -> None: ...
    @overload
    async def signal(self, signal: str, value: Any = None) -> None: ...
    async def signal(self, signal: Signal[Any] | str, value: Any = None) -> None:
        """Send a value: delivered exactly once, in the order of the sends.

        Returns once it lies in the other's inbox, which does not mean that it was received.

        Raises:
            InvalidArguments: the value does not fit the declared type; nothing was sent.
            WorkflowNotFound, WorkflowClosed: nobody is there to receive it.
        """
        name, payload = sent(signal, value)
        others = _others(self)
        await others.signal(self.workflow_id, self._execution, name, payload)

    async def cancel(self, reason: str = "") -> None:
        """Ask it to stop: `CancelledError` is raised where it waits, and it may clean up.

        Returns once the request lies in its inbox. Asking again changes nothing.

        Raises:
            WorkflowNotFound, WorkflowClosed: there is nothing to cancel.
        """
        others = _others(self)
        await others.cancel(self.workflow_id, self._execution, reason or "no reason was given")


def _others(handle: _Handle[Any]) -> Any:
    run = current_run()
    if run is None:
        raise EverlongError(
            f"the handle of {handle.workflow_id!r} was made inside a workflow and works there; "
            "from outside use client.get_handle(…)"
        )
    return run.others


class ChildHandle(_Handle[R]):
    """A child, from `await workflow.start(…)` inside a workflow.

    What people get wrong: to cancel the task that waits for `result()` only ends the waiting, and
    the child goes on; `cancel()` asks the child. (Cancelling a call, `await workflow(…)`, asks it.)

        handle = await ship.start(order)
        await handle.signal(address, new_address)
        receipt = await handle.result()
    """

    def __init__(self, child: Any) -> None:
        self._child = child
        self._execution = child.execution
        self.workflow_id: str = child.workflow_id

    async def result(self) -> R:
        """Wait for the child's end and return what it returned, also when it began anew between.

        Raises:
            WorkflowFailed: an exception left the child; it is the `__cause__`.
            WorkflowCancelled, WorkflowTerminated, WorkflowTimedOut: it ended so.
        """
        value: R = await _others(self).child_end(self._child)
        return value

    def __repr__(self) -> str:
        return f"<ChildHandle {self.workflow_id}>"


class ExternalHandle(_Handle[R]):
    """Any other execution, by its workflow id: from `get_handle(…)` inside a workflow.

    It means whatever execution has the id when the call is recorded.

        await get_handle("inventory").signal(reserve, item)
    """

    def __init__(self, workflow_id: str, definition: WorkflowDefinition | None) -> None:
        self.workflow_id = workflow_id
        self._definition = definition

    async def result(self) -> R:
        """Wait for its end and return what it returned, also when it began anew between.

        Cancelling the task that waits leaves the other execution alone.

        Raises:
            WorkflowNotFound: there is no such execution.
            WorkflowFailed, WorkflowCancelled, WorkflowTerminated, WorkflowTimedOut: how it ended.
        """
        value: R = await _others(self).end_of(self.workflow_id, self._definition)
        return value

    def __repr__(self) -> str:
        return f"<ExternalHandle {self.workflow_id}>"


def external(workflow_id: str, definition: WorkflowDefinition | None) -> ExternalHandle[Any]:
    """A handle for `get_handle`."""
    if current_run() is None:
        raise EverlongError(
            "get_handle() belongs in a workflow; from outside use client.get_handle(…)"
        )
    return ExternalHandle(checked_id(workflow_id), definition)
