"""`everlong worker`: a process that hosts what files define, until it is told to stop."""

import asyncio
import os
from typing import Annotated, Any

import typer

from everlong import registry
from everlong.cli._documents import document
from everlong.cli._exits import ExitCode
from everlong.cli._logs import log_to
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import Part, err, out, write
from everlong.cli._sources import load
from everlong.client import Client
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
    stop_timeout: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="What running activities get when it stops."),
    ] = 10.0,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Host workflows and activities until told to stop.

    SIGTERM or Ctrl-C stops it in order; a second one leaves at once.

    With --json the document is printed when it is ready.
    """
    for file in files:
        load(file)
    log_to(err(), retries=True)
    client = connect(db, namespace, codecs, create=True)
    asyncio.run(
        _serve(
            client,
            Worker(client, name=name, activity_slots=activity_slots, stop_timeout=stop_timeout),
            db,
            as_json=as_json,
        )
    )
    return ExitCode.OK


async def _serve(client: Client, worker: Worker, db: str, *, as_json: bool) -> None:
    def ready() -> None:
        facts: dict[str, Any] = {
            "name": worker.name,
            "pid": os.getpid(),
            "store": db,
            "namespace": client.namespace,
            "workflows": sorted(registry.workflows),
            "activities": sorted(registry.activities),
        }
        if as_json:
            write(document(facts))
        else:
            _tell_ready(facts)

    async with client:
        await worker.run(on_ready=ready)
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
