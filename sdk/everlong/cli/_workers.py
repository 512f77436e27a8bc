"""Which workers there are, and which of them could take up a run."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer

from everlong._definitions import OWN
from everlong.cli._documents import document
from everlong.cli._durations import ago, now, span
from everlong.cli._exits import ExitCode
from everlong.cli._options import DEFAULT_STORE, Db, Json, Namespace, connect
from everlong.cli._screen import Cell, out, write
from everlong.client import Client, ExecutionSummary
from everlong.client._views import instant
from everlong_engine import Wants, WorkerRow

__all__ = ["hosting", "missing", "workers"]

_QUEUE = "default"


def hosting(workers: Sequence[WorkerRow], run: ExecutionSummary) -> list[str]:
    """The names of those that are there and host its workflow, in the version that it is pinned
    to."""
    return [one.name for one in workers if one.is_there and one.may_drive(run.type, run.version)]


def missing(run: ExecutionSummary) -> str:
    """Whom a run without such a worker waits for."""
    if run.version is None:
        return f"none is here for {run.type}"
    return f"waits for a worker of version {run.version}"


# ------------------------------------------------------------------------------- the command


@dataclass(frozen=True, slots=True)
class _Worker:
    name: str
    host: str
    pid: int
    state: str
    started_at: datetime
    heard_at: datetime | None
    """None: of a file, whose lock says who is there, nobody is heard."""
    lag_s: float | None
    """For how long the run waits that waits longest for such a worker; None: it is not there."""
    versions: dict[str, str]
    slots: int | None
    """How many attempts it may have at work at once; None: it has not said."""
    busy: int | None
    """How many it had when it was last heard of; None: of a file nobody is heard."""
    queues: list[str] | None
    """The task queues that it takes from; None: all of them."""


def workers(
    all: Annotated[bool, typer.Option("--all", help="Those that are gone, too.")] = False,
    db: Db = DEFAULT_STORE,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Show who is at work on the store: versions, the last sign of life, and what waits."""

    async def look(client: Client) -> list[_Worker]:
        async with client:
            rows = [one for one in await client.workers() if all or one.is_there]
            return [await _look(client, one) for one in rows]

    found = asyncio.run(look(connect(db, namespace, None)))
    if as_json:
        write(document({"workers": found}))
    else:
        _show(found)
    return ExitCode.OK


async def _look(client: Client, row: WorkerRow) -> _Worker:
    state = "here" if row.is_there else "stopped" if row.dead else "gone"
    return _Worker(
        name=row.name,
        host=row.host,
        pid=row.pid,
        state=state,
        started_at=instant(row.started_us),
        heard_at=instant(row.beat_us) if client.engine.shared else None,
        lag_s=await _lag_s(client, row) if row.is_there else None,
        versions={
            kind: version
            for kind, version in zip(row.types, row.versions, strict=False)
            if not kind.startswith(OWN)
        },
        slots=row.slots or None,
        busy=row.busy if client.engine.shared and row.is_there else None,
        queues=None if row.queues is None else list(row.queues),
    )


async def _lag_s(client: Client, row: WorkerRow) -> float:
    pinned = tuple(zip(row.types, row.versions, strict=False))
    wants = Wants(row.worker_id, _QUEUE, row.types, pinned)
    due_us = await client.engine.store.next_wake(wants)
    return 0.0 if due_us is None else max(client.engine.clock.now_us() - due_us, 0) / 1e6


def _show(found: Sequence[_Worker]) -> None:
    screen = out()
    if not found:
        screen.say(("no worker is here", "dim"))
        return
    header = ("WORKER", "PROCESS", "STARTED", "HEARD", "LAG", "SLOTS", "QUEUES", "VERSIONS")
    screen.table([_row(one) for one in found], header=header)


def _row(one: _Worker) -> list[Cell]:
    heard: Cell = ("", "dim") if one.heard_at is None else ago(one.heard_at, now())
    if one.state != "here":
        heard = (one.state, "dim" if one.state == "stopped" else "yellow")
    late = one.lag_s is not None and one.lag_s >= 1.0
    lag: Cell = ("", "dim") if one.lag_s is None else (span(one.lag_s), "yellow" if late else "dim")
    return [
        (one.name, "bold"),
        f"{one.host}:{one.pid}",
        (ago(one.started_at, now()), "dim"),
        heard,
        lag,
        _slots(one),
        ("all", "dim") if one.queues is None else ", ".join(one.queues),
        ", ".join(f"{kind} {version}" for kind, version in sorted(one.versions.items())),
    ]


def _slots(one: _Worker) -> Cell:
    """Used of all: 3/200; only all where nobody is heard."""
    if one.slots is None:
        return ("", "dim")
    if one.busy is None:
        return (f"{one.slots}", "dim")
    return (f"{one.busy}/{one.slots}", "yellow" if one.busy >= one.slots else "")
