"""Workflows: async functions that are replayed from their journal, and what they may call.

A workflow decides; activities do. Inside one, asyncio's `sleep`, `gather`, `timeout`, `TaskGroup`
and the like are durable, and time and randomness are the run's own.
"""

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Generic, NoReturn, ParamSpec, Protocol, TypeVar, overload
from uuid import UUID

from everlong import registry
from everlong._context import RunPort, activity_context, calling_frame, current_run, source_line
from everlong._definitions import (
    OWN,
    Versioning,
    WorkflowDefinition,
    check_versioning,
    run_policy,
)
from everlong._failures import ExceptionRegistry
from everlong._info import ActivityInfo, WorkflowInfo
from everlong._purity import check_definition
from everlong._values import Parameters, Value, resolve_hints
from everlong.children import (
    DEFAULTS,
    ChildHandle,
    ChildWorkflow,
    ExternalHandle,
    called,
    external,
    started,
    with_labels,
    with_options,
)
from everlong.exceptions import DefinitionError, EverlongError
from everlong.labels import TagValue
from everlong.pools import TurnRule, WorkflowPool
from everlong_engine import IfClosed, IfOpen, OnCancel, OnParentClose, Retry, seconds_us

__all__ = [
    "Workflow",
    "all_handlers_finished",
    "checkpoint",
    "continue_as_new",
    "deprecate_patch",
    "get_handle",
    "info",
    "now",
    "patched",
    "random",
    "side_effect",
    "uuid4",
    "wait_condition",
    "workflow",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Workflow(Generic[P, R]):
    """A function decorated with `@workflow`. Start it through a `Client`."""

    def __init__(self, function: Callable[P, Coroutine[Any, Any, R]], definition: Any) -> None:
        self.function = function
        self.definition: WorkflowDefinition = definition
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """In a workflow: run it as a child, and return its result. Anywhere else: the bare
        coroutine, for unit tests with no engine.

        Cancelling the call asks the child to stop, and raises `CancelledError` when it has ended,
        whatever came of it; `options(on_cancel=…)` says otherwise. A child that fails raises
        `WorkflowFailed` with the child's exception as `__cause__`, as `handle.result()` does.
        """
        return called(self.function, self.definition, DEFAULTS, args, kwargs)

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, ChildHandle[R]]:
        """Begin it as a child; returns a handle once it is there. In a workflow only.

            handle = await ship.start(order)
            receipt = await handle.result()

        Raises:
            WorkflowAlreadyStarted: another execution has the workflow id of `options(id=…)`.
        """
        return started(self.definition, DEFAULTS, args, kwargs)

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
    ) -> ChildWorkflow[P, R]:
        """The same workflow with options, to be begun as a child.

            receipt = await ship.options(id=f"ship-{order.id}", on_parent_close="cancel")(order)

        What people get wrong: by default a child ends with its parent, whichever way that ends,
        and has no time to clean up. `on_parent_close="cancel"` lets it.

        Args:
            id: the child's workflow id; made from the parent's unless given.
            on_parent_close: when the parent's execution has ended and the child has not:
                "terminate" the child, "cancel" it (it may clean up), or "abandon" it: it goes on.
            on_cancel: when the call is cancelled: ask the child to cancel and "wait" for its end,
                "try": ask it and go on at once, or "abandon" it: nobody asks it.
            if_open: when an execution is open under the id: "fail", "use" it (it is then waited
                for, and nobody's child by that), or "terminate" it first.
            if_closed: when one has ended under the id: "allow" a new one, "fail", or
                "allow_failed" (a new one unless the last one completed).
            run_timeout, execution_timeout: seconds (or timedelta) after which the child's run, or
                its execution over all its runs, is closed as timed out.
            retry: when the child is tried again if it fails, in place of what its
                `@workflow(retry=…)` says; `Retry(max_attempts=1)` for never.
            tags, memo: what it is found by, and what people see beside it. A child has none of
                its parent's.
        """
        options = with_options(
            DEFAULTS,
            id,
            on_parent_close,
            on_cancel,
            if_open,
            if_closed,
            run_timeout,
            execution_timeout,
            retry,
        )
        labelled = with_labels(options, tags, memo)
        return ChildWorkflow(self.function, self.definition, labelled)

    def __repr__(self) -> str:
        return f"<workflow {self.definition.name}>"


class WorkflowDecorator(Protocol):
    """The type of `@workflow(…)` with options."""

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...


@overload
def workflow(function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *,
    name: str | None = None,
    raises: Iterable[type[Exception]] = (),
    versioning: Versioning | None = None,
    retry: Retry | None = None,
    pool: WorkflowPool | None = None,
    key: Callable[..., object] | None = None,
    priority: int | Callable[..., int] = 0,
) -> WorkflowDecorator: ...
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    raises: Iterable[type[Exception]] = (),
    versioning: Versioning | None = None,
    retry: Retry | None = None,
    pool: WorkflowPool | None = None,
    key: Callable[..., object] | None = None,
    priority: int | Callable[..., int] = 0,
) -> Any:
    """Make an async function a workflow: it survives crashes by being replayed from its journal.

    What people get wrong: everything in it must be decided the same way on replay. Do what touches
    the world in activities; take time from `now()` and chance from `random()`. A parameter is
    state that `checkpoint` carries on.

        @workflow
        async def order(order_id: int) -> str:
            await charge(order_id)
            await asyncio.sleep(3600)
            return "done"

    Args:
        name: how histories call it; the function's name unless given. Keep it when you rename.
        raises: exception classes that `handle.result()` raises as the cause, as themselves.
        versioning: which worker may go on with a run when there are several versions of the code.
            "auto": the newest that is here. "pinned": only one of the version with which it began,
            until the execution ends. "pinned_run": the same until it begins anew (`checkpoint`,
            `continue_as_new`), then the newest. What the worker says unless given.
        retry: when an execution that fails is tried again, from its beginning, as a new run behind
            the policy's back-off; see `Retry`. Never unless given. Most failures belong to an
            activity's `Retry` instead: this one does everything again.
        pool: limits how many executions are under way at once, over all workers; see
            `WorkflowPool`. Each takes one place in it, from its beginning to its end.
        key: gives an execution's key (a text or a number) by the workflow's arguments, as in
            `lambda order: order.customer`: keys that wait are served in turn, and the pool may
            limit each. It is stored as it is, also where codecs encrypt payloads.
        priority: of what waits in the pool, the larger goes first: a number, or a function of the
            arguments.

    Raises:
        DefinitionError: not an `async def`, a signature that cannot be recorded, a name that is
            taken, or a call that would not replay (`datetime.now`, `open`, …), with its line.
    """

    def decorate(function: Callable[..., Any]) -> Workflow[Any, Any]:
        made = _define(function, name, tuple(raises), versioning)
        if retry is not None:
            made.definition.retry = run_policy(retry, f"workflow {made.definition.name}")
        made.definition.turns = TurnRule.of(made.definition.name, pool, key, priority)
        return made

    return decorate if function is None else decorate(function)


def _define(
    function: Callable[..., Any],
    name: str | None,
    raises: tuple[type[Exception], ...],
    versioning: Versioning | None,
) -> Workflow[Any, Any]:
    if not inspect.iscoroutinefunction(function):
        what = getattr(function, "__qualname__", repr(function))
        raise DefinitionError(f"@workflow goes on an async def function; {what} is none")
    chosen = function.__name__ if name is None else name
    if versioning is not None:
        check_versioning(versioning, f"workflow {chosen}")
    owner, own = f"workflow {chosen}", str(chosen).startswith(OWN)
    check_definition(function, what=owner)
    hints = resolve_hints(function, owner=owner)
    exceptions = ExceptionRegistry(raises)
    exceptions.register_visible(sys.modules[function.__module__])
    definition = WorkflowDefinition(
        name=chosen,
        function=function,
        parameters=Parameters(function, owner=owner, hints=hints, deferred=own),
        result=Value(hints.get("return", Any), owner=f"the result of {owner}", deferred=own),
        exceptions=exceptions,
        versioning=versioning,
        signals=registry.tables().signals,
    )
    made: Workflow[Any, Any] = Workflow(function, definition)
    registry.register(registry.tables().workflows, chosen, made, function, "workflows")
    return made


# ------------------------------------------------------------------ what workflow code may call


def _run(name: str) -> RunPort:
    run = current_run()
    if run is None:
        raise EverlongError(f"{name} can only be called inside a running workflow")
    return run


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> datetime:
    """The time of the last input, UTC; outside a workflow the time of the machine.

    It stands still between two awaits, and is the same on replay.
    """
    run = current_run()
    if run is None:
        return datetime.now(UTC)  # noqa: TID251 - nobody replays this
    return _EPOCH + timedelta(microseconds=run.now_us)


def random() -> Random:
    """The run's own source of chance, seeded once and the same on replay.

    pick = random().choice(candidates)
    """
    return _run("random()").random


def uuid4() -> UUID:
    """A random UUID, the same on replay."""
    return UUID(int=_run("uuid4()").random.getrandbits(128), version=4)


@overload
def get_handle(workflow_id: str) -> ExternalHandle[Any]: ...
@overload
def get_handle(workflow_id: str, workflow: Workflow[..., R]) -> ExternalHandle[R]: ...
def get_handle(workflow_id: str, workflow: Workflow[..., Any] | None = None) -> ExternalHandle[Any]:
    """A handle of any other execution by its workflow id, to signal it, cancel it, or wait for it.

    In a workflow only; outside it is `client.get_handle(…)`. Give the workflow to have the result
    rebuilt by its types.

        await get_handle("inventory").signal(reserve, item)
        total = await get_handle("report-7", report).result()

    Raises:
        InvalidArguments: no workflow id.
    """
    return external(workflow_id, None if workflow is None else workflow.definition)


@overload
def info() -> Any: ...
@overload
def info(kind: type[T]) -> T: ...
def info(kind: Any = None) -> Any:
    """Where the code is running: a `WorkflowInfo` in a workflow, an `ActivityInfo` in an activity.

    Raises:
        EverlongError: neither, or not the kind that was asked for.
    """
    run = current_run()
    found: WorkflowInfo | ActivityInfo
    if run is not None:
        found = run.info()
    else:
        context = activity_context.get()
        if context is None:
            raise EverlongError("info() can only be called inside a workflow or an activity")
        found = context.info()
    if kind is not None and not isinstance(found, kind):
        raise EverlongError(f"info({kind.__name__}) was called where there is none")
    return found


async def side_effect(function: Callable[[], T]) -> T:
    """Call a plain function once and record what it returned; on replay the record answers.

    For small local facts: an environment variable, a configuration. It runs again if the worker
    dies before the record is committed. What can fail or take time belongs in an activity.

        region = await side_effect(lambda: os.environ["REGION"])
    """
    value: T = await _run("side_effect()").side_effect(function, source_line(calling_frame(1)))
    return value


async def wait_condition(
    predicate: Callable[[], object], *, timeout: float | timedelta | None = None
) -> None:
    """Wait until `predicate()` is true of the workflow's own variables.

    It is asked at once, and again each time when an input has been dealt with and every task waits.
    What people get wrong: it must be a plain function that only looks, and nothing wakes it but an
    input, so that the time alone does not; give a `timeout` for that.

        await wait_condition(lambda: len(votes) >= 3, timeout=3600)

    Args:
        predicate: called without arguments; what it raises is raised here.
        timeout: seconds, or a timedelta; a durable timer.

    Raises:
        TimeoutError: the condition did not hold in time.
    """
    run = _run("wait_condition()")
    if timeout is None:
        await run.wait_condition(predicate)
        return
    async with asyncio.timeout(seconds_us(timeout, "timeout") / 1e6):
        await run.wait_condition(predicate)


def all_handlers_finished() -> bool:
    """Whether no update is being performed now.

    A workflow that returns while some are leaves their senders without an answer.

        await wait_condition(all_handlers_finished)
    """
    return _run("all_handlers_finished()").all_handlers_finished()


def patched(name: str) -> bool:
    """Whether this run goes the new way: True for runs that reach it for the first time now.

    The first answer is recorded, and is the answer for ever, so that runs which passed here before
    the change replay the old way.

        if patched("check-stock-first"):
            await check_stock(order)
        await charge(order)

    What people get wrong: the answer belongs to the run. Asked in a loop that began before the
    change it stays False, round by round, until a `checkpoint` begins the function anew.
    """
    return _run("patched()").patched(name)


def deprecate_patch(name: str) -> None:
    """Say that no run from before a patch is left, and take the marks of those behind it.

    It goes where `patched(name)` was, and the code goes the new way without asking. It may go, too,
    once no run is left that `patched` has marked; `everlong replay` tells.

        deprecate_patch("check-stock-first")
        await check_stock(order)
        await charge(order)
    """
    _run("deprecate_patch()").patched(name, deprecated=True)


async def checkpoint(**changed: Any) -> None:
    """Mark a point where the function may be begun anew with these parameters and a fresh history.

    The workflow's parameters are its carried state: what is not among them is forgotten when the
    history is past its threshold (1,000 events or 1 MB) and nothing is in flight. Otherwise this
    costs nothing. In the main task only.

        async def counter(total: int = 0) -> None:
            while True:
                total += await next_amount()
                await checkpoint(total=total)
    """
    await _run("checkpoint()").checkpoint(changed)


def continue_as_new(**changed: Any) -> NoReturn:
    """Begin the function anew at once, with these parameters changed and a fresh history.

    The run ends as if it had crashed here: what stands in a `finally` around the call can still
    tidy up in memory, but an activity or a timer in it never begins. Signals that were not received
    are carried over.
    """
    _run("continue_as_new()").continue_as_new(changed)
