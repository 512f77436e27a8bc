"""Transactional activities: SQL that is stored with the completion, or not at all."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, strategies as st

from everlong import (
    ActivityError,
    Client,
    DefinitionError,
    EverlongError,
    InvalidArguments,
    Retry,
    Signal,
    StatementFailed,
    Transaction,
    Worker,
    activity,
    checkpoint,
    complete_later,
    workflow,
)
from tests.support.hosting import described

pytestmark = pytest.mark.file  # On a server nothing can be stored with a completion.

QUICK = Retry(max_attempts=3, delay=0.001, jitter=0)
SCHEMA = "create table orders (id integer primary key, amount text not null)"
INSERT = "insert into orders (id, amount) values (:id, :amount)"
go = Signal("transactional_go", str)


def asked(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
async def client(path: Path) -> AsyncIterator[Client]:
    async with Client.connect(path) as client:
        yield client


async def ran(client: Client, workflow: Any, *args: Any) -> Any:
    """What a workflow returns, run by a worker of its own."""
    async with Worker(client):
        return await client.run(workflow, *args)


@pytest.fixture
def table(path: Path, client: Client) -> Callable[[], list[Any]]:
    """The user's own table, and what is in it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(SCHEMA)
        connection.commit()
    return lambda: asked(path, "select id, amount from orders order by id")


async def test_what_it_asks_for_is_stored_with_its_completion(
    client: Client, table: Callable[[], list[Any]]
) -> None:
    @activity(transactional=True)
    async def save(tx: Transaction, number: int, amounts: list[str]) -> int:
        tx.execute(INSERT, {"id": number, "amount": "first"})
        tx.executemany(
            INSERT, ({"id": number + at, "amount": one} for at, one in enumerate(amounts, 1))
        )
        assert table() == []
        return len(amounts)

    @workflow
    async def transactional_flow(number: int) -> int:
        return await save(number, ["a", "b"])

    assert await ran(client, transactional_flow, 10) == 2
    assert table() == [(10, "first"), (11, "a"), (12, "b")]
    assert await client.verify() == []


async def test_a_plain_function_in_a_thread_may_be_one_too(
    client: Client, table: Callable[[], list[Any]]
) -> None:
    @activity(transactional=True)
    def save_in_thread(tx: Transaction, number: int) -> None:
        tx.execute(INSERT, {"id": number, "amount": "x"})

    @workflow
    async def threaded_flow() -> None:
        await save_in_thread(7)

    await ran(client, threaded_flow)
    assert table() == [(7, "x")]


async def test_one_that_raises_stores_nothing(
    client: Client, table: Callable[[], list[Any]]
) -> None:
    @activity(transactional=True, retry=QUICK)
    async def save_and_fail(tx: Transaction) -> None:
        tx.execute(INSERT, {"id": 1, "amount": "x"})
        raise ValueError("not today")

    @workflow
    async def failing_flow() -> str:
        try:
            await save_and_fail()
        except ValueError as error:
            return str(error)
        return "?"

    assert await ran(client, failing_flow) == "not today"
    assert table() == []


async def test_a_statement_that_fails_fails_the_attempt_and_it_is_tried_again(
    client: Client, table: Callable[[], list[Any]]
) -> None:
    tries: list[int] = []

    @activity(transactional=True, retry=QUICK)
    async def save_at_third(tx: Transaction) -> int:
        tries.append(len(tries))
        tx.execute(INSERT, {"id": len(tries), "amount": "x"})
        tx.execute(INSERT, {"id": 9, "amount": "x" if len(tries) == 3 else None})
        return len(tries)

    @workflow
    async def stubborn_flow() -> int:
        return await save_at_third()

    assert await ran(client, stubborn_flow) == 3
    handle = client.get_handle((await client.list()).items[0].workflow_id)
    assert table() == [(3, "x"), (9, "x")]
    history = await handle.history()
    assert [one.kind for one in history] == [
        "RunStarted",
        "ActivityScheduled",
        "ActivityCompleted",
        "RunCompleted",
    ]
    attempts = [one for event in history for one in event.attempts]
    assert [one.state for one in attempts][:2] == ["failed", "failed"]
    assert "NOT NULL constraint failed: orders.amount" in (attempts[0].error or "")
    assert await client.verify() == []


async def test_the_workflow_can_catch_it_when_no_attempt_is_left(
    client: Client, table: Callable[[], list[Any]]
) -> None:
    @activity(transactional=True, retry=QUICK)
    async def save_twice(tx: Transaction) -> None:
        tx.executemany(INSERT, [{"id": 1, "amount": "x"}] * 2)

    @workflow
    async def catching_flow() -> str:
        try:
            await save_twice()
        except StatementFailed as error:
            return str(error)
        return "?"

    found = await ran(client, catching_flow)
    assert "UNIQUE constraint failed: orders.id (statement 1 of 1: insert into orders" in found
    assert table() == []


async def test_what_it_must_not_touch_is_not_tried_again(client: Client) -> None:
    tries: list[int] = []

    @activity(transactional=True, retry=QUICK)
    async def meddle(tx: Transaction) -> None:
        tries.append(1)
        tx.execute("delete from history")

    @workflow
    async def meddling_flow() -> str:
        try:
            await meddle()
        except StatementFailed as error:
            return str(error)
        return "?"

    assert "must not use the table 'history', which is Everlong's own" in await ran(
        client, meddling_flow
    )
    assert tries == [1]
    assert await client.verify() == []


async def test_many_at_once_and_one_that_fails_among_them(
    client: Client, table: Callable[[], list[Any]]
) -> None:
    @activity(transactional=True, retry=QUICK)
    async def save_one(tx: Transaction, number: int) -> int:
        tx.execute(INSERT, {"id": number % 20, "amount": str(number)})
        return number

    @workflow
    async def saving_flow(number: int) -> str:
        try:
            return str(await save_one(number))
        except StatementFailed:
            return "taken"

    async with Worker(client):
        handles = [await client.start(saving_flow, number) for number in range(40)]
        results = [await one.result() for one in handles]
    saved = table()
    assert len(saved) == 20
    assert sorted(one for one in results if one != "taken") == sorted(one for _, one in saved)
    assert await client.verify() == []


async def test_with_several_in_one_run_each_counts_for_itself(
    client: Client, table: Callable[[], list[Any]]
) -> None:
    @activity(transactional=True, retry=Retry(max_attempts=1))
    async def save_some(tx: Transaction, number: int) -> int:
        tx.execute(INSERT, {"id": number % 5, "amount": str(number)})
        return number

    @activity
    async def plain(number: int) -> int:
        return -number

    @workflow
    async def gathering_flow() -> list[Any]:
        both = [save_some(number) for number in range(10)] + [plain(number) for number in range(5)]
        found = await asyncio.gather(*both, return_exceptions=True)
        return [one if isinstance(one, int) else type(one).__name__ for one in found]

    found = await ran(client, gathering_flow)
    saved = table()
    assert sorted(str(one) for one in found[:10] if isinstance(one, int)) == sorted(
        one for _, one in saved
    )
    assert found[:10].count("StatementFailed") == 5
    assert found[10:] == [0, -1, -2, -3, -4]
    assert await client.verify() == []


async def test_over_checkpoints_each_round_is_stored_once(
    client: Client, table: Callable[[], list[Any]]
) -> None:
    @activity(transactional=True)
    async def save_round(tx: Transaction, number: int) -> None:
        tx.execute(INSERT, {"id": number, "amount": "round"})

    @workflow
    async def rolling_flow(number: int = 0) -> int:
        while number < 8:
            await save_round(number)
            number += 1
            await checkpoint(number=number)
        return number

    assert await ran(client, rolling_flow) == 8
    assert [number for number, _ in table()] == list(range(8))


async def test_one_whose_call_was_given_up_stores_nothing(
    client: Client, table: Callable[[], list[Any]]
) -> None:
    begun = asyncio.Event()

    @activity(transactional=True)
    async def save_slowly(tx: Transaction) -> None:
        tx.execute(INSERT, {"id": 1, "amount": "late"})
        begun.set()
        await asyncio.Event().wait()

    @workflow
    async def impatient_flow() -> str:
        task = asyncio.ensure_future(save_slowly())
        await go.receive()
        task.cancel()
        return "gave up"

    async with Worker(client):
        handle = await client.start(impatient_flow)
        await begun.wait()
        await handle.signal(go, "now")
        assert await handle.result() == "gave up"
    assert table() == []


async def test_while_its_run_is_paused_nothing_is_stored(path: Path) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()
    tries: list[int] = []

    @activity(transactional=True)
    async def save_paused(tx: Transaction) -> None:
        tries.append(1)
        tx.execute("insert into notes values (:n)", {"n": len(tries)})
        begun.set()
        await may_end.wait()

    @workflow
    async def paused_saver() -> None:
        await save_paused()

    async with Client.connect(path) as client, Worker(client):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table notes (n)")
        handle = await client.start(paused_saver, id="paused-saver")
        await begun.wait()
        await handle.pause(reason="look")
        may_end.set()
        await described(handle, lambda found: found.owner is None)
        assert asked(path, "select n from notes") == []
        await handle.resume()
        await handle.result()
    assert len(asked(path, "select n from notes")) == 1


async def test_one_whose_worker_stops_before_it_is_recorded_is_done_by_the_next(
    path: Path,
) -> None:
    @activity(transactional=True)
    async def save_later(tx: Transaction, number: int) -> int:
        tx.execute("create table if not exists notes (n)")
        tx.execute("insert into notes values (:n)", {"n": number})
        return number

    @workflow
    async def handed_on() -> int:
        total = 0
        for number in range(30):
            total += await save_later(number)
        return total

    async with Client.connect(path) as client:
        handle = await client.start(handed_on, id="handed-on")
        for _ in range(6):
            async with Worker(client):
                await handle.describe()
        async with Worker(client):
            assert await handle.result() == sum(range(30))
    assert asked(path, "select n from notes order by rowid") == [(n,) for n in range(30)]


# ------------------------------------------------------------------------------------- mistakes


def test_its_first_parameter_is_the_transaction() -> None:
    with pytest.raises(DefinitionError, match="first parameter is the transaction, as in save"):

        @activity(transactional=True)  # type: ignore[arg-type]
        async def save(number: int) -> None: ...

    with pytest.raises(DefinitionError, match="first parameter"):

        @activity(transactional=True)  # type: ignore[arg-type]
        async def save_nothing() -> None: ...


def test_what_does_not_go_with_it_is_refused_at_decoration() -> None:
    with pytest.raises(DefinitionError, match="cannot go to another process"):

        @activity(transactional=True, process=True)  # type: ignore[call-overload, untyped-decorator]
        def save_afar(tx: Transaction) -> None: ...

    with pytest.raises(DefinitionError, match="stored once"):

        @activity(transactional=True, at_most_once=True)  # type: ignore[call-overload, untyped-decorator]
        async def save_once(tx: Transaction) -> None: ...


async def test_outside_of_a_workflow_it_says_how_to_test_it() -> None:
    @activity(transactional=True)
    async def save_alone(tx: Transaction, number: int) -> int:
        tx.execute(INSERT, {"id": number})
        return number

    with pytest.raises(EverlongError, match=r"call save_alone.function\(Transaction\(\), …\)"):
        await save_alone(1)
    tx = Transaction()
    assert await save_alone.function(tx, 3) == 3
    assert [(one.sql, one.rows) for one in tx.statements] == [(INSERT, ({"id": 3},))]


async def test_it_cannot_be_completed_later(client: Client) -> None:
    @activity(transactional=True, retry=QUICK)
    async def save_sometime(tx: Transaction) -> None:
        complete_later()

    @workflow
    async def waiting_flow() -> str:
        try:
            await save_sometime()
        except ActivityError as error:
            return str(error)
        except EverlongError as error:
            return str(error)
        return "?"

    assert "nobody can complete it later" in await ran(client, waiting_flow)


@pytest.mark.parametrize(
    ("sql", "values", "why"),
    [
        ("", {}, "give one SQL statement"),
        (7, {}, "give one SQL statement"),
        ("select 'a\0b'", {}, "no NUL"),
        (INSERT, [1, "x"], "name them"),
        (INSERT, {"id": 1 << 63, "amount": "x"}, "over the 64 bits"),
        (INSERT, {"id": float("nan"), "amount": "x"}, "NaN"),
        (INSERT, {"id": object(), "amount": "x"}, "is a object: pass None"),
        (INSERT, {"id": 1, "amount": "\ud800"}, "amount"),
        (INSERT, {7: 1}, "no parameter's name"),
    ],
)
def test_what_no_column_holds_is_refused_at_the_call(sql: Any, values: Any, why: str) -> None:
    tx = Transaction()
    with pytest.raises(InvalidArguments, match=why):
        tx.execute(sql, values)
    with pytest.raises(InvalidArguments, match=why):
        tx.executemany(sql, [values])
    assert tx.statements == ()


cells = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**63) - 1, 2**63), st.floats(allow_nan=True)),
    *(st.text(st.characters()), st.binary(), st.just(object())),
)
rows_of_cells = st.lists(
    st.dictionaries(st.one_of(st.sampled_from(["a", "b"]), st.just(7)), cells, max_size=3),
    max_size=4,
)


@given(rows_of_cells, st.booleans())
def test_many_rows_are_taken_and_refused_as_each_of_them_is(
    rows: list[dict[Any, Any]], wrapped: bool
) -> None:
    given_rows: list[Any] = [MappingProxyType(row) for row in rows] if wrapped else rows
    together, alone = Transaction(), Transaction()
    try:
        for row in given_rows:
            alone.execute(INSERT, row)
    except InvalidArguments as error:
        with pytest.raises(InvalidArguments, match=re.escape(str(error))):
            together.executemany(INSERT, given_rows)
        return
    together.executemany(INSERT, given_rows)
    kept = tuple(row for statement in alone.statements for row in statement.rows)
    assert [one.rows for one in together.statements] == [kept]
    for row in rows:
        row.clear()
    assert together.statements[0].rows == kept, "what is changed later is not what was asked for"


def test_there_is_a_bound_to_what_one_may_store() -> None:
    tx = Transaction()
    for many in ({"amount": "x" * 10_000}, {"amount": b"x" * 10_000}):
        tx.executemany(INSERT, [many] * 2_000)
        with pytest.raises(InvalidArguments, match="may store 32 MB"):
            tx.executemany(INSERT, [many] * 2_000)
        tx = Transaction()
    tx.execute(INSERT, {"id": 1, "amount": "x" * 20_000_000})
    with pytest.raises(InvalidArguments, match="may store 32 MB"):
        tx.execute(INSERT, {"id": 2, "amount": "x" * 20_000_000})
    assert len(tx.statements) == 1


async def test_behind_its_activity_a_transaction_is_over(
    client: Client, table: Callable[[], list[Any]]
) -> None:
    kept: list[Transaction] = []

    @activity(transactional=True)
    async def leak(tx: Transaction) -> None:
        kept.append(tx)

    @workflow
    async def leaking_flow() -> None:
        await leak()
        await asyncio.sleep(0)

    await ran(client, leaking_flow)
    with pytest.raises(EverlongError, match="this transaction is over"):
        kept[0].execute(INSERT, {"id": 1, "amount": "x"})
