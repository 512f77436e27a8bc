"""A file that is refused is left as it was, and leaves nothing behind in the process."""

import sqlite3
import threading
from pathlib import Path

import pytest

from everlong_engine.model.errors import ForeignFile, StoreError
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


async def test_a_refused_open_leaves_no_thread_to_speak_to_a_closed_loop(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with pytest.raises(StoreError, match="does not exist"):
        await SqliteStore.open(tmp_path / "missing.db", create=False)
    assert set(threading.enumerate()) <= before
    assert not list(tmp_path.iterdir())
