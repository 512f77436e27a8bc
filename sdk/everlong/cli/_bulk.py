"""`everlong bulk`: the same done to all that a filter means, as a job that goes on without us."""

import asyncio
import sys
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any, Final

import typer

from everlong.cli._arguments import loose
from everlong.cli._bulk_progress import BulkProgress, tell_end
from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._list import Filter
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._pausing import login
from everlong.cli._screen import err, out, write
from everlong.cli._signals import Interrupted, until_signalled
from everlong.client import BUILT_IN, BulkJob, BulkPreview, BulkReport, Client
from everlong.exceptions import StoreOwned
from everlong.worker import Worker

__all__ = ["bulk"]

_LOOK_S: Final = 0.1


Action = Annotated[
    str,
    typer.Argument(
        metavar="ACTION",
        help="cancel, terminate, signal, pause, resume, reset or retry; or watch, for a job.",
    ),
]
Name = Annotated[str | None, typer.Argument(metavar="[SIGNAL|JOB]", help="Of signal, or of watch.")]
Value = Annotated[
    str | None,
    typer.Argument(metavar="[VALUE]", help="Text; what begins with { or [ is taken as JSON."),
]
Everything = Annotated[bool, typer.Option("--everything", help="Instead of a filter: all of them.")]
To = Annotated[
    str | None,
    typer.Option(metavar="POINT", help="Of reset and retry; as for `everlong reset`."),
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Recorded with each.")]
Rate = Annotated[float | None, typer.Option(metavar="N", help="At most so many a second.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say whom it would mean, and do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Wait = Annotated[
    bool,
    typer.Option("--wait", "-w", help="Until it is done; where no worker is, do it here."),
]
Id = Annotated[str | None, typer.Option(metavar="ID", help="The job's workflow id.")]
RequestId = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Repeating the same request gives the same job."),
]


def bulk(
    action: Action,
    name: Name = None,
    value: Value = None,
    filter: Filter = None,
    everything: Everything = False,
    to: To = None,
    reason: Reason = "",
    rate: Rate = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = False,
    id: Id = None,
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Act on all executions that a filter means.

    It asks first, and says how many. A worker does the job; it goes on after crashes.
    """
    client = connect(db, namespace, codecs)
    if action == "watch":
        if name is None:
            raise Mistake("name the job: everlong bulk watch JOB")
        return asyncio.run(_Command(client, as_json).watch(name))
    if name is not None and action != "signal":
        raise Mistake(f"everlong bulk {action} takes no {name!r}: whom it means says --filter")
    order: dict[str, Any] = {
        "filter": filter,
        "everything": everything,
        "reason": reason,
        "by": login() if action == "pause" else "",
        "signal": name,
        "value": None if value is None else loose(value),
        "to": _point(to),
        "rate": rate,
    }
    named = {"id": id, "request_id": request_id}
    command = _Command(client, as_json)
    return asyncio.run(command.act(action, order, named, dry_run=dry_run, yes=yes, wait=wait))


def _point(to: str | None) -> int | str | None:
    number = "" if to is None else to.strip()
    return int(number) if number.isascii() and number.isdigit() and len(number) < 16 else to


class _Command:
    """One use of it."""

    def __init__(self, client: Client, as_json: bool) -> None:
        self._client = client
        self._as_json = as_json
        self._is_worker = False
        """Whether the job is done here."""

    async def act(
        self,
        action: Any,
        order: dict[str, Any],
        named: dict[str, Any],
        *,
        dry_run: bool,
        yes: bool,
        wait: bool,
    ) -> int:
        async with self._client as client:
            preview = await client.bulk(action, **order, dry_run=True)
            if dry_run or (not preview.matched and named["request_id"] is None):
                return self._told(preview, dry_run=dry_run)
            if not yes:
                self._ask(preview)
            job = await client.bulk(action, **order, **named, dry_run=False)
            if wait:
                return await self._until_done(job)
            here = await self._has_worker()
            if self._as_json:
                facts = {"job": job.workflow_id, "action": action, "matched": preview.matched}
                write(document(facts))
                return ExitCode.OK
            out().say(
                ("✓ ", "green"),
                (job.workflow_id, "bold"),
                f"  {action} {_executions(preview.matched)}",
            )
            if here:
                out().say(("look: ", "dim"), f"everlong bulk watch {job.workflow_id}", indent=2)
            else:
                err().say(
                    ("note: ", "yellow"),
                    "no worker is here, so it waits for one: everlong worker FILE; or do it here: "
                    f"everlong bulk watch {job.workflow_id}",
                )
            return ExitCode.OK

    async def watch(self, job_id: str) -> int:
        async with self._client as client:
            job = client.get_bulk(job_id)
            await job.progress()  # Or it is none.
            return await self._until_done(job)

    # --------------------------------------------------------------------------------- asking

    def _told(self, preview: BulkPreview, *, dry_run: bool) -> int:
        """Whom it means, where nothing is to be done."""
        if self._as_json:
            write(document({"job": None, **_facts(preview)}))
        elif not preview.matched:
            out().say(("nothing to do: ", "dim"), _NOBODY.get(preview.action, "nothing matches"))
        elif dry_run:
            self._show(preview)
            out().say(("a dry run: nothing was done", "dim"))
        return ExitCode.OK

    def _show(self, preview: BulkPreview) -> None:
        screen = out()
        screen.say((preview.action, "bold"), f" {_executions(preview.matched)}:")
        for one in preview.first:
            screen.say(("● ", "cyan"), one, indent=2)
        if preview.matched > len(preview.first):
            screen.say((f"and {preview.matched - len(preview.first)} more", "dim"), indent=4)

    def _ask(self, preview: BulkPreview) -> None:
        if self._as_json or not (sys.stdin.isatty() and out().console.is_terminal):
            raise Mistake(
                f"{preview.action} {_executions(preview.matched)}? Nobody is here to ask, and "
                "nothing was done: add --yes"
            )
        self._show(preview)
        if not typer.confirm("go on?"):
            raise Mistake("nothing was done", code=ExitCode.PROBLEM)

    # -------------------------------------------------------------------------------- waiting

    async def _until_done(self, job: BulkJob) -> int:
        try:
            report = await until_signalled(self._done(job), lambda: None)
        except Interrupted as interrupted:
            fate = "waits for a worker" if self._is_worker else "goes on"
            err().say(
                ("everlong: ", "yellow"),
                f"interrupted; the job {fate}: everlong bulk watch {job.workflow_id}",
            )
            return interrupted.code
        if self._as_json:
            write(document({"job": job.workflow_id, "matched": report.matched, "report": report}))
        else:
            tell_end(out(), job.workflow_id, report)
        return ExitCode.PROBLEM if report.failed else ExitCode.OK

    async def _done(self, job: BulkJob) -> BulkReport:
        closed = asyncio.get_running_loop().create_task(job.result())
        async with AsyncExitStack() as stack:
            stack.callback(closed.cancel)
            if not await self._has_worker():
                # Another one may have come this moment: then that does it.
                with suppress(StoreOwned):
                    own = Worker(self._client, workflows=(), activities=(), name="everlong bulk")
                    await stack.enter_async_context(own)
                    self._is_worker = True
            progress = stack.enter_context(BulkProgress(err(), shown=not self._as_json))
            while not closed.done():
                found = await job.describe()
                if found.status == "blocked":
                    raise Mistake(
                        f"the job is blocked: {found.reason}", code=ExitCode.PROBLEM, details=""
                    )
                progress.show(await job.progress(), found.status)
                await asyncio.wait([closed], timeout=_LOOK_S)
            return await closed

    async def _has_worker(self) -> bool:
        names = set(BUILT_IN)
        return any(one.is_there and names <= set(one.types) for one in await self._client.workers())


def _facts(preview: BulkPreview) -> dict[str, object]:
    return {"action": preview.action, "matched": preview.matched, "first": list(preview.first)}


def _executions(count: int) -> str:
    return f"{count:,} execution{'' if count == 1 else 's'}"


_NOBODY: Final = {
    "retry": "none of them has failed, timed out or is blocked",
    "resume": "none of them is paused or blocked",
    "pause": "none of them is running",
    "cancel": "none of them is open",
    "terminate": "none of them is open",
    "signal": "none of them is open",
}
