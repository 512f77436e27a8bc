"""`everlong metrics`: how flows that read streams are doing, for Prometheus to scrape."""

import asyncio
import signal
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import out, write
from everlong.cli._sources import load_stream
from everlong.client import Client
from everlong.streams import Stream

__all__ = ["metrics"]


def metrics(
    declarations: Annotated[
        list[str],
        typer.Argument(metavar="FILE:NAME…", help="Where streams are declared: orders.py:orders."),
    ],
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0: any.")] = 9464,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="0.0.0.0 lets other machines scrape.")
    ] = "127.0.0.1",
    filter: Annotated[
        str | None,
        typer.Option(metavar="FILTER", help="Which executions to look at; all open ones else."),
    ] = None,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=1.0, help="Between two looks.")
    ] = 30.0,
    flows_max: Annotated[
        int, typer.Option(metavar="N", min=1, help="Executions to look at, the newest first.")
    ] = 100,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Serve the lag of flows, their dead letters and last batches, for Prometheus to scrape."""
    if find_spec("prometheus_client") is None:
        raise Mistake("this needs an extra: pip install 'everlong[prometheus]'")
    streams = [load_stream(one) for one in declarations]
    client = connect(db, namespace, codecs)
    options = {"filter": filter, "every": every, "flows_max": flows_max}
    asyncio.run(_serve(client, streams, options, (host, port), as_json=as_json))
    if not as_json:
        out().say(("stopped", "dim"))
    return ExitCode.OK


async def _serve(
    client: Client,
    streams: list[Stream[Any]],
    options: dict[str, Any],
    place: tuple[str, int],
    *,
    as_json: bool,
) -> None:
    from prometheus_client import CollectorRegistry, start_http_server

    from everlong.prometheus import StreamMetrics

    host, port = place
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stopped.set)
    async with client, StreamMetrics(client, *streams, **options) as seen:
        registry = CollectorRegistry()
        registry.register(seen)
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as error:
            raise Mistake(f"{host}:{port} cannot be served: {error.strerror}") from error
        try:
            url = f"http://{host}:{server.server_port}/metrics"
            if as_json:
                write(document({"url": url, "streams": [one.name for one in streams]}))
            else:
                out().say(url, ("  Ctrl-C stops it", "dim"))
            await stopped.wait()
        finally:
            await loop.run_in_executor(None, server.shutdown)
            server.server_close()
            thread.join()
