"""An execution whose own row is damaged is ended by command, and the row says so from then on."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from everlong import (
    Client,
    Worker,
    WorkflowCancelled,
    WorkflowFailed,
    continue_as_new,
    workflow,
)
from everlong.exceptions import EverlongError
from tests.hostile import specimen
from tests.hostile.conftest import Command
from tests.hostile.test_columns import BLOBS, INTEGERS, ODD_TEXTS
from tests.support.hosting import described

BAD = {"INTEGER": INTEGERS[:3], "BLOB": (BLOBS[0], BLOBS[4]), "TEXT": ODD_TEXTS[:1]}
NAMES = ("shard", "run_id", "namespace", "workflow_id")
"""By these it is found, with what hangs on it: where they are damaged nothing can be done here."""

WAYS: Final = ("terminate", "cancel", "abandon")


@workflow(name="hostile-child")
async def child() -> str:
    return await specimen.go.receive()


@workflow(name="hostile-parent")
async def parent(is_new: bool = True) -> None:
    if is_new:
        for way in WAYS:
            await child.options(id=way, on_parent_close=way).start()
        continue_as_new(is_new=False)
    await specimen.go.receive()


def columns(folder: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(specimen.copy(folder))) as db:
        return [(name, kind) for _, name, kind, *_ in db.execute("PRAGMA table_info(runs)")]


async def _end(path: Path, caplog: pytest.LogCaptureFixture, column: str) -> None:
    caplog.clear()
    async with Client.connect(path) as client:
        handle = client.get_handle("victim")
        if column in NAMES:
            with pytest.raises(EverlongError):
                await handle.terminate("off with it")
            return
        with pytest.raises(EverlongError, match=column):
            await handle.describe()
        await handle.terminate("off with it")
        assert column in caplog.text
        told = await handle.describe()
        assert (told.status, told.type) == ("terminated", "hostile-flow")
        assert (await handle.history())[-1].kind == "RunTerminated"


def test_whatever_its_row_holds_an_execution_is_ended(
    tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    tried = 0
    for column, kind in columns(tmp_path):
        for value in BAD[kind]:
            path = specimen.copy(tmp_path)
            try:
                specimen.change(path, "runs", column, value)
            except sqlite3.Error:
                continue  # SQLite itself refuses it.
            asyncio.run(_end(path, caplog, column))
            tried += 1
            if column not in NAMES:
                assert command("verify").code == 0, f"{column} = {value}"
    assert tried > 30


def test_who_waits_for_it_is_told_and_everybody_else_goes_on(
    tmp_path: Path, command: Command
) -> None:
    path = specimen.copy(tmp_path)
    specimen.change(path, "runs", "execution_id", "x'ff'")
    specimen.change(path, "runs", "status", "'abc'")
    ended = command("terminate", "victim")
    assert ended.code == 0

    async def told(client: Client) -> None:
        with pytest.raises(WorkflowFailed, match="terminated"):
            await client.get_handle("watcher").result()

    asyncio.run(specimen.everything_goes_on(path, told))


async def _family(path: Path) -> None:
    async with Client.connect(path) as client, Worker(client, workflows=[parent, child]):
        handle = await client.start(parent, id="victim")
        await described(handle, lambda it: it.input == {"is_new": False})
        for way in WAYS:
            await described(client.get_handle(way), lambda it: it.history_events == 1)


async def _statuses(client: Client) -> dict[str, str]:
    return {way: (await client.get_handle(way).describe()).status for way in WAYS}


async def _after_its_end(path: Path) -> None:
    async with Client.connect(path) as client:
        there = {"terminate": "terminated", "cancel": "running", "abandon": "running"}
        assert await _statuses(client) == there
        async with Worker(client, workflows=[parent, child]):
            with pytest.raises(WorkflowCancelled):
                await client.get_handle("cancel").result()
            abandoned = client.get_handle("abandon")
            await abandoned.signal(specimen.go, "on")
            assert await abandoned.result() == "on"
        assert not await client.verify()


@pytest.mark.parametrize(
    "damaged",
    [("execution_id",), ("status",), ("execution_id", "type", "status", "next_seq", "lease_token")],
)
def test_its_children_go_as_their_links_say(
    tmp_path: Path, command: Command, damaged: tuple[str, ...]
) -> None:
    path = tmp_path / "everlong.db"
    asyncio.run(_family(path))
    newest = "workflow_id = 'victim' AND closed_us IS NULL"  # Its run id is not the execution's.
    with specimen.tampered(path) as db:
        change = ", ".join(f"{column} = x'ff'" for column in damaged)
        assert db.execute(f"UPDATE runs SET {change} WHERE {newest}").rowcount == 1
    assert command("terminate", "victim").code == 0
    asyncio.run(_after_its_end(path))
