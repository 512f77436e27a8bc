"""What stands in task queues: queues."""

import asyncio
from collections.abc import Sequence

from everlong.cli._documents import document
from everlong.cli._durations import now, span
from everlong.cli._exits import ExitCode
from everlong.cli._options import DEFAULT_STORE, Db, Json, Namespace, connect
from everlong.cli._screen import Cell, out, write
from everlong.client import Client, QueueSummary

__all__ = ["queues"]


def queues(db: Db = DEFAULT_STORE, namespace: Namespace = "default", as_json: Json = False) -> int:
    """Show what stands in task queues, for how long, and which workers take from them."""

    async def look(client: Client) -> Sequence[QueueSummary]:
        async with client:
            return await client.queues()

    found = asyncio.run(look(connect(db, namespace, None)))
    if as_json:
        write(document({"queues": found}))
    else:
        _show(found)
    return ExitCode.OK


def _show(found: Sequence[QueueSummary]) -> None:
    screen = out()
    if not found:
        screen.say(("nothing stands in a task queue", "dim"))
        return
    header = ("QUEUE", "ACTIVITY", "WAITING", "LONGEST", "RUNNING", "WORKERS")
    screen.table([_row(one) for one in found], header=header)


def _row(one: QueueSummary) -> list[Cell]:
    late_s = 0.0 if one.oldest_at is None else (now() - one.oldest_at).total_seconds()
    workers: Cell = ", ".join(one.workers) or ("none takes from it", "yellow")
    return [
        (one.queue, "bold"),
        one.activity,
        (str(one.waiting), "" if one.waiting else "dim"),
        (span(late_s) if late_s > 0 else "", "yellow" if late_s >= 1 else "dim"),
        (str(one.running), "" if one.running else "dim"),
        workers,
    ]
