"""Executions as text: out of one store, and into another.

The engine knows the rows and the lines; here stand what a user may ask for, and what cannot be
done to sealed payloads, which open nowhere but in their place.
"""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from everlong._texts import checked_id, storable
from everlong.client._connected import Connected, require_here
from everlong.client._handle import WorkflowHandle
from everlong.codec import ENCRYPTED
from everlong.exceptions import ImportRefused, UnreadableExport, WorkflowNotFound
from everlong_engine import (
    ExportedExecution,
    Target,
    arriving,
    closed_on_arrival,
    export_lines,
    read_export,
    renamed,
    waits_for_others,
)

__all__ = ["Transferring", "read_exported"]

_LINE_CHARS_MAX: Final = 128_000_000
"""A blob is a payload, and twice that is more than any has."""
_SEALED_TEXT: Final = b"everlong-sealed:"
_LOOKED_AT: Final = "imported to be looked at"


class Transferring(Connected):
    """The part of a client that takes executions out of a store, and brings them in."""

    async def export(
        self, workflow_id: str, *, run_id: str | None = None, children: bool = False
    ) -> str:
        r"""A whole execution as JSON lines: histories, inbox, attempts, outputs, approvals.

            Path("order-17.jsonl").write_text(await client.export("order-17"))

        Replay it with `Replayer`, or bring it into another store with `import_`. What people get
        wrong: an export is a copy, and the execution here goes on. The format is documented and
        stable; encrypted payloads stay encrypted.

        Args:
            run_id: the execution that this run belongs to, where the id has had several.
            children: the executions that it waits for, too, as the same moment saw them.

        Raises:
            WorkflowNotFound: there is no such execution, or no such run of it.
            WorkflowMoved: it is in another store by now; export it there.
            UndecodablePayload: some of it is damaged.
        """
        target = await _target(self, workflow_id, run_id)
        found = await self.engine.store.export(target, family=children)
        if not found:
            raise WorkflowNotFound(workflow_id=workflow_id)
        require_here(found[0].last)
        now_us = self.engine.clock.now_us()
        return "".join(f"{line}\n" for line in export_lines(found, written_by=_own(), at_us=now_us))

    async def import_(
        self, *exports: str | Path, id: str | None = None, closed: bool = False
    ) -> list[WorkflowHandle[Any]]:
        """Bring exported executions into this store: all of them, or none.

        Open ones go on here, when a worker runs that hosts them. What people get wrong: a run that
        goes on in two places does its work twice; end it where it came from, or import it
        `closed`. An attempt that a worker there had begun counts as lost, as if it had died.

        Args:
            exports: files (paths), or the text that `export` has made.
            id: under another id than its own; for one execution. Its runs get new ids, and with
                them its activities new idempotency keys. Not for one that is encrypted, or that
                waits for others: both are bound to the id.
            closed: terminate open ones on arrival: to look at, not to go on.

        Returns:
            A handle of each execution, in the order of the files.

        Raises:
            UnreadableExport: a file is damaged, foreign, or of a newer format; names the line.
            WorkflowAlreadyStarted: an open execution has the id.
            ImportRefused: it is here already, or something that it waits for is missing.
        """
        executions = [one for source in exports for one in read_exported(source)]
        if not executions:
            raise ValueError("import_() takes exports: name at least one file")
        if id is not None and len(executions) > 1:
            raise ValueError(f"id={id!r}: one id for {len(executions)} executions")
        engine = self.engine
        name = None if id is None else checked_id(id)
        arrived = [_arrived(self, one, name, closed=closed) for one in executions]
        await engine.store.bring(arrived)
        for one in arrived:
            engine.ids.follow(one.last.run_id)
        engine.wake_hosts()
        return [
            WorkflowHandle(
                self,  # type: ignore[arg-type]
                one.last.workflow_id,
                execution_id=one.last.execution_id,
                run_id=one.last.run_id,
            )
            for one in arrived
        ]


async def _target(client: Connected, workflow_id: str, run_id: str | None) -> Target:
    storable(workflow_id, "id")
    engine = client.engine
    if run_id is None:
        return engine.target(client.namespace, workflow_id)
    row = await client.run_row(run_id)
    if row is None or (row.workflow_id, row.namespace) != (workflow_id, client.namespace):
        raise WorkflowNotFound(
            f"{workflow_id!r} has no run {run_id!r}. `everlong list --id` shows its runs",
            workflow_id=workflow_id,
            run_id=run_id,
        )
    return engine.target(client.namespace, workflow_id, row.execution_id)


def _arrived(
    client: Connected, execution: ExportedExecution, name: str | None, *, closed: bool
) -> ExportedExecution:
    engine, last = client.engine, execution.last
    now_us = engine.clock.now_us()
    if closed:
        execution = closed_on_arrival(execution, now_us, _LOOKED_AT)
    workflow_id = last.workflow_id if name is None else name
    if (client.namespace, workflow_id) != (last.namespace, last.workflow_id):
        _require_free(execution, workflow_id, client.namespace)
        execution = renamed(
            execution, client.namespace, workflow_id, lambda: engine.ids.next(now_us)
        )
    shard = engine.target(client.namespace, workflow_id).shard
    return arriving(execution, shard, now_us)


def _require_free(execution: ExportedExecution, workflow_id: str, namespace: str) -> None:
    """Refuse a new name where something is bound to the old one."""
    last = execution.last
    what = f"under the id {workflow_id!r} in the namespace {namespace!r}"
    if waits_for_others(execution):
        reason = f"other executions know it by its own id, so it cannot go on {what}"
        raise ImportRefused(workflow_id=last.workflow_id, reason=reason)
    if any(ENCRYPTED in data or _SEALED_TEXT in data for data in _all_bytes(execution)):
        reason = (
            f"its payloads are encrypted for the id and namespace {last.namespace!r} that it has, "
            f"and would not open {what}"
        )
        raise ImportRefused(workflow_id=last.workflow_id, reason=reason)


def _all_bytes(execution: ExportedExecution) -> Iterator[bytes]:
    yield from execution.blobs.values()
    yield from (item.payload for item in execution.items)
    yield from (state.payload for state in execution.entities)
    yield from (mail.body for mail in execution.mail)
    for run in execution.runs:
        yield from (row[3] for row in run.history)
        yield (run.row.reason or "").encode("utf-8", "surrogatepass")
        for one in run.attempts:
            yield f"{one.error}{one.traceback}".encode("utf-8", "surrogatepass")
            yield one.details or b""


# ----------------------------------------------------------------------------- exports as input


def read_exported(source: str | Path) -> list[ExportedExecution]:
    """What a file, or a text of `client.export`, holds.

    Raises:
        OSError: there is no such file.
        UnreadableExport: it is damaged, foreign or newer.
    """
    if isinstance(source, str) and source.startswith("{"):
        return read_export(source.splitlines())
    with Path(source).open(encoding="utf-8", errors="replace") as file:
        lines = iter(lambda: file.readline(_LINE_CHARS_MAX), "")
        try:
            return read_export(lines)
        except UnreadableExport as error:
            raise UnreadableExport(
                f"{source}: {error}", line=error.line, reason=error.reason
            ) from None


def _own() -> str:
    try:
        return version("everlong")
    except PackageNotFoundError:  # Run from its sources.
        return "?"
