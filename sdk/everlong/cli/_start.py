"""`everlong start`: leaves an execution in the store; a worker takes it up, now or later."""

import asyncio
from typing import Annotated, Any

import typer

from everlong.cli._arguments import (
    Arg,
    Given,
    JsonArgs,
    call_of,
    changes_of,
    given,
    plain_call,
)
from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import err, out, write
from everlong.cli._sources import load_workflow, names_a_source
from everlong.cli._starting import (
    ExecutionTimeout,
    IfClosed,
    IfOpen,
    Memo,
    RetryAttempts,
    RetryDelay,
    RunTimeout,
    Start,
    Tag,
    labels,
    retries,
)
from everlong.cli._when import (
    DebounceAtMost,
    Debounced,
    DebounceKey,
    DedupKey,
    DedupWithin,
    beginning,
    seen_lately,
    together,
)
from everlong.cli._workers import hosting
from everlong.client import Client, ExecutionDescription
from everlong.streams import StreamControl

__all__ = ["start"]

Id = Annotated[
    str | None, typer.Option(metavar="ID", help="The workflow id; made up unless given.")
]
FromSavepoint = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Go on at a savepoint of a flow; --arg changes values."),
]
Of = Annotated[
    str | None, typer.Option(metavar="ID", help="Whose savepoint; that of --id unless given.")
]

RequestId = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Repeating the same start has one effect.")
]


def start(
    target: Annotated[
        str,
        typer.Argument(
            metavar="WORKFLOW",
            help="FILE:WORKFLOW, which checks the arguments here, or just the workflow's name.",
        ),
    ],
    arg: Arg = None,
    json_args: JsonArgs = None,
    id: Id = None,
    if_open: IfOpen = "use",
    if_closed: IfClosed = "allow",
    run_timeout: RunTimeout = None,
    execution_timeout: ExecutionTimeout = None,
    retry_attempts: RetryAttempts = None,
    retry_delay: RetryDelay = None,
    after: Annotated[
        str | None, typer.Option(metavar="TIME", help="Begin later: 90, 30s, 15m, 1h or 2d.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="WHEN", help="The same: 2026-12-24T18:00:00Z.")
    ] = None,
    debounce: Debounced = None,
    debounce_key: DebounceKey = None,
    debounce_at_most: DebounceAtMost = None,
    dedup_key: DedupKey = None,
    dedup_within: DedupWithin = None,
    tag: Tag = None,
    memo: Memo = None,
    from_savepoint: FromSavepoint = None,
    of: Of = None,
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Start a workflow that a worker will run; print its id."""
    options = {
        "id": id,
        "if_open": if_open,
        "if_closed": if_closed,
        "run_timeout": run_timeout,
        "execution_timeout": execution_timeout,
        **retries(retry_attempts, retry_delay),
        **beginning(after, at),
        **together(debounce, debounce_key, debounce_at_most),
        **seen_lately(dedup_key, dedup_within),
        **labels(tag, memo),
        "request_id": request_id,
    }
    point = _named_point(from_savepoint, of, id)
    wanted = _wanted(target, given(arg, json_args), options, anew=point is None)
    client = connect(db, namespace, codecs, create=True)
    described, hosts = asyncio.run(_start(client, wanted, point))
    if as_json:
        write(document(described))
    else:
        _tell(described, hosts)
    return ExitCode.OK


def _tell(described: ExecutionDescription, hosts: list[str]) -> None:
    out().say(described.workflow_id)
    if not hosts and described.closed_at is None:
        err().say(
            ("note: ", "yellow"),
            f"no worker is here for {described.type}, so it waits for one: everlong worker FILE",
        )


def _named_point(name: str | None, of: str | None, id: str | None) -> tuple[str, str] | None:
    """Whose savepoint, and its name. Raises Mistake."""
    if name is None:
        if of is not None:
            raise Mistake("--of: name the savepoint, too: --from-savepoint NAME")
        return None
    whose = of or id
    if whose is None:
        raise Mistake("--from-savepoint: say whose it is: --of ID, or --id for both")
    return whose, name


def _wanted(target: str, values: Given, options: dict[str, Any], *, anew: bool) -> Start:
    if not names_a_source(target):
        return Start(target, (), plain_call(values), options)
    workflow = load_workflow(target)
    definition = workflow.definition
    if anew:
        return Start(workflow, *call_of(definition, values), options)
    return Start(workflow, (), changes_of(definition, values), options)


async def _start(
    client: Client, wanted: Start, point: tuple[str, str] | None
) -> tuple[ExecutionDescription, list[str]]:
    async with client:
        if point is not None:
            whose, name = point
            found = await StreamControl(client.get_handle(whose), "").find_savepoint(name)
            wanted.options["from_savepoint"] = found
        handle = await wanted.begin(client)
        described = await handle.describe()
        return described, hosting(await client.workers(), described)
