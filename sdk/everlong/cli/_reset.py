"""`everlong reset` and `everlong fork`: a new run from an earlier point of a history."""

import asyncio
from typing import Annotated, Any, Final

import typer

from everlong.cli._arguments import Arg, JsonArgs, given, plain_call
from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, WorkflowId, connect
from everlong.cli._screen import err, out, write
from everlong.cli._workers import hosting
from everlong.client import Client, ExecutionDescription, Reapply

__all__ = ["fork", "reset"]

To = Annotated[
    str,
    typer.Option(
        metavar="POINT",
        help="An event's number, start, last, last-failure, retry, last-activity[:NAME] or "
        "first-activity[:NAME].",
    ),
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Recorded with it.")]
ReapplyWord = Annotated[
    str,
    typer.Option(
        metavar="WHAT", help="Messages fed once more: all, none, only signals, or only updates."
    ),
]
RequestId = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Repeating the same request has one effect.")
]
Run = Annotated[
    str | None,
    typer.Option(metavar="RUN_ID", help="Of this run; `everlong list` shows them. Else the last."),
]
_REAPPLY: Final[dict[str, Reapply]] = {
    "all": True,
    "none": False,
    "signals": "signals",
    "updates": "updates",
}


def reset(
    workflow_id: WorkflowId,
    to: To,
    arg: Arg = None,
    json_args: JsonArgs = None,
    reason: Reason = "",
    reapply: ReapplyWord = "all",
    request_id: RequestId = None,
    run: Run = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Begin a new run from an earlier point, keeping what was done before.

    Whatever ran behind the point runs again. An open run is closed for it; needs no worker.
    """
    options = _options(to, arg, json_args, reason, reapply, request_id, run)

    async def act(client: Client) -> tuple[ExecutionDescription, list[str]]:
        async with client:
            handle = await client.get_handle(workflow_id).reset(**options)
            found = await handle.describe()
            return found, hosting(await client.workers(), found)

    return _told(asyncio.run(act(connect(db, namespace, codecs))), as_json, "reset")


def fork(
    workflow_id: WorkflowId,
    new_id: Annotated[str, typer.Argument(metavar="NEW_ID", help="The fork's workflow id.")],
    to: To,
    arg: Arg = None,
    json_args: JsonArgs = None,
    reason: Reason = "",
    reapply: ReapplyWord = "all",
    request_id: RequestId = None,
    run: Run = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """The same as a new execution under another id; the other one is left as it is."""
    options = _options(to, arg, json_args, reason, reapply, request_id, run)

    async def act(client: Client) -> tuple[ExecutionDescription, list[str]]:
        async with client:
            handle = await client.get_handle(workflow_id).fork(new_id, **options)
            found = await handle.describe()
            return found, hosting(await client.workers(), found)

    return _told(asyncio.run(act(connect(db, namespace, codecs))), as_json, "forked as")


def _options(
    to: str,
    arg: list[str] | None,
    json_args: str | None,
    reason: str,
    reapply: str,
    request_id: str | None,
    run: str | None,
) -> dict[str, Any]:
    if reapply not in _REAPPLY:
        raise Mistake(f"--reapply {reapply}: choose all, none, signals or updates")
    number = to.strip()
    return {
        "to": int(number) if number.isascii() and number.isdigit() and len(number) < 16 else to,
        "reason": reason,
        "arguments": plain_call(given(arg, json_args)),
        "reapply": _REAPPLY[reapply],
        "request_id": request_id,
        "run_id": run,
    }


def _told(result: tuple[ExecutionDescription, list[str]], as_json: bool, words: str) -> int:
    found, hosts = result
    if as_json:
        write(document(found))
        return ExitCode.OK
    begun = found.reset
    kept = begun.events if begun is not None else 0
    told = f"; it keeps events 1 to {kept}" if kept else ", from its start"
    out().say(("✓ ", "green"), f"{words} ", (found.workflow_id, "bold"), told)
    out().say(("run ", "dim"), found.run_id, indent=2)
    if not hosts and found.closed_at is None:
        err().say(
            ("note: ", "yellow"),
            f"no worker is here for {found.type}, so it waits for one: everlong worker FILE",
        )
    return ExitCode.OK
