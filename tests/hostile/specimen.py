"""A store with a row in every table, and what is done to it.

`victim` waits for a signal that lies in its inbox; its arguments spilled into the blobs. `retrying`
has an activity in back-off. Two healthy runs stand beside them. The file is made once and copied.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import msgpack

from everlong import (
    Client,
    Retry,
    Signal,
    Worker,
    activity,
    approval,
    get_handle,
    publish,
    workflow,
)
from everlong.workflow import Workflow
from everlong_engine.model.codec import checksum
from tests.support.hosting import described

__all__ = [
    "HEALTHY",
    "WHERE",
    "change",
    "copy",
    "event",
    "everything_goes_on",
    "flow",
    "go",
    "packed",
    "put_event",
    "put_mail",
    "stubborn",
    "tampered",
]

HEALTHY: Final = ("healthy-0", "healthy-1")
GOES_ON_WITHIN_S: Final = 20.0

go = Signal("hostile-go", str)


@activity(name="hostile-step")
async def step(text: str) -> int:
    return len(text)


@activity(name="hostile-stubborn", retry=Retry(delay=3600.0, delay_max=7200.0))
async def fails(text: str) -> str:
    raise ValueError(f"no {text} today")


@workflow(name="hostile-flow")
async def flow(text: str) -> list[Any]:
    length = await step(text)
    await publish("told", length)
    asking = asyncio.ensure_future(approval("May it go on?", data=length))
    asking.add_done_callback(lambda _: None)
    return [length, await go.receive()]


@workflow(name="hostile-stubborn-flow")
async def stubborn(text: str) -> str:
    return await fails(text)


@workflow(name="hostile-watcher")
async def watcher(of: str) -> str:
    await get_handle(of).result()
    return "seen"


WORKFLOWS: Final[list[Workflow[Any, Any]]] = [flow, stubborn, watcher]

_RUN: Final = "run_id = (SELECT run_id FROM runs WHERE workflow_id = '{}')"
_EXECUTION: Final = "execution_id = (SELECT execution_id FROM runs WHERE workflow_id = 'victim')"

WHERE: Final = {
    "runs": "workflow_id = 'victim'",
    "history": _RUN.format("victim") + " AND seq = 2",
    "inbox": _EXECUTION,
    "requests": _EXECUTION,
    "attempts": _RUN.format("retrying"),
    "published": _EXECUTION,
    "links": _EXECUTION,
    "approvals": _RUN.format("victim"),
    "tags": _RUN.format("victim"),
    "blobs": "digest = (SELECT digest FROM blobs ORDER BY digest LIMIT 1)",
    "blob_uses": "digest = (SELECT digest FROM blobs ORDER BY digest LIMIT 1)",
    "workers": "worker_id IS NOT NULL",
    "questions": "question_id IS NOT NULL",
}
"""The row of each table that is damaged."""


@cache
def _template() -> Path:
    path = Path(mkdtemp(prefix="everlong-hostile-")) / "template.db"
    # In a thread: who asks first may be a test with a loop of its own.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(_make(path))).result()
    with closing(sqlite3.connect(path)) as db, db:
        victim = db.execute("SELECT shard FROM runs WHERE workflow_id = 'victim'").fetchone()
        db.execute(
            "INSERT INTO questions VALUES (?, ?, 'default', 'victim', 'told', ?, ?, NULL, NULL)",
            (bytes(16), *victim, b"\x92\x90\x80", 1_700_000_000_000_000),
        )
    return path


async def _make(path: Path) -> None:
    async with Client.connect(path) as client:
        async with Worker(client, workflows=WORKFLOWS):
            for name in (*HEALTHY, "victim"):
                text = "x" * 70_000 if name == "victim" else name
                await client.start(flow, text, id=name, tags={"customer": name})
            await client.start(stubborn, "luck", id="retrying")
            for name in (*HEALTHY, "victim"):
                await described(client.get_handle(name), lambda it: it.history_events == 5)
            watching = await client.start(watcher, "victim", id="watcher")
            await described(watching, lambda it: it.history_events == 2)
            await described(
                client.get_handle("retrying"),
                lambda it: bool(it.activities) and it.activities[0].state == "backing off",
            )
        await client.get_handle("victim").signal(go, "now", request_id="r1")


def copy(folder: Path) -> Path:
    """A store of one's own."""
    target = folder / "everlong.db"
    shutil.copy(_template(), target)
    return target


@contextmanager
def tampered(path: Path) -> Generator[sqlite3.Connection]:
    """The file, without the triggers that guard what is append-only."""
    with closing(sqlite3.connect(path)) as db, db:
        guards = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            db.execute(f"DROP TRIGGER {name}")
        yield db
        for _, guard in guards:
            db.execute(guard)


def change(path: Path, table: str, column: str, value: str) -> int:
    """Put what a piece of SQL gives into a column of the damaged row; how many rows it changed."""
    with tampered(path) as db:
        text = f"UPDATE {table} SET {column} = {value} WHERE {WHERE[table]}"
        return db.execute(text).rowcount


def packed(value: object) -> bytes:
    return bytes(msgpack.packb(value, strict_types=False))


def put_event(path: Path, seq: int, kind: int, body: object, *, sum_of: int | None = None) -> None:
    """Replace an event of the victim by another one, with the right checksum."""
    data = body if isinstance(body, bytes) else packed(body)
    with tampered(path) as db:
        stored = checksum(seq, kind, data) if sum_of is None else sum_of
        db.execute(
            "UPDATE history SET kind = ?, body = ?, checksum = ? WHERE seq = ? AND "
            + _RUN.format("victim"),
            (kind, data, stored, seq),
        )


def put_mail(path: Path, kind: int, body: object) -> None:
    """Replace what lies in the victim's inbox, with the right checksum."""
    data = body if isinstance(body, bytes) else packed(body)
    with tampered(path) as db:
        db.execute(
            f"UPDATE inbox SET kind = ?, body = ?, checksum = ? WHERE {_EXECUTION}",
            (kind, data, checksum(0, kind, data)),
        )


def event(path: Path, seq: int) -> list[Any]:
    """The fields of an event of the victim as they are stored, the schema's version first."""
    with closing(sqlite3.connect(path)) as db:
        text = "SELECT body FROM history WHERE seq = ? AND " + _RUN.format("victim")
        body = db.execute(text, (seq,)).fetchone()[0]
    wire: list[Any] = msgpack.unpackb(body, strict_map_key=False, ext_hook=msgpack.ExtType)
    return wire


async def everything_goes_on(
    path: Path, look: Callable[[Client], Any] | None = None, *, workers: int = 1
) -> None:
    """Healthy runs end, new ones begin and end, and the list has them all."""
    async with asyncio.timeout(GOES_ON_WITHIN_S), Client.connect(path) as client:
        for _ in range(workers):
            async with Worker(client, workflows=WORKFLOWS):
                fresh = await client.start(flow, "fresh", id="fresh")
                for name in (*HEALTHY, "fresh"):
                    handle = client.get_handle(name, flow)
                    if (await handle.describe()).status == "running":
                        await handle.signal(go, "go")
                    assert await handle.result() == [len(name), "go"]
                assert fresh.workflow_id == "fresh"
                if look is not None:
                    await look(client)
        listed = {one.workflow_id for one in (await client.list()).items}
        assert listed >= {*HEALTHY, "fresh"}
