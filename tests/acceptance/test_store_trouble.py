"""What a store does when it may not be used, is full, or holds what is old."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    ForeignFile,
    NewerSchema,
    Signal,
    StoreError,
    StoreFailed,
    StoreFull,
    Worker,
    WorkflowFailed,
    WorkflowNotFound,
    activity,
    continue_as_new,
    workflow,
)
from everlong_engine.duties.history_pruner import HistoryPruner
from everlong_engine.model.outgoing import Target
from everlong_engine.model.runs import RunRow
from tests.support.hosting import hosting, until

amount: Signal[int] = Signal("amount", int)


def a_text(path: Path) -> None:
    path.write_text("just a text, and quite a long one at that " * 50)


def a_foreign_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.execute("INSERT INTO theirs VALUES (1)")
    connection.commit()
    connection.close()


def a_newer_store(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {0x45564C47}")
    connection.execute("PRAGMA user_version = 999")
    connection.execute("CREATE TABLE runs (x)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (a_text, ForeignFile, "exists, but it is not an Everlong store"),
        (a_foreign_database, ForeignFile, "Name another file; this one was left untouched"),
        (a_newer_store, NewerSchema, "newer Everlong \\(schema 999; this one knows \\d+\\)"),
    ],
)
@pytest.mark.file
async def test_what_is_no_store_of_ours_is_refused_and_untouched(
    path: Path, make: Callable[[Path], None], error: type[StoreError], text: str
) -> None:
    make(path)
    before = path.read_bytes()
    with pytest.raises(error, match=text) as caught:
        async with Client.connect(path):
            pass
    assert caught.value.path == str(path)
    assert path.read_bytes() == before


@pytest.mark.file
async def test_a_folder_is_no_store(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreError, match="is a folder: name a file in it"):
        async with Client.connect(path):
            pass
    assert list(path.iterdir()) == []


@pytest.mark.file
async def test_a_missing_folder_is_not_made(path: Path) -> None:
    with pytest.raises(StoreError, match="is not a folder: create it, or name another file"):
        async with Client.connect(path / "a.db"):
            pass
    assert not path.exists()


@pytest.mark.file
async def test_create_false_makes_no_file(path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        async with Client.connect(path, create=False):
            pass
    assert not path.exists()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "name a store"),
        ("mysql://host/db", "unknown kind of store 'mysql'"),
        ("sqlite://host/a.db", "sqlite:///relative.db"),
    ],
)
def test_an_address_that_names_no_file_says_so(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Client.connect(url)


@pytest.mark.file
async def test_a_url_names_a_file_too(path: Path) -> None:
    async with Client.connect(f"sqlite:///{path}"):
        assert path.exists()


# ---------------------------------------------------------------------------------- a full disk


class Disk:
    """Takes away the room that the store's writer may use, and gives it back."""

    def __init__(self, client: Client) -> None:
        store: Any = client.engine.store
        self._writer = store._writer

    async def _pages(self, more: int) -> None:
        def limit(connection: sqlite3.Connection) -> None:
            used = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {used + more}").fetchone()

        await self._writer.run(limit)

    async def fill(self) -> None:
        await self._pages(0)

    async def make_room(self) -> None:
        await self._pages(1_000_000)


@asynccontextmanager
async def on_a_small_disk(path: Path) -> AsyncGenerator[tuple[Client, Disk], None]:
    async with hosting(path) as client:
        disk = Disk(client)
        try:
            yield client, disk
        finally:
            await disk.make_room()


@activity
async def keep(value: int) -> int:
    return value


@workflow(name="collects")
async def collects(count: int) -> list[int]:
    got: list[int] = []
    while len(got) < count:
        got.append(await keep(await amount.receive()))
    return got


@pytest.mark.file
async def test_a_full_disk_refuses_and_loses_nothing_that_was_acknowledged(path: Path) -> None:
    async with Client.connect(path) as client, Worker(client, workflows=[collects]):
        disk = Disk(client)
        handle = await client.start(collects, 40)
        acknowledged: list[int] = []
        await disk.fill()
        refused = 0
        for value in range(200):
            try:
                await handle.signal(amount, value)
            except StoreFull:
                refused += 1
                if refused == 3:
                    break
            else:
                acknowledged.append(value)
        assert refused == 3
        assert len(acknowledged) < 40
        with pytest.raises(StoreFull, match="free some disk space"):
            await client.start("stranger", text="x" * 60_000)
        await disk.make_room()
        for value in range(1000, 1040 - len(acknowledged)):
            await handle.signal(amount, value)
        got = await handle.result()
        assert got[: len(acknowledged)] == acknowledged
        assert got[len(acknowledged) :] == list(range(1000, 1040 - len(acknowledged)))
        assert list(await client.verify()) == []


@pytest.mark.parametrize("look", [1, 2])
async def test_who_waits_for_a_result_hears_of_a_store_that_fails_while_it_is_read(
    path: Path, look: int
) -> None:
    @workflow
    async def waits() -> int:
        return await amount.receive()

    async with Client.connect(path) as client, Worker(client, workflows=[waits]):
        await client.start(waits, id="waits")
        with suppress(TimeoutError):  # Until no news of the start are on their way.
            while True:
                async with asyncio.timeout(0.3):
                    await client.engine.changed()
        store = client.engine.store
        latest, left = store.latest, look

        async def fail_meanwhile(target: Target) -> RunRow | None:
            nonlocal left
            row = await latest(target)
            left -= 1
            if left == 0:
                assert store.on_fatal is not None
                store.on_fatal(StoreFailed(path=str(path), reason="a sync failed"))
            return row

        store.latest = fail_meanwhile  # type: ignore[method-assign]
        with pytest.raises(StoreFailed):
            async with asyncio.timeout(10):
                await client.get_handle("waits").result()


async def test_no_worker_begins_in_a_process_whose_store_has_failed(path: Path) -> None:
    @workflow
    async def flow() -> None: ...

    async with Client.connect(path) as client:
        store = client.engine.store
        assert store.on_fatal is not None
        store.on_fatal(StoreFailed(path=str(path), reason="a sync failed"))
        with pytest.raises(StoreFailed, match="a sync failed"):
            await Worker(client, workflows=[flow]).start()
        assert not store.owned
    async with hosting(path, workflows=[flow]) as client:  # Another process may.
        await client.run(flow)


@pytest.mark.file
async def test_an_outcome_waits_for_room_and_is_recorded_by_itself(path: Path) -> None:
    ran: list[int] = []

    async with Client.connect(path) as client:
        disk = Disk(client)

        @activity
        async def large() -> str:
            ran.append(1)
            await disk.fill()
            return "x" * 600_000

        @workflow
        async def flow() -> int:
            return len(await large())

        async with Worker(client, workflows=[flow]):
            handle = await client.start(flow)

            async def refused() -> bool:
                try:
                    await client.start("stranger", text="x" * 60_000)
                except StoreFull:
                    return True
                return False

            await until(refused)
            assert (await handle.describe()).status == "running"
            await disk.make_room()
            assert await handle.result() == 600_000
    assert ran == [1]


# ----------------------------------------------------------------------------------- retention


class SetClock:
    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now_us(self) -> int:
        return int(self.at.timestamp() * 1e6)


async def test_closed_runs_go_when_their_retention_has_passed(path: Path) -> None:
    @workflow
    async def flow(text: str, again: int = 0) -> str:
        if again:
            continue_as_new(again=again - 1)
        if text == "fail":
            raise ValueError(text)
        return text

    async with Client.connect(path) as client, Worker(client, workflows=[flow, collects]):
        clock = SetClock()
        pruner = HistoryPruner(client.engine.store, clock, int(7 * 86400e6))
        await client.run(flow, "x" * 100_000)
        done = await client.start(flow, "done", 2, id="done")
        await done.result()
        with pytest.raises(WorkflowFailed):
            await client.run(flow, "fail")
        running = await client.start(collects, 1, id="still open")

        assert await pruner.run_once() == 0
        clock.at += timedelta(days=6)
        assert await pruner.run_once() == 0
        clock.at += timedelta(days=2)
        assert await pruner.run_once() == 5
        assert [one.workflow_id for one in (await client.list()).items] == ["still open"]
        with pytest.raises(WorkflowNotFound, match="deleted after their retention"):
            await client.get_handle("done").describe()
        assert list(await client.verify()) == []
        await running.signal(amount, 3)
        assert await running.result() == [3]


async def test_runs_of_an_open_execution_are_kept_with_it(path: Path) -> None:
    @workflow
    async def flow(again: int) -> int:
        if again:
            continue_as_new(again=again - 1)
        return await amount.receive()

    async with Client.connect(path) as client, Worker(client, workflows=[flow]):
        clock = SetClock()
        pruner = HistoryPruner(client.engine.store, clock, 0)
        handle = await client.start(flow, 3)
        clock.at += timedelta(days=1)
        assert await pruner.run_once() == 0
        await handle.signal(amount, 3)
        await handle.result()
        clock.at += timedelta(days=1)
        assert await pruner.run_once() == 4


@pytest.mark.file
async def test_retention_is_on_by_default_and_can_be_switched_off(path: Path) -> None:
    with pytest.raises(ValueError, match="retention must be between"):
        Client.connect(path, retention=-1)
    with pytest.raises(ValueError, match="durability='none'"):
        Client.connect(path, durability="none")
    async with Client.connect(path, retention=None) as client, Worker(client, workflows=[]):
        assert (await client.store_info()).settings["synchronous"] == "FULL"
