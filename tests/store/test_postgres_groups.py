"""What a group costs on a server: one statement, while nothing of it has to be judged."""

from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager

import asyncpg
import pytest
from msgspec.structs import replace

from everlong_engine.model.events import ItemPublished, RunCompleted
from everlong_engine.model.runs import AttemptRow, AttemptState
from everlong_engine.model.writes import (
    AppendResult,
    MarkAttempts,
    MessageResult,
    Refusal,
    StartResult,
)
from everlong_engine.store.postgres import connection as connections, store as stores
from everlong_engine.store.postgres.statements import Connection
from everlong_engine.store.postgres.store import PostgresStore
from tests.support.postgres_server import lent_store
from tests.support.store_rig import Rig, refusal


class Heard:
    """What was said to the server, statement by statement."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def note(self, record: asyncpg.connection.LoggedQuery) -> None:
        if "everlong." in record.query:  # The driver asks about types of its own accord, once.
            self.statements.append(record.query)

    @contextmanager
    def since(self) -> Generator[list[str]]:
        self.statements.clear()
        yield self.statements


@pytest.fixture
async def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    found = Heard()
    connect = connections.connect

    async def listening(*arguments: object) -> Connection:
        connection = await connect(*arguments)  # type: ignore[arg-type]
        connection.add_query_logger(found.note)
        return connection

    for module in (connections, stores):
        monkeypatch.setattr(module, "connect", listening)
    return found


@pytest.fixture
async def rig(heard: Heard) -> AsyncIterator[Rig]:
    async with lent_store() as url:
        store = await PostgresStore.open(url)
        yield Rig(store)
        await store.close()


async def test_what_most_groups_hold_is_one_statement(rig: Rig, heard: Heard) -> None:
    going, ending, sleeping, told = [await rig.owned(name) for name in ("a", "b", "c", "d")]
    position = await rig.position("a")
    attempt = AttemptRow(activity_id=1, attempt=1, state=AttemptState.STARTED, started_us=1)
    first = rig.append(going, ItemPublished("told", 0, b"x" * 9, ""), consumed=(position,))
    behind = rig.append(replace(going, next_seq=going.next_seq + 1))
    with heard.since() as statements:
        results = await rig.group(
            rig.start("e", tags=(("customer", "ann"),)),
            rig.start("f", request_id="r"),
            rig.start_here("g", RunCompleted(b"done")),
            first,
            behind,
            rig.append(ending, RunCompleted(b"done")),
            MarkAttempts(going.shard, going.run_id, going.lease_token, (attempt,), begins=True),
            rig.message("d", request_id="r"),
            rig.message("d", sent=rig.sent()),
            rig.release(sleeping, rig.now_us),
        )
    assert len(statements) == 1
    for result in results:
        match result:
            case StartResult():
                assert result.created
            case AppendResult():
                assert result.refusal is None
            case MessageResult():
                assert result.position is not None
                assert (result.run_id, result.owner) == (told.run_id, rig.worker_id)
            case _:
                raise AssertionError(result)
    assert await rig.kinds("a") == ["RunStarted", "ItemPublished", "SignalReceived"]
    assert await rig.tags("e") == {"customer": "ann"}
    assert await rig.published("a") == [(0, b"x" * 9)]
    assert len((await rig.load("d")).mail) == 2
    assert (await rig.row("c")).owner is None
    assert await rig.problems() == []


async def test_only_what_must_be_judged_is_asked_about(rig: Rig, heard: Heard) -> None:
    """Its neighbours are stored at once; what was refused is refused with its reason."""
    good, stale, mailed = [await rig.owned(name) for name in ("a", "b", "c")]
    await rig.send("c")
    with heard.since() as statements:
        results = await rig.group(
            rig.append(good),
            rig.append(stale, token=9),
            rig.append(mailed, RunCompleted(b"done")),
            rig.start("a"),
            rig.start("d"),
        )
    assert len(statements) > 1
    refusals = [refusal(result) for result in results[:3]]
    assert refusals == [None, Refusal.FENCED, Refusal.MAIL]
    assert [one.created for one in results[3:] if isinstance(one, StartResult)] == [False, True]
    assert await rig.kinds("a") == ["RunStarted", "SignalReceived"]
    assert await rig.problems() == []
