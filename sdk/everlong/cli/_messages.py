"""What is said to an execution: signal, query, update, cancel, terminate.

They work from any process; what needs a worker goes to it through the store.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from everlong.cli._arguments import Arg, JsonArgs, given, loose, plain_call
from everlong.cli._documents import document, for_people
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, WorkflowId, connect
from everlong.cli._screen import out, write
from everlong.client import WorkflowHandle
from everlong.exceptions import NoAnswer

__all__ = ["cancel", "query", "signal", "terminate", "update"]

Reason = Annotated[str, typer.Option(metavar="TEXT", help="Recorded with it.")]
RequestId = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Repeating the same request has one effect.")
]


def signal(
    workflow_id: WorkflowId,
    name: Annotated[str, typer.Argument(metavar="SIGNAL", help="The channel's name.")],
    value: Annotated[
        str | None,
        typer.Argument(metavar="[VALUE]", help="Text; what begins with { or [ is taken as JSON."),
    ] = None,
    json_value: Annotated[
        str | None, typer.Option(metavar="JSON", help="The value as JSON, exactly.")
    ] = None,
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Send a value; it is delivered once.

    It is stored for good when this returns, whether a worker runs or not.
    """
    payload = _payload(value, json_value)
    _with_handle(
        db,
        namespace,
        codecs,
        workflow_id,
        lambda handle: handle.signal(name, payload, request_id=request_id),
    )
    return _done(as_json, workflow_id, f"{name} is on its way to", signal=name)


def _payload(value: str | None, json_value: str | None) -> Any:
    if json_value is None:
        return None if value is None else loose(value)
    if value is not None:
        raise Mistake("give VALUE or --json-value, not both")
    try:
        return json.loads(json_value)
    except ValueError as error:
        raise Mistake(f"--json-value is not JSON: {error}") from error


def query(
    workflow_id: WorkflowId,
    name: Annotated[str, typer.Argument(metavar="QUERY", help="The query's name.")],
    arg: Arg = None,
    json_args: JsonArgs = None,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for a worker.")
    ] = 10.0,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Ask a workflow something, also after its end.

    A worker that hosts it must be running.
    """
    values = plain_call(given(arg, json_args))
    if "timeout" in values:
        raise Mistake("a query's argument cannot be called timeout on the command line")
    answer = _with_handle(
        db,
        namespace,
        codecs,
        workflow_id,
        lambda handle: handle.query(name, timeout=timeout, **values),
    )
    if as_json:
        write(document({"workflow_id": workflow_id, "query": name, "answer": answer}))
    elif answer is not None:
        out().block(for_people(answer))
    return ExitCode.OK


def update(
    workflow_id: WorkflowId,
    name: Annotated[str, typer.Argument(metavar="UPDATE", help="The update's name.")],
    arg: Arg = None,
    json_args: JsonArgs = None,
    update_id: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Sent again, it has the same result and one effect."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for the result.")
    ] = 10.0,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Ask a workflow to do something, and wait for the result.

    It is stored for good: without an answer in time, ask again with the same --update-id.
    """
    values = plain_call(given(arg, json_args))
    if "update_id" in values:
        raise Mistake("an update's argument cannot be called update_id on the command line")
    chosen = update_id or secrets.token_hex(8)

    async def ask(handle: WorkflowHandle[Any]) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await handle.update(name, update_id=chosen, **values)
        except TimeoutError as error:
            raise NoAnswer(
                f"no answer within {timeout} seconds; the update is stored, and --update-id "
                f"{chosen} asks for it again",
                workflow_id=workflow_id,
                timeout_s=timeout,
            ) from error

    result = _with_handle(db, namespace, codecs, workflow_id, ask)
    if as_json:
        facts = {"workflow_id": workflow_id, "update": name, "update_id": chosen}
        write(document({**facts, "result": result}))
    elif result is not None:
        out().block(for_people(result))
    return ExitCode.OK


def cancel(
    workflow_id: WorkflowId,
    reason: Reason = "",
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Ask a workflow to stop; it may clean up first.

    The request is stored, and delivered once; a worker must run the workflow.
    """
    _with_handle(
        db,
        namespace,
        codecs,
        workflow_id,
        lambda handle: handle.cancel(reason, request_id=request_id),
    )
    return _done(as_json, workflow_id, "asked to cancel", action="cancel")


def terminate(
    workflow_id: WorkflowId,
    reason: Reason = "",
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Close an execution at once, without clean-up. Needs no worker."""
    _with_handle(
        db,
        namespace,
        codecs,
        workflow_id,
        lambda handle: handle.terminate(reason, request_id=request_id),
    )
    return _done(as_json, workflow_id, "terminated", action="terminate")


def _with_handle(
    db: str,
    namespace: str,
    codecs: str | None,
    workflow_id: str,
    act: Callable[[WorkflowHandle[Any]], Awaitable[Any]],
) -> Any:
    async def main() -> Any:
        async with connect(db, namespace, codecs) as client:
            return await act(client.get_handle(workflow_id))

    return asyncio.run(main())


def _done(as_json: bool, workflow_id: str, words: str, **facts: str) -> int:
    if as_json:
        write(document({"workflow_id": workflow_id, **facts}))
    else:
        out().say(("✓ ", "green"), f"{words} ", (workflow_id, "bold"))
    return ExitCode.OK
