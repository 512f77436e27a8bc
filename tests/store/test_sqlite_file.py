"""The file beneath a SQLite store: whose it is, what it must be, and what its errors mean."""

import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from everlong_engine.model.errors import (
    ForeignFile,
    NetworkFileSystem,
    NewerSchema,
    StoreError,
    StoreFailed,
    StoreFull,
)
from everlong_engine.store.interface import Trouble
from everlong_engine.store.sqlite import files
from everlong_engine.store.sqlite.connection import classify, connect_writer
from everlong_engine.store.sqlite.store import SqliteStore
from tests.support.store_rig import Rig


@asynccontextmanager
async def opened(path: Path, **options: object) -> AsyncGenerator[SqliteStore]:
    store = await SqliteStore.open(path, **options)  # type: ignore[arg-type]
    try:
        yield store
    finally:
        await store.close()


def test_many_make_the_same_store_in_the_same_moment(tmp_path: Path) -> None:
    """A round in some dozens failed before SQLite was asked again."""
    failed: list[Exception] = []
    for number in range(60):
        path = tmp_path / f"{number}.db"
        together = threading.Barrier(12)

        def make(path: Path = path, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                with closing(
                    connect_writer(path, "relaxed", owner=False, may_create=True)
                ) as connection:
                    files.prepare_schema(connection, path)
            except Exception as error:
                failed.append(error)

        makers = [threading.Thread(target=make) for _ in range(together.parties)]
        for one in makers:
            one.start()
        for one in makers:
            one.join()
    assert failed == []


async def test_a_store_outlives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "everlong.db"
    async with opened(path) as store:
        row = await Rig(store).started()
    async with opened(path) as store:
        assert await Rig(store).row() == row


async def test_commits_are_synced_by_default(tmp_path: Path) -> None:
    async with opened(tmp_path / "full.db") as store:
        info = await store.info()
        assert (info.settings["journal_mode"], info.settings["synchronous"]) == ("wal", "FULL")
    async with opened(tmp_path / "relaxed.db", durability="relaxed") as store:
        info = await store.info()
        assert info.settings["synchronous"] == "NORMAL"
        assert any("power cut" in warning for warning in info.warnings)


async def test_only_the_owner_checkpoints(tmp_path: Path) -> None:
    async with opened(tmp_path / "everlong.db") as store:

        async def pages() -> int:
            return await store._writer.run(  # pyright: ignore[reportPrivateUsage]
                lambda tx: int(tx.execute("PRAGMA wal_autocheckpoint").fetchone()[0])
            )

        assert await pages() == 0
        store.acquire()
        assert await pages() > 0
        await store.abandon()
        assert await pages() == 0
        assert not store.owned


async def test_a_foreign_database_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE theirs (x)")
        file.commit()
    before = path.read_bytes()
    with pytest.raises(ForeignFile):
        await SqliteStore.open(path)
    assert path.read_bytes()[100:] == before[100:]


async def test_a_file_that_is_no_database_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam, " * 100)
    with pytest.raises(ForeignFile):
        await SqliteStore.open(path)
    assert path.read_text() == "Dear Sir or Madam, " * 100


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "everlong.db"
    async with opened(path):
        pass
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(NewerSchema, match="99"):
        await SqliteStore.open(path)


async def test_a_missing_file_is_not_made_when_that_was_not_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        await SqliteStore.open(tmp_path / "none.db", create=False)
    assert not (tmp_path / "none.db").exists()


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        await SqliteStore.open(tmp_path / "nowhere" / "everlong.db")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "virtiofs", "fuse.sshfs"])
async def test_a_network_file_system_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def file_system(_: Path) -> str:
        return kind

    monkeypatch.setattr(files, "_file_system", file_system)
    with pytest.raises(NetworkFileSystem, match=kind):
        await SqliteStore.open(tmp_path / "everlong.db")


async def test_an_owner_that_comes_back_while_it_lets_go_keeps_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path / "everlong.db") as store:
        store.acquire()
        leaving = store.abandon()
        leaving.send(None)  # Up to where it waits for its connection.
        store.acquire()
        with pytest.raises(RuntimeError):
            leaving.throw(RuntimeError)
        assert store.owned


async def test_a_full_disk_refuses_and_resumes_by_itself(tmp_path: Path) -> None:
    async with opened(tmp_path / "everlong.db") as store:
        rig = Rig(store)
        row = await rig.owned()
        await _limit_pages(store, 1)
        starts = [rig.start(f"w{number}", arguments=bytes(60_000)) for number in range(100)]
        with pytest.raises(sqlite3.OperationalError) as caught:
            await rig.group(*starts)
        assert store.classify(caught.value)[0] is Trouble.FULL
        assert isinstance(store.classify(caught.value)[1], StoreFull)
        await _limit_pages(store, 1 << 30)
        await rig.one(rig.append(row))
        await rig.started("again")
        assert await rig.problems() == []


async def _limit_pages(store: SqliteStore, pages: int) -> None:
    text = f"PRAGMA max_page_count = {pages}"
    await store._writer.run(  # pyright: ignore[reportPrivateUsage]
        lambda tx: tx.execute(text).fetchone()
    )


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        (sqlite3.SQLITE_FULL, Trouble.FULL),
        (sqlite3.SQLITE_IOERR_SHMSIZE, Trouble.FULL),
        (sqlite3.SQLITE_IOERR_FSYNC, Trouble.FATAL),
        (sqlite3.SQLITE_IOERR_DIR_FSYNC, Trouble.FATAL),
        (sqlite3.SQLITE_IOERR_WRITE, Trouble.FATAL),
        (sqlite3.SQLITE_CORRUPT, Trouble.FATAL),
        (sqlite3.SQLITE_CORRUPT_INDEX, Trouble.FATAL),
        (sqlite3.SQLITE_NOTADB, Trouble.FATAL),
        (sqlite3.SQLITE_BUSY, Trouble.BUSY),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Trouble.BUSY),
        (sqlite3.SQLITE_IOERR_READ, Trouble.REPEAT),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, Trouble.REPEAT),
    ],
)
def test_each_error_has_its_meaning(code: int, trouble: Trouble) -> None:
    error = sqlite3.OperationalError("no")
    error.sqlite_errorcode, error.sqlite_errorname = code, "NAME"
    found, answer = classify(error, Path("x.db"))
    assert found is trouble
    assert isinstance(answer, StoreFull if trouble is Trouble.FULL else StoreFailed)


def test_an_error_that_is_not_the_databases_is_one_writes_fault() -> None:
    found, answer = classify(OverflowError("too large"), Path("x.db"))
    assert found is Trouble.REPEAT
    assert "too large" in str(answer)
