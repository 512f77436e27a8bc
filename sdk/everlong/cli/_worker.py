"""`everlong worker`: a process that hosts what files define, until it is told to stop."""

import asyncio
import os
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from everlong import registry
from everlong._definitions import Versioning
from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._logs import log_to
from everlong.cli._options import (
    DEFAULT_STORE,
    Codecs,
    Db,
    Interceptors,
    Json,
    Namespace,
    connect,
    shown,
)
from everlong.cli._screen import Part, err, out, write
from everlong.cli._sources import load, load_interceptors
from everlong.client import Client
from everlong.registry import Definitions
from everlong.worker import Worker

__all__ = ["worker"]


def worker(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Python files, or modules, to host.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="How others see it; host:pid unless given.")
    ] = None,
    activity_slots: Annotated[
        int, typer.Option(min=1, metavar="N", help="Attempts of activities at once.")
    ] = 200,
    version_name: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="Of its code, for pinned runs; a digest of each unless given."
        ),
    ] = None,
    versioning: Annotated[
        str, typer.Option(metavar="POLICY", help="auto, pinned or pinned_run.")
    ] = "auto",
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VERSION=FILE", help="An older version to host beside it; repeatable."
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="For a worker that has the file to stop."),
    ] = 0.0,
    stop_timeout: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="What running activities get when it stops."),
    ] = 10.0,
    interceptors: Interceptors = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Host workflows and activities until told to stop.

    SIGTERM or Ctrl-C stops it in order; a second one leaves at once.

    With --json the document is printed when it is ready.
    """
    older = [_older(one) for one in also or ()]
    for file in files:
        load(file)
    around = load_interceptors(interceptors)
    log_to(err(), retries=True)
    client = connect(db, namespace, codecs, create=True)

    def hosting(version: str | None, definitions: Definitions | None = None) -> Worker:
        return Worker(
            client,
            workflows=None if definitions is None else definitions.workflows,
            name=name,
            activity_slots=activity_slots,
            stop_timeout=stop_timeout,
            version=version,
            versioning=cast("Versioning", versioning),
            wait=wait,
            interceptors=around,
        )

    beside = [hosting(version, definitions) for version, definitions in older]
    asyncio.run(_serve(client, hosting(version_name), beside, db, as_json=as_json))
    return ExitCode.OK


def _older(given: str) -> tuple[str, Definitions]:
    """Of VERSION=FILE."""
    version, equals, file = given.partition("=")
    if not (version and equals and file):
        raise Mistake(f"--also {given}: write VERSION=FILE, such as --also 2026-10=shop_2026_10.py")
    definitions = Definitions()
    with definitions:
        load(file)
    if not definitions.workflows:
        raise Mistake(
            f"--also {given}: it brings no workflow of its own; the older version must be another "
            "module, such as a copy of the file under another name"
        )
    return version, definitions


async def _serve(
    client: Client, worker: Worker, beside: Sequence[Worker], db: str, *, as_json: bool
) -> None:
    def ready() -> None:
        facts: dict[str, Any] = {
            "name": worker.name,
            "pid": os.getpid(),
            "store": shown(db),
            "namespace": client.namespace,
            "workflows": sorted(registry.workflows),
            "versions": worker.versions,
            "activities": sorted(registry.activities),
        }
        if as_json:
            write(document(facts))
        else:
            _tell_ready(facts)

    async with client:
        await worker.run(on_ready=ready, beside=beside)
    if not as_json:
        out().say(("stopped", "dim"))


def _tell_ready(facts: dict[str, Any]) -> None:
    screen = out()
    screen.say((facts["name"], "bold"), (f"  on {facts['store']}", "dim"))
    screen.say(("workflows   ", "dim"), *_names(facts["workflows"]), indent=2)
    screen.say(("activities  ", "dim"), *_names(facts["activities"]), indent=2)
    screen.say(("ready; Ctrl-C stops it", "dim"), indent=2)


def _names(names: list[str]) -> list[Part]:
    return [", ".join(names)] if names else [("none", "yellow")]
