"""An execution whose own row is damaged is ended by command, and the row says so from then on."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from everlong import Client, WorkflowFailed
from everlong.exceptions import EverlongError
from tests.hostile import specimen
from tests.hostile.conftest import Command
from tests.hostile.test_columns import BLOBS, INTEGERS, ODD_TEXTS

BAD = {"INTEGER": INTEGERS[:3], "BLOB": (BLOBS[0], BLOBS[4]), "TEXT": ODD_TEXTS[:1]}
NAMES = ("shard", "run_id", "namespace", "workflow_id")
"""By these it is found, with what hangs on it: where they are damaged nothing can be done here."""


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
