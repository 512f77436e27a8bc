"""`everlong run`: one workflow from a shell, with its worker in the same process.

The result goes to standard output, everything else to standard error. The id is the workflow's name
unless given, so the same command goes on where a crash, or Ctrl-C, left it.
"""

import asyncio
from typing import Annotated, Any, Final

import typer

from everlong.cli._arguments import Arg, JsonArgs, call_of, given
from everlong.cli._documents import document, for_people, one_line
from everlong.cli._durations import span
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._following import Follower
from everlong.cli._logs import log_to
from everlong.cli._options import (
    DEFAULT_STORE,
    Codecs,
    Db,
    Interceptors,
    Json,
    Namespace,
    connect,
)
from everlong.cli._outcomes import Outcome
from everlong.cli._progress import Progress
from everlong.cli._screen import STATUS, Screen, err, out, output_kept_for_document, write
from everlong.cli._signals import Interrupted, until_signalled
from everlong.cli._sources import load_interceptors, load_workflow
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
from everlong.client import Client, ExecutionDescription, ExecutionSummary
from everlong.exceptions import WorkflowNotFound
from everlong.worker import Worker
from everlong.workflow import Workflow
from everlong_engine import unpack

__all__ = ["run"]

_STOP_S: Final = 5.0
_TRACEBACK_LINES: Final = 30


def run(
    target: Annotated[
        str, typer.Argument(metavar="FILE:WORKFLOW", help="orders.py:order, or shop.orders:order.")
    ],
    arg: Arg = None,
    json_args: JsonArgs = None,
    id: Annotated[
        str | None, typer.Option(metavar="ID", help="The workflow id; its name unless given.")
    ] = None,
    if_open: IfOpen = "use",
    if_closed: IfClosed = "allow",
    run_timeout: RunTimeout = None,
    execution_timeout: ExecutionTimeout = None,
    retry_attempts: RetryAttempts = None,
    retry_delay: RetryDelay = None,
    tag: Tag = None,
    memo: Memo = None,
    interceptors: Interceptors = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Run a workflow here, and follow it to its end.

    Run the same command again after a crash: an execution that is open goes on.
    """
    workflow = load_workflow(target)
    values = given(arg, json_args)
    options = {
        "id": id or workflow.definition.name,
        "if_open": if_open,
        "if_closed": if_closed,
        "run_timeout": run_timeout,
        "execution_timeout": execution_timeout,
        **retries(retry_attempts, retry_delay),
        **labels(tag, memo),
    }
    start = Start(workflow, *call_of(workflow.definition, values), options)
    around = load_interceptors(interceptors)
    client = connect(db, namespace, codecs, create=True, interceptors=around)
    command = _Run(client, workflow, start, has_arguments=bool(values))
    with output_kept_for_document(as_json):
        last, outcome = asyncio.run(command.until_the_end(None if quiet or as_json else err()))
    if as_json:
        write(document(outcome.document(last)))
    elif last.status != "completed":
        _tell_why(err(), last, outcome)
    elif outcome.result is not None:
        out().block(for_people(outcome.result))
    return ExitCode.OK if last.status == "completed" else ExitCode.PROBLEM


class _Run:
    """One use of the command."""

    def __init__(
        self, client: Client, workflow: Workflow[..., Any], start: Start, *, has_arguments: bool
    ) -> None:
        self._client = client
        self._workflow = workflow
        self._start = start
        self._has_arguments = has_arguments
        self._id = str(start.options["id"])

    async def until_the_end(self, screen: Screen | None) -> tuple[ExecutionSummary, Outcome]:
        """The run that was the last one, and what came out of it."""
        log_to(screen or err(), retries=False)

        def stopping() -> None:
            (screen or err()).say(("stopping; press again to leave at once", "dim"), indent=2)

        try:
            return await until_signalled(self._embedded(screen), stopping)
        except Interrupted as interrupted:
            err().say(
                ("everlong: ", "yellow"),
                f"interrupted; {self._id} goes on when you run it again",
            )
            raise typer.Exit(interrupted.code) from None

    async def _embedded(self, screen: Screen | None) -> tuple[ExecutionSummary, Outcome]:
        async with self._client as client:
            follower = Follower(client, self._id)
            before = await self._open_execution()
            # Before the worker is there: it would take further steps while they are counted.
            behind = None if before is None else await follower.skip_to_now(before)
            if screen is not None:
                self._tell_beginning(screen, behind)
            async with Worker(client, stop_timeout=_STOP_S):
                await self._start.begin(client)
                if screen is None:
                    return await follower.follow(None)
                with Progress(screen) as progress:
                    last, outcome = await follower.follow(progress)
                _tell_end(screen, last, outcome)
                return last, outcome

    async def _open_execution(self) -> ExecutionDescription | None:
        """The one that this start will use, if there is one."""
        if self._start.options["if_open"] != "use":
            return None
        try:
            found = await self._client.get_handle(self._id).describe()
        except WorkflowNotFound:
            return None
        if found.closed_at is not None:
            return None
        if found.type != self._workflow.definition.name:
            raise Mistake(
                f"{self._id!r} is open, and it is a {found.type}: choose another --id",
                code=ExitCode.NOT_THERE,
            )
        if self._has_arguments:
            self._note_its_own_arguments(found.input)
        return found

    def _note_its_own_arguments(self, recorded: Any) -> None:
        encode = self._workflow.definition.parameters.encode
        if unpack(encode(self._start.args, self._start.kwargs)) != recorded:
            err().say(
                ("note: ", "yellow"),
                f"{self._id} is open and goes on with its own arguments, {one_line(recorded)}",
            )

    def _tell_beginning(self, screen: Screen, behind: int | None) -> None:
        name = self._workflow.definition.name
        how = "starts" if behind is None else f"goes on after {behind} steps"
        kind = "" if name == self._id else f"  {name}"
        screen.say((self._id, "bold"), kind, (f"  {how}", "dim"))


def _tell_end(screen: Screen, last: ExecutionSummary, outcome: Outcome) -> None:
    mark, style = STATUS[last.status]
    facts = f"  {last.history_events} events"
    if last.closed_at is not None:
        facts += f", {span((last.closed_at - last.started_at).total_seconds())}"
    screen.say((f"{mark} {_readable(last.status)}", style), (facts, "dim"))
    if outcome.unread:
        screen.say(("never received: ", "yellow"), ", ".join(outcome.unread), indent=2)


def _tell_why(screen: Screen, last: ExecutionSummary, outcome: Outcome) -> None:
    if outcome.traceback:
        lines = outcome.traceback.rstrip("\n").split("\n")
        screen.block("\n".join(lines[-_TRACEBACK_LINES:]), indent=2, style="dim")
    end = _ENDS.get(last.status, last.status) + (": " if outcome.reason else "")
    screen.explain(("everlong: ", "red"), f"{last.workflow_id} {end}", text=outcome.reason)
    if last.status == "blocked":
        screen.say("Correct the code, then run the same command again: it goes on.", indent=2)


_ENDS: Final = {
    "blocked": "is blocked",
    "cancelled": "was cancelled",
    "terminated": "was terminated",
    "timed_out": "timed out",
}


def _readable(status: str) -> str:
    return status.replace("_", " ")
