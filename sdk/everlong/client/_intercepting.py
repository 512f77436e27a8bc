"""Interceptors around what a client and its handles do."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from everlong._interception import Hooks, packed_headers, through
from everlong._texts import storable
from everlong.channels import Query, Signal, Update, name_of
from everlong.interceptors import (
    CancelWorkflow,
    QueryWorkflow,
    SignalWorkflow,
    StartWorkflow,
    TerminateWorkflow,
    UpdateWorkflow,
)

__all__ = [
    "around_cancel",
    "around_query",
    "around_signal",
    "around_start",
    "around_terminate",
    "around_update",
]


async def around_start(
    hooks: Hooks,
    workflow_id: str,
    workflow: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    begin: Callable[[tuple[Any, ...], Mapping[str, Any], bytes], Awaitable[Any]],
) -> Any:
    call = StartWorkflow(workflow_id=workflow_id, workflow=workflow, args=args, kwargs=kwargs)

    async def end(given: StartWorkflow) -> Any:
        return await begin(given.args, given.kwargs, packed_headers(given.headers))

    return await through(hooks.start_workflow, call, end)


async def around_signal(
    hooks: Hooks,
    workflow_id: str,
    signal: Signal[Any] | str,
    value: Any,
    send: Callable[[Any], Awaitable[None]],
) -> None:
    name = storable(signal, "signal") if isinstance(signal, str) else signal.name
    call = SignalWorkflow(workflow_id=workflow_id, signal=name, value=value)

    async def end(given: SignalWorkflow) -> None:
        await send(given.value)

    await through(hooks.signal_workflow, call, end)


async def around_update(
    hooks: Hooks,
    workflow_id: str,
    update: Update[Any] | str,
    update_id: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    send: Callable[[tuple[Any, ...], Mapping[str, Any], bytes], Awaitable[Any]],
) -> Any:
    call = UpdateWorkflow(
        workflow_id=workflow_id,
        update=name_of(update, Update),
        update_id=update_id,
        args=args,
        kwargs=kwargs,
    )

    async def end(given: UpdateWorkflow) -> Any:
        return await send(given.args, given.kwargs, packed_headers(given.headers))

    return await through(hooks.update_workflow, call, end)


async def around_query(
    hooks: Hooks,
    workflow_id: str,
    query: Query[Any] | str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    ask: Callable[[tuple[Any, ...], Mapping[str, Any], bytes], Awaitable[Any]],
) -> Any:
    name = name_of(query, Query)
    call = QueryWorkflow(workflow_id=workflow_id, query=name, args=args, kwargs=kwargs)

    async def end(given: QueryWorkflow) -> Any:
        return await ask(given.args, given.kwargs, packed_headers(given.headers))

    return await through(hooks.query_workflow, call, end)


async def around_cancel(
    hooks: Hooks, workflow_id: str, reason: str, send: Callable[[str], Awaitable[None]]
) -> None:
    async def end(given: CancelWorkflow) -> None:
        await send(given.reason)

    call = CancelWorkflow(workflow_id=workflow_id, reason=reason)
    await through(hooks.cancel_workflow, call, end)


async def around_terminate(
    hooks: Hooks, workflow_id: str, reason: str, send: Callable[[str], Awaitable[None]]
) -> None:
    async def end(given: TerminateWorkflow) -> None:
        await send(given.reason)

    call = TerminateWorkflow(workflow_id=workflow_id, reason=reason)
    await through(hooks.terminate_workflow, call, end)
