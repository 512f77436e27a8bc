"""`everlong doctor`: versions, the store's settings, its workers, and what deserves a thought."""

import asyncio
import os
import platform
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from everlong import registry
from everlong.cli._documents import document
from everlong.cli._durations import ago, now
from everlong.cli._exits import ExitCode, exit_code_of
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import Cell, Screen, out, write
from everlong.cli._sources import load
from everlong.cli._workers import hosting
from everlong.client import Client
from everlong.client._views import instant
from everlong.exceptions import StoreError
from everlong_engine import WorkerRow

__all__ = ["doctor", "installed"]

_PACKAGES: Final = ("aiosqlite", "anyio", "msgpack", "pydantic", "typer", "rich")
_FOR_PROGRAMS: Final = frozenset({"application_id", "page_size"})
_BLOCKED_SHOWN_MAX: Final = 100
_RUNS_LOOKED_AT_MAX: Final = 1000
_UNHOSTED_SHOWN_MAX: Final = 10


def installed(package: str) -> str:
    """The version of an installed distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def doctor(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE…]", help="Files with workflows, to look at their options."),
    ] = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Show versions, settings, workers and warnings."""
    for file in files or ():
        load(file)
    findings = _Findings(_versions())
    code = asyncio.run(_examine(connect(db, namespace, codecs), db, findings))
    if files:
        findings.warnings += _definition_warnings()
    if as_json:
        write(document(findings))
    else:
        _draw(out(), findings)
    return code


@dataclass(slots=True)
class _Findings:
    versions: dict[str, str]
    store: dict[str, str] = field(default_factory=dict[str, str])
    store_error: str | None = None
    workers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    warnings: list[str] = field(default_factory=list[str])


def _versions() -> dict[str, str]:
    first = {
        "everlong": installed("everlong"),
        "python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "sqlite": sqlite3.sqlite_version,
    }
    return first | {name: installed(name) for name in _PACKAGES}


async def _examine(client: Client, db: str, findings: _Findings) -> ExitCode:
    try:
        async with client:
            await _examine_store(client, findings)
    except StoreError as error:
        # A store that was never made is no fault, unless somebody named it.
        code = ExitCode.OK if _is_unnamed(db) else exit_code_of(error)
        findings.store_error = str(error)
        return code
    return ExitCode.OK


def _is_unnamed(db: str) -> bool:
    return db == DEFAULT_STORE and "EVERLONG_URL" not in os.environ and not Path(db).exists()


async def _examine_store(client: Client, findings: _Findings) -> None:
    info = await client.store_info()
    findings.store = {"location": info.location, "engine": info.engine, **info.settings}
    findings.warnings += info.warnings
    workers = await client.workers()
    findings.workers = [_worker_facts(one) for one in workers if one.is_there]
    findings.warnings += [
        f"the worker {one.name} is gone without a word; the next one takes over its runs"
        for one in workers
        if one.gone
    ]
    findings.warnings += await _locked(client)
    findings.warnings += await _unhosted(client, [one for one in workers if one.is_there])
    findings.warnings += await _untaken(client)
    blocked = await client.list(status="blocked", limit=_BLOCKED_SHOWN_MAX)
    if blocked.items:
        count = f"{len(blocked.items)}{'+' if blocked.next else ''}"
        findings.warnings.append(f"{count} blocked: everlong list --status blocked")


async def _unhosted(client: Client, workers: Sequence[WorkerRow]) -> list[str]:
    """Workflows with open runs that nobody could drive: perhaps their code is gone."""
    newest = await client.list(status="running", limit=_RUNS_LOOKED_AT_MAX)
    waiting = Counter(
        run.type if run.version is None else f"version {run.version} of {run.type}"
        for run in newest.items
        if not hosting(workers, run)
    )
    return [
        f"no worker is here for {what}: {'1 run waits' if count == 1 else f'{count} runs wait'}"
        for what, count in sorted(waiting.items())[:_UNHOSTED_SHOWN_MAX]
    ]


async def _untaken(client: Client) -> list[str]:
    """Task queues from which nobody takes."""
    return [
        f"no worker takes from the task queue {one.queue}: "
        f"{'1 call' if one.waiting == 1 else f'{one.waiting} calls'} of {one.activity} "
        f"{'waits' if one.waiting == 1 else 'wait'}"
        for one in await client.queues()
        if one.waiting and not one.workers
    ][:_UNHOSTED_SHOWN_MAX]


async def _locked(client: Client) -> list[str]:
    """Whether the newest run has payloads that this command has no key for."""
    newest = await client.list(limit=1)
    for run in newest.items:
        seen = (await client.get_handle(run.workflow_id).describe()).input
        # Arguments are a map; only a note is a text.
        if isinstance(seen, str) and seen.startswith("<encrypted"):
            return [f"payloads are {seen.strip('<>')}: --codecs FILE gives it to a command"]
    return []


def _worker_facts(one: WorkerRow) -> dict[str, Any]:
    return {
        "name": one.name,
        "host": one.host,
        "pid": one.pid,
        "started_at": instant(one.started_us),
        "workflows": list(one.types),
        "versions": dict(zip(one.types, one.versions, strict=False)),
    }


def _definition_warnings() -> list[str]:
    endless = [
        name
        for name, one in sorted(registry.activities.items())
        if one.definition.options.start_to_close_us is None
    ]
    if not endless:
        return []
    return [
        f"without a timeout: {', '.join(endless)}. An attempt that hangs is never tried again; "
        "@activity(timeout=…) limits each attempt"
    ]


def _draw(screen: Screen, findings: _Findings) -> None:
    _draw_facts(screen, "versions", findings.versions)
    if findings.store_error is not None:
        _draw_facts(screen, "store", {"": findings.store_error})
    else:
        shown = {k: v for k, v in findings.store.items() if k not in _FOR_PROGRAMS}
        _draw_facts(screen, "store", shown)
        screen.say(("workers", "bold"))
        rows: list[list[Cell]] = [
            [
                f"  {one['name']}",
                (f"since {ago(one['started_at'], now())}".replace(" ago", ""), "dim"),
                ", ".join(one["workflows"]),
            ]
            for one in findings.workers
        ]
        screen.table(rows)
        if not rows:
            screen.say(("none is running", "dim"), indent=2)
    screen.say(("warnings", "bold"))
    for warning in findings.warnings:
        screen.say(("! ", "yellow"), warning, indent=2)
    if not findings.warnings:
        screen.say(("✓ ", "green"), "none", indent=2)


def _draw_facts(screen: Screen, title: str, facts: dict[str, str]) -> None:
    screen.say((title, "bold"))
    columns = max(map(len, facts), default=0) + 2
    for name, value in facts.items():
        screen.say((f"{name:<{columns}}" if name else "", "dim"), value, indent=2)
