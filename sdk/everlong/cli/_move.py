"""`everlong move`: executions to another store, one family after the other."""

import asyncio
from collections import deque
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Final

import typer

from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._list import Filter
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import err, out, write
from everlong.cli._signals import Interrupted, until_signalled
from everlong.client import Client, MoveReport, MoveStep
from everlong.exceptions import (
    EverlongError,
    MoveRefused,
    StoreOwned,
    WorkflowMoved,
    WorkflowNotFound,
)
from everlong.worker import Worker

__all__ = ["move"]

_PAGE: Final = 1000
_WORDS: Final[dict[MoveStep, str]] = {
    "held": "held, and nobody has it in hand",
    "copied": "the other store would take it in",
    "left": "has left",
    "arrived": "has arrived",
    "settled": "both stores know it",
}


def move(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID…", help="The workflow ids.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="STORE", help="Where to: as for --db.")
    ] = None,
    filter: Filter = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Instead of ids or a filter: all that there is.")
    ] = False,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="What attempts at work get to end.")
    ] = 60.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would become of them, and do nothing.")
    ] = False,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Move executions to another store, where they go on under their ids.

    What they wait for goes with them. Whatever dies on the way, none goes on in both stores, and
    the same command once more ends the move.
    """
    named = list(dict.fromkeys(ids or ()))
    if to is None:
        raise Mistake("say where to: everlong move ID --to postgresql://…")
    if [bool(named), filter is not None, everything].count(True) != 1:
        raise Mistake("name the executions: ids, or --filter FILTER, or --everything")
    if wait < 0:
        raise Mistake(f"--wait {wait:g}: give seconds, 0 or more")
    here = connect(db, namespace, codecs)
    there = connect(to, namespace, codecs, create=not dry_run)
    command = _Command(here, there, wait_s=wait, dry_run=dry_run, as_json=as_json)
    return asyncio.run(command.run(named, filter))


class _Command:
    """One use of it."""

    def __init__(
        self, here: Client, there: Client, *, wait_s: float, dry_run: bool, as_json: bool
    ) -> None:
        self._here, self._there = here, there
        self._wait_s = wait_s
        self._dry_run = dry_run
        self._as_json = as_json
        self._moved: list[MoveReport] = []
        self._refused: dict[str, str] = {}

    async def run(self, ids: list[str], filter: str | None) -> int:
        try:
            await until_signalled(self._run(ids, filter), lambda: None)
        except Interrupted as interrupted:
            words = "interrupted; what had not left goes on where it was. The rest: once more"
            err().say(("everlong: ", "yellow"), words)
            return interrupted.code
        if self._as_json:
            refused = [{"workflow_id": one, "reason": why} for one, why in self._refused.items()]
            moved = {"moved": self._moved, "refused": refused, "dry_run": self._dry_run}
            write(document(moved))
        elif not (self._moved or self._refused):
            out().say(("nothing to do: ", "dim"), "nothing matches")
        return ExitCode.PROBLEM if self._refused else ExitCode.OK

    async def _run(self, ids: list[str], filter: str | None) -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._here)
            await stack.enter_async_context(self._there)
            waiting = deque(ids or await self._matching(filter))
            if not self._dry_run:
                await self._take_over(stack)
            gone: set[str] = set()
            later: set[str] = set()
            while waiting:
                workflow_id = waiting.popleft()
                if workflow_id in gone:
                    continue
                try:
                    report = await self._move(workflow_id)
                except MoveRefused as error:
                    # With whoever waits for it, if that is to go as well.
                    if error.waiter in waiting and workflow_id not in later:
                        later.add(workflow_id)
                        waiting.append(workflow_id)
                        continue
                    self._tell_refused(workflow_id, error.reason, error)
                except (WorkflowNotFound, WorkflowMoved) as error:
                    if len(ids) == 1:
                        raise
                    self._tell_refused(workflow_id, str(error), error)
                else:
                    gone.update(report.family)
                    self._tell_moved(report)

    async def _matching(self, filter: str | None) -> list[str]:
        found: dict[str, None] = {}
        page = await self._here.list(filter=filter, limit=_PAGE)
        while True:
            found.update(dict.fromkeys(one.workflow_id for one in page.items))
            if page.next is None:
                return list(found)
            page = await self._here.list(filter=filter, limit=_PAGE, after=page.next)

    async def _take_over(self, stack: AsyncExitStack) -> None:
        """Somebody has to free what dead workers had in hand, and may be nobody is here."""
        if any(one.is_there for one in await self._here.workers()):
            return
        with suppress(StoreOwned):  # Somebody has come this moment.
            own = Worker(self._here, workflows=(), activities=(), name="everlong move")
            await stack.enter_async_context(own)

    async def _move(self, workflow_id: str) -> MoveReport:
        def tell(step: MoveStep) -> None:
            if not self._as_json:
                err().say((f"{workflow_id}: {_WORDS[step]}", "dim"))

        try:
            return await self._here.move(
                workflow_id, self._there, wait=self._wait_s, dry_run=self._dry_run, on_step=tell
            )
        except ValueError as error:
            raise Mistake(str(error)) from error

    # --------------------------------------------------------------------------------- telling

    def _tell_moved(self, report: MoveReport) -> None:
        self._moved.append(report)
        if self._as_json:
            return
        verb = "would move to" if self._dry_run else "is in" if report.was_there else "moved to"
        others = report.family[1:]
        out().say(
            ("→ ", "green"),
            (report.workflow_id, "bold"),
            f"  {verb} {report.place}",
            (f"  with {', '.join(others)}" if others else "", "dim"),
        )

    def _tell_refused(self, workflow_id: str, reason: str, error: EverlongError) -> None:
        self._refused[workflow_id] = reason
        if not self._as_json:
            err().say(("everlong: ", "red"), str(error))
