"""A file that is refused is left as it was, and leaves nothing behind in the process."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from everlong_engine.model.errors import ForeignFile, NewerSchema, StoreError, StoreFailed
from everlong_engine.store.sqlite.store import SqliteStore


async def test_the_database_of_another_program_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE books (title)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ForeignFile):
        await SqliteStore.open(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("mark", "error"), [("user_version = 99", NewerSchema), ("application_id = 7", ForeignFile)]
)
async def test_a_log_beside_a_refused_file_is_left_there(
    mark: str, error: type[StoreError], tmp_path: Path
) -> None:
    path = tmp_path / "everlong.db"
    await (await SqliteStore.open(path)).close()
    killed = f"""
import os, sqlite3
file = sqlite3.connect({str(path)!r}, isolation_level=None)
file.execute("PRAGMA {mark}")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", killed], check=True)
    log = tmp_path / "everlong.db-wal"
    before = (path.read_bytes(), log.read_bytes())
    names = set(tmp_path.iterdir())
    with pytest.raises(error):
        await SqliteStore.open(path)
    assert set(tmp_path.iterdir()) == names
    assert (path.read_bytes(), log.read_bytes()) == before


async def test_a_refused_open_leaves_no_thread_to_speak_to_a_closed_loop(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with pytest.raises(StoreError, match="does not exist"):
        await SqliteStore.open(tmp_path / "missing.db", create=False)
    assert set(threading.enumerate()) <= before
    assert not list(tmp_path.iterdir())


async def test_a_schema_that_cannot_be_read_is_damage_and_no_bug(tmp_path: Path) -> None:
    path = tmp_path / "everlong.db"
    await (await SqliteStore.open(path)).close()
    content = path.read_bytes()
    assert content.count(b"CREATE TABLE runs") == 1
    path.write_bytes(content.replace(b"CREATE TABLE runs", b"CREATE TA\xe5LE runs"))
    with pytest.raises(StoreFailed, match="schema in it is damaged"):
        await SqliteStore.open(path)
