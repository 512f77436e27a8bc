"""`everlong worker`: a process that hosts what files define, until it is told to stop."""

import asyncio
import gc
import json
import os
from collections.abc import Sequence
from pathlib import Path
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
from everlong.cli._processes import Processes, end_with_parent
from everlong.cli._screen import Part, err, out, write
from everlong.cli._sources import load, load_interceptors
from everlong.client import Client
from everlong.registry import Definitions
from everlong.worker import Worker

__all__ = ["worker"]

_Also = Annotated[
    list[str] | None,
    typer.Option(metavar="VERSION=FILE", help="An older version to host beside it; repeatable."),
]
_Policy = Annotated[str, typer.Option(metavar="POLICY", help="auto, pinned or pinned_run.")]
_Wait = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="For a worker that has the file to stop.")
]
_StopTimeout = Annotated[
    float,
    typer.Option(min=0, metavar="SECONDS", help="What running activities get when it stops."),
]
_Queues = Annotated[
    list[str] | None,
    typer.Option(
        metavar="QUEUE", help="Take from this task queue; may be repeated. All unless given."
    ),
]
_Processes = Annotated[
    int, typer.Option(min=1, metavar="N", help="Workers, each in a process; on a server.")
]


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
    queue: _Queues = None,
    versioning: _Policy = "auto",
    also: _Also = None,
    wait: _Wait = 0.0,
    stop_timeout: _StopTimeout = 10.0,
    processes: _Processes = 1,
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
    if processes > 1:
        given = [f"--activity-slots={activity_slots}", f"--stop-timeout={stop_timeout}"]
        given += [f"--versioning={versioning}", f"--namespace={namespace}"]
        given += _repeated("--version-name", version_name, "--interceptors", interceptors)
        given += [*(f"--queue={one}" for one in queue or ())]
        given += [*(f"--also={one}" for one in also or ()), "--", *files]
        return _serve_many(given, processes, db, codecs, name, stop_timeout, as_json=as_json)
    end_with_parent()
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
            queues=queue or None,
            activity_slots=activity_slots,
            stop_timeout=stop_timeout,
            version=version,
            versioning=cast("Versioning", versioning),
            wait=wait,
            interceptors=around,
        )

    beside = [hosting(version, definitions) for version, definitions in older]
    asyncio.run(_serve(client, hosting(version_name), beside, db, queue or None, as_json=as_json))
    return ExitCode.OK


def _repeated(*options: str | None) -> list[str]:
    """Options and their values, in turn; those without a value are left out."""
    pairs = zip(options[::2], options[1::2], strict=True)
    return [f"{option}={value}" for option, value in pairs if value is not None]


def _serve_many(
    given: list[str],
    count: int,
    db: str,
    codecs: str | None,
    name: str | None,
    stop_timeout_s: float,
    *,
    as_json: bool,
) -> int:
    """The same, in that many processes."""
    if isinstance(connect(db, "default", codecs).path, Path):
        raise Mistake(
            "one process has a file: --processes is for a store on a server (--db postgresql://…)"
        )
    environment = {"EVERLONG_URL": db}
    if codecs is not None:
        environment["EVERLONG_CODECS"] = codecs

    async def main() -> int:
        many = Processes(
            given,
            environment,
            name=name,
            stop_timeout_s=stop_timeout_s,
            say=lambda text: err().say((text, "yellow")),
            quiet=as_json,
        )
        return await many.serve(count, lambda said: _tell_all_ready(said, as_json=as_json))

    code = asyncio.run(main())
    if not as_json:
        out().say(("stopped", "dim"))
    return code


def _tell_all_ready(said: list[str], *, as_json: bool) -> None:
    each = [json.loads(one) for one in said]
    if as_json:
        write(document({"processes": each}))
        return
    screen = out()
    for facts in each:
        screen.say((facts["name"], "bold"), (f"  on {facts['store']}", "dim"))
    screen.say(("workflows   ", "dim"), *_names(each[0]["workflows"]), indent=2)
    screen.say(("activities  ", "dim"), *_names(each[0]["activities"]), indent=2)
    screen.say((f"{len(each)} processes ready; Ctrl-C stops them", "dim"), indent=2)


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
    client: Client,
    worker: Worker,
    beside: Sequence[Worker],
    db: str,
    queues: list[str] | None,
    *,
    as_json: bool,
) -> None:
    def ready() -> None:
        gc.collect()
        gc.freeze()  # The code that was loaded stays: no later collection looks through it again.
        facts: dict[str, Any] = {
            "name": worker.name,
            "pid": os.getpid(),
            "store": shown(db),
            "namespace": client.namespace,
            "workflows": sorted(worker.versions),
            "versions": worker.versions,
            "queues": queues,
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
    if facts["queues"] is not None:
        screen.say(("queues      ", "dim"), *_names(facts["queues"]), indent=2)
    screen.say(("ready; Ctrl-C stops it", "dim"), indent=2)


def _names(names: list[str]) -> list[Part]:
    return [", ".join(names)] if names else [("none", "yellow")]
