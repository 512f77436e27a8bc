"""Interceptors around what workflow code does and has done to it.

They are workflow code themselves: they run on the run's loop, again on replay, and what they decide
must be the same. One that breaks the rules (it hands nothing on, or twice) is a fault, so that the
run is parked and goes on once the interceptor is mended. What it raises is raised in the code.
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, NoReturn, Protocol

from everlong._context import QueryHandler, UpdateHandler
from everlong._definitions import ActivityDefinition, WorkflowDefinition
from everlong._interception import Hooks, headers_of, packed_headers, through
from everlong._replay.identity import Named, workflow_id_of
from everlong._replay.live_only import call_live, headers_beside
from everlong.exceptions import InterceptorError, WorkflowFault
from everlong.interceptors import (
    CallActivity,
    CallChild,
    ExecuteWorkflow,
    QueryWorkflow,
    UpdateWorkflow,
)
from everlong_engine import ActivityOptions, ActivityScheduled, UpdateReceived

__all__ = ["answering", "call_activity", "call_child", "perform", "perform_update"]


class Calling(Named, Protocol):
    """A `WorkflowRun`, as interceptors around it see it."""

    def schedule(
        self, definition: ActivityDefinition, made: ActivityScheduled
    ) -> Awaitable[Any]: ...


def _failing(run: Named) -> Any:
    def fail(text: str) -> NoReturn:
        run.stop_with(WorkflowFault(text))

    return fail


def perform(run: Named, args: Any, kwargs: Any) -> Coroutine[Any, Any, Any]:
    """The workflow function, with interceptors around it if there are any."""
    if run.hooks is not None and run.hooks.execute_workflow:
        return execute(run, run.hooks, args, kwargs)
    return run.definition.function(*args, **kwargs)  # type: ignore[no-any-return]


def execute(run: Named, hooks: Hooks, args: Any, kwargs: Any) -> Coroutine[Any, Any, Any]:
    """The workflow function, from the inside of all of them."""
    started, function = run.started, run.definition.function
    assert started is not None, "it is called by the start"
    call = ExecuteWorkflow(
        workflow_id=workflow_id_of(run),
        workflow=run.definition.name,
        run_id=run.run_id if run.identity is None else run.identity.run_id,
        args=args,
        kwargs=kwargs,
        headers=headers_of(started.headers),
    )

    async def end(given: ExecuteWorkflow) -> Any:
        return await function(*given.args, **given.kwargs)

    return through(hooks.execute_workflow, call, end, _failing(run))


async def call_activity(
    run: Calling,
    definition: ActivityDefinition,
    options: ActivityOptions,
    arguments: bytes,
    where: str,
) -> Any:
    """One call of an activity, up to its outcome."""
    run.require_live()
    args, kwargs = definition.parameters.decode(arguments)
    call = CallActivity(
        workflow_id=workflow_id_of(run), activity=definition.name, args=args, kwargs=kwargs
    )

    async def end(given: CallActivity) -> Any:
        data = definition.parameters.encode(given.args, given.kwargs)
        headers, name = packed_headers(given.headers), definition.name
        run.require_live()
        decision = ActivityScheduled(run.new_id(), name, data, options, where, False, headers)
        return await run.schedule(definition, decision)

    assert run.hooks is not None, "they stand around this call"
    return await through(run.hooks.call_activity, call, end, _failing(run))


async def call_child(
    run: Named,
    hooks: Hooks,
    definition: WorkflowDefinition,
    arguments: bytes,
    begins: Callable[[bytes, bytes], Awaitable[Any]],
    *,
    waits: bool,
) -> Any:
    """One call, or one start, of a child."""
    run.require_live()
    args, kwargs = definition.parameters.decode(arguments)
    call = CallChild(
        workflow_id=workflow_id_of(run),
        workflow=definition.name,
        waits=waits,
        args=args,
        kwargs=kwargs,
    )

    async def end(given: CallChild) -> Any:
        data = definition.parameters.encode(given.args, given.kwargs)
        return await begins(data, packed_headers(given.headers))

    return await through(hooks.call_child, call, end, _failing(run))


async def perform_update(
    run: Named,
    hooks: Hooks,
    handler: UpdateHandler,
    event: UpdateReceived,
    args: Any,
    kwargs: Any,
) -> Any:
    """One call of the handler of an update."""
    call = UpdateWorkflow(
        workflow_id=workflow_id_of(run),
        update=event.update,
        update_id=event.update_id,
        args=tuple(args),
        kwargs=kwargs,
        headers=headers_of(headers_beside(event.arguments)),
    )

    async def end(given: UpdateWorkflow) -> Any:
        value = handler.function(*given.args, **given.kwargs)
        return await value if hasattr(value, "__await__") else value

    return await through(hooks.handle_update, call, end, _failing(run))


def answering(
    hooks: Hooks | None, workflow_id: str, query: str, arguments: bytes
) -> Callable[[QueryHandler, Any, Any], Any] | None:
    """What calls the handler of a query, if interceptors stand around it."""
    if hooks is None or not hooks.handle_query:
        return None
    return partial(_answer, hooks, workflow_id, query, arguments)


def _answer(
    hooks: Hooks,
    workflow_id: str,
    query: str,
    arguments: bytes,
    handler: QueryHandler,
    args: Any,
    kwargs: Any,
) -> Any:
    """One call of the handler of a query, in a context of its own: what is set there is gone."""
    call = QueryWorkflow(
        workflow_id=workflow_id,
        query=query,
        args=tuple(args),
        kwargs=kwargs,
        headers=headers_of(headers_beside(arguments)),
    )

    async def end(given: QueryWorkflow) -> Any:
        return handler.function(*given.args, **given.kwargs)

    work = through(hooks.handle_query, call, end)
    return copy_context().run(call_live, lambda: _at_once(work))


def _at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """Run what waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise InterceptorError("handle_query of an interceptor waits, and a query is answered at once")
