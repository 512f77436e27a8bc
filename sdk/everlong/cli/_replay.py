"""`everlong replay`: would the runs of a store, or of exported files, go on with this code?

Nothing is written, not even where the store is of an earlier schema, so it may be pointed at the
file that production has open. Runs that part from their histories alike are told together.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._list import Filter
from everlong.cli._onlookers import looking
from everlong.cli._options import (
    DEFAULT_STORE,
    Codecs,
    Db,
    Interceptors,
    Json,
    Namespace,
    connect,
)
from everlong.cli._screen import STATUS, out, output_kept_for_document, write
from everlong.cli._sources import load, load_interceptors
from everlong.client import Client
from everlong.client._transferring import read_exported
from everlong.exceptions import EverlongError, NondeterminismError
from everlong.replayer import ReplayedRun, Replayer
from everlong_engine import LoadedRun, RunFilter, RunRow, RunStatus, parse_filter
from everlong_engine.clock import SystemClock

__all__ = ["Source", "replay", "runs_of_store"]

_SHOWN_MAX: Final = 10
"""Runs of one group that are named; --json names all."""
_OPEN: Final = tuple(one.text for one in RunStatus if one.is_open)

Load = Callable[[], LoadedRun | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which runs are wanted."""

    type: str | None = None
    id: str | None = None
    status: str | None = None
    closed: int = 0
    filter: str | None = None


def replay(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…", help="Python files, or modules, with the code; exported .jsonl files."
        ),
    ],
    filter: Filter = None,
    type: Annotated[
        str | None, typer.Option(metavar="WORKFLOW", help="Only runs of this workflow.")
    ] = None,
    id: Annotated[str | None, typer.Option(metavar="ID", help="Only runs of this id.")] = None,
    status: Annotated[
        str | None,
        typer.Option(metavar="STATUS", help="Only these, instead of all that are open."),
    ] = None,
    closed: Annotated[
        int, typer.Option(min=0, metavar="N", help="The newest N closed runs, too.")
    ] = 0,
    interceptors: Interceptors = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Replay runs against this code, and touch nothing.

    Every open run of the store, or every run of the exported files if there are any. Exits with 1
    if the code does not do what one of them has recorded.
    """
    known = [one.text for one in RunStatus]
    if status is not None and status not in known:
        raise Mistake(f"--status {status}: choose one of {', '.join(known)}")
    code = [file for file in files if not file.endswith(".jsonl")]
    exports = [file for file in files if file.endswith(".jsonl")]
    if not code:
        raise Mistake("name the Python file, or the module, that holds the workflows")
    if exports and filter is not None:
        raise Mistake("--filter searches a store; of exported files choose with --type or --id")
    client = connect(db, namespace, codecs)
    source = Source(type=type, id=id, status=status, closed=closed, filter=filter)
    began = time.perf_counter()
    # What the workflows' own code prints is no part of the answer.
    with output_kept_for_document(True):
        for file in code:
            load(file)
        replayer = Replayer(codecs=client.codecs, interceptors=load_interceptors(interceptors))
        runs = _of_files(exports, source) if exports else runs_of_store(client, source)
        found = [_replayed(replayer, row, load_run) for row, load_run in runs]
    done = [one for one in found if one is not None]
    seconds = time.perf_counter() - began
    if as_json:
        write(document(_facts(done, seconds)))
    else:
        _tell(done, seconds)
    return ExitCode.OK if all(one.fits for one in done) else ExitCode.PROBLEM


def _replayed(replayer: Replayer, row: RunRow, load_run: Load) -> ReplayedRun | None:
    try:
        loaded = load_run()
    except EverlongError as fault:
        return ReplayedRun.of(row, fault)
    return None if loaded is None else replayer.check_run(loaded)


# ------------------------------------------------------------------------------- where runs are


def runs_of_store(client: Client, source: Source) -> Iterator[tuple[RunRow, Load]]:
    """Those of a store, the newest first, and how each is loaded."""
    where = None if source.filter is None else parse_filter(source.filter)
    look = partial(
        RunFilter,
        client.namespace,
        type=source.type,
        workflow_id=source.id,
        where=where,
        now_us=SystemClock().now_us(),
    )
    with looking(client) as store:
        for status in _OPEN if source.status is None else (source.status,):
            for row in store.runs(look(status=status)):
                yield row, partial(store.load, row)
        ended = (row for row in store.runs(look()) if not row.status.is_open)
        for row in islice(ended, source.closed):
            yield row, partial(store.load, row)


def _of_files(exports: Sequence[str], source: Source) -> Iterator[tuple[RunRow, Load]]:
    for file in exports:
        try:
            executions = read_exported(Path(file))
        except OSError as error:
            raise Mistake(str(error)) from error
        for execution in executions:
            for run in execution.runs:
                row = run.row
                fits = (
                    source.type in (None, row.type)
                    and source.id in (None, row.workflow_id)
                    and source.status in (None, row.status.text)
                )
                if fits:
                    yield row, partial(execution.load, run)


# ----------------------------------------------------------------------------------- the answer


@dataclass(slots=True)
class _Group:
    """Runs that part from the code in the same way."""

    first: ReplayedRun
    runs: list[ReplayedRun] = field(default_factory=list[ReplayedRun])


def _groups(done: Sequence[ReplayedRun]) -> list[_Group]:
    groups: dict[tuple[str, ...], _Group] = {}
    for one in done:
        if one.fault is not None:
            groups.setdefault(_kind(one), _Group(one)).runs.append(one)
    return sorted(groups.values(), key=lambda group: -len(group.runs))


def _kind(run: ReplayedRun) -> tuple[str, ...]:
    fault = run.fault
    if isinstance(fault, NondeterminismError):
        places = (fault.recorded_at, fault.made_at)
        if all(places):
            return run.workflow, *places
        return run.workflow, fault.recorded, fault.made
    return run.workflow, str(fault)


def _tell(done: Sequence[ReplayedRun], seconds: float) -> None:
    screen = out()
    for group in _groups(done):
        _tell_group(group)
    events = sum(one.events for one in done)
    broken = sum(not one.fits for one in done)
    workflows = len({one.workflow for one in done})
    what = f"{_count(len(done), 'run')} of {_count(workflows, 'workflow')}"
    if not done:
        screen.say(("no runs to replay", "dim"))
    elif broken:
        screen.say(
            ("✗ ", "red"),
            (f"{broken} of {what} cannot go on with this code", "bold"),
            _took(events, seconds),
        )
    else:
        screen.say(("✓ ", "green"), f"{what} fit this code", _took(events, seconds))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _took(events: int, seconds: float) -> tuple[str, str]:
    return f"  {events} events in {seconds:.1f} s", "dim"


def _tell_group(group: _Group) -> None:
    screen = out()
    for run in group.runs[:_SHOWN_MAX]:
        mark, style = STATUS[run.status]
        where = "" if run.event is None else f"  event {run.event} of {run.events}"
        screen.say(
            (f"{mark} ", style), (run.workflow_id, "bold"), f"  {run.workflow}", (where, "dim")
        )
    if len(group.runs) > _SHOWN_MAX:
        screen.say((f"… and {len(group.runs) - _SHOWN_MAX} more", "dim"))
    first = group.first
    if isinstance(first.fault, NondeterminismError):
        screen.say(("recorded  ", "dim"), first.fault.recorded, indent=4)
        screen.say(("made now  ", "dim"), first.fault.made, indent=4)
    else:
        kind = type(first.fault).__name__
        screen.say((f"{kind}  ", "dim"), str(first.fault), indent=4)
    screen.say(("→ ", "yellow"), first.advice, indent=4)
    screen.say("")


def _facts(done: Sequence[ReplayedRun], seconds: float) -> dict[str, Any]:
    return {
        "ok": all(one.fits for one in done),
        "runs": len(done),
        "events": sum(one.events for one in done),
        "seconds": seconds,
        "incompatible": [_facts_of(one) for one in done if not one.fits],
    }


def _facts_of(run: ReplayedRun) -> dict[str, Any]:
    fault = run.fault
    facts: dict[str, Any] = {
        "workflow_id": run.workflow_id,
        "run_id": run.run_id,
        "workflow": run.workflow,
        "status": run.status,
        "events": run.events,
        "event": run.event,
        "type": type(fault).__name__,
        "message": str(fault),
        "advice": run.advice,
    }
    if isinstance(fault, NondeterminismError):
        for name in ("recorded", "made", "recorded_at", "made_at"):
            facts[name] = getattr(fault, name)
    return facts
