"""Outboxes: messages that are committed with what they tell of, and then published."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    DefinitionError,
    EverlongError,
    InvalidArguments,
    MoveRefused,
    Outbox,
    OutboxSummary,
    PayloadTooLarge,
    Query,
    Signal,
    StatementFailed,
    Transaction,
    Worker,
    activity,
    checkpoint,
    registry,
    side_effect,
    workflow,
)
from everlong.codec import Encrypt, new_key
from everlong.streams import Draft, MemorySink, OutboxMessage, Sink, Writer
from everlong.worker import _relay
from tests.support.hosting import AT_ONCE, ONCE, described, hosting, until

go = Signal("outbox_go", str)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_relay, "_DELAY_S", 0.005)
    monkeypatch.setattr(_relay, "_DELAY_MAX_S", 0.02)
    monkeypatch.setattr(_relay, "_AGAIN_S", 0.02)


@dataclass
class Payment:
    id: int
    currency: str = "EUR"


class Broker(Sink, Writer):
    """One that can be away, refuse, and choke. It is its own writer."""

    def __init__(self) -> None:
        self.got: list[OutboxMessage] = []
        self.away = False
        self.refuses: bytes | None = None
        self.chokes_on: bytes | None = None
        self.opened = self.closed = self.inside = 0

    async def open(self) -> Writer:
        if self.away:
            raise ConnectionError("nobody there")
        self.opened += 1
        return self

    async def write(self, messages: Sequence[OutboxMessage]) -> Mapping[str, str]:
        assert not self.inside, "one relay at a time"
        self.inside += 1
        try:
            await asyncio.sleep(0)
            if self.away:
                raise ConnectionError("gone")
            if any(one.value == self.chokes_on for one in messages):
                raise ValueError("cannot swallow that")
            self.got += [one for one in messages if one.value != self.refuses]
            return {one.id: "too large" for one in messages if one.value == self.refuses}
        finally:
            self.inside -= 1

    async def close(self) -> None:
        self.closed += 1

    @property
    def values(self) -> list[bytes]:
        return [one.value for one in self.got]

    async def has(self, count: int) -> list[bytes]:
        async def look() -> bool:
            return len(self.got) >= count

        await until(look)
        return self.values


async def only(client: Client) -> OutboxSummary | None:
    found = await client.outboxes()
    return found[0] if found else None


async def test_messages_go_out_in_their_order_each_under_one_id(path: Path) -> None:
    sink = MemorySink()
    paid = Outbox("paid", sink, Payment)

    @activity(transactional=True)
    async def book(tx: Transaction, n: int) -> None:
        tx.publish(paid, Payment(n), key="ann", headers={"kind": "booked"})
        tx.publish("paid", Payment(n + 1))

    @workflow
    async def flow() -> None:
        await paid.publish(Payment(0, "CHF"), key=b"\xff")
        await book(1)
        await paid.publish(Payment(3))
        await checkpoint()

    async with hosting(path) as client:
        handle = await client.start(flow, id="f")
        await handle.result()
        assert (await handle.describe()).run_id in sink.messages[-1].id if sink.messages else True
    numbers = [re.findall(rb'"id":(\d)', one.value) for one in sink.messages]
    assert numbers == [[b"0"], [b"1"], [b"2"], [b"3"]]
    assert sink.messages[0].value == b'{"id":0,"currency":"CHF"}'
    assert [one.key for one in sink.messages] == [b"\xff", b"ann", None, None]
    assert [dict(one.headers) for one in sink.messages] == [{}, {"kind": "booked"}, {}, {}]
    assert len({one.id for one in sink.messages}) == 4
    async with Client.connect(path) as client:
        assert not await client.outboxes()
        assert not await client.verify()


@pytest.mark.once
async def test_what_fails_publishes_nothing_and_what_is_repeated_publishes_once(
    path: Path,
) -> None:
    sink = MemorySink()
    paid = Outbox("paid", sink)
    tries: list[int] = []

    @activity(transactional=True, retry=AT_ONCE)
    async def book(tx: Transaction) -> None:
        tries.append(1)
        tx.publish(paid, f"try {len(tries)}")
        if len(tries) == 1:
            raise ValueError("not yet")
        if len(tries) == 2:
            tx.execute("insert into nowhere_at_all (id) values (1)")

    @activity(transactional=True, retry=ONCE)
    async def fails(tx: Transaction) -> None:
        tx.publish(paid, "never")
        tx.execute("insert into nowhere_at_all (id) values (1)")

    @workflow
    async def flow() -> None:
        await book()
        try:
            await fails()
        except StatementFailed:
            await paid.publish("end")

    async with hosting(path) as client:
        await client.run(flow)
    assert [one.value for one in sink.messages] == [b"try 3", b"end"]


async def test_values_go_as_bytes_as_text_or_as_json(path: Path) -> None:
    sink = MemorySink()
    anything = Outbox("anything", sink)
    raw, texts = Outbox("raw", sink, bytes), Outbox("texts", sink, str)

    @workflow
    async def flow() -> None:
        await anything.publish(b"\x00\xff")
        await anything.publish("é")
        await anything.publish({"a": [1, None]})
        await anything.publish(Payment(1))

    async with hosting(path) as client:
        await client.run(flow)
    found = [one.value for one in sink.messages]
    assert found == [b"\x00\xff", "é".encode(), b'{"a":[1,null]}', b'{"id":1,"currency":"EUR"}']
    tx = Transaction()
    tx.publish(raw, b"x")
    tx.publish(texts, "y", key="k")
    assert tx.messages == (Draft("raw", b"x", None, {}), Draft("texts", b"y", b"k", {}))
    assert tx.statements == ()


def test_what_cannot_be_sent_is_refused_where_it_is_published() -> None:
    paid = Outbox("paid", MemorySink(), Payment)
    raw = Outbox("raw", MemorySink(), bytes)
    tx = Transaction()
    publish: Any = tx.publish  # Also what a type checker would not let through.
    for call, says in (
        (partial(publish, paid, {"id": "x"}), "a message of outbox paid: id:"),
        (partial(publish, raw, "text"), "is no bytes"),
        (partial(publish, "nowhere", 1), "'nowhere' is no outbox that has been declared"),
        (partial(publish, raw, b"", key=1), "key=1: give a text or bytes"),
        (partial(publish, raw, b"", headers={"a": 1}), "give texts"),
        (partial(publish, raw, b"", headers={"a": "b\r\nc: d"}), "without control characters"),
        (partial(publish, raw, b"", headers={"Everlong-id": "x"}), "Everlong's own"),
        (partial(publish, raw, b"", headers={"": "x"}), "Everlong's own"),
        (partial(publish, raw, b"", headers={str(n): "" for n in range(101)}), "may be 100"),
        (partial(publish, Outbox("any", MemorySink()), object()), "a message of outbox any"),
    ):
        with pytest.raises(InvalidArguments, match=re.escape(says)):
            call()
    with pytest.raises(PayloadTooLarge):
        tx.publish(raw, b"x" * 2_000_001)
    for _ in range(16):
        tx.publish(raw, b"x" * 1_900_000)
    tx.publish(raw, b"x" * 1_500_000)
    with pytest.raises(InvalidArguments, match="may store 32 MB"):
        tx.publish(raw, b"x" * 1_900_000)
    over = Transaction()
    over.end()
    with pytest.raises(EverlongError, match="this transaction is over"):
        over.publish(raw, b"")


def test_an_outbox_is_declared_once_and_has_a_name_and_a_sink() -> None:
    paid = Outbox("paid", MemorySink())
    again = Outbox("paid", MemorySink())
    assert registry.outboxes["paid"][0] is again, "in one file the last one counts"
    registry.outboxes["paid"] = (paid, "another.py")
    with pytest.raises(DefinitionError, match=r"there are two outboxes 'paid', in another\.py"):
        Outbox("paid", MemorySink())
    with pytest.raises(DefinitionError, match="an Outbox needs a name"):
        Outbox("", MemorySink())
    with pytest.raises(DefinitionError, match="is no Sink"):
        Outbox("sinkless", "kafka")  # type: ignore[call-overload]


async def test_only_a_workflow_publishes_by_itself(path: Path) -> None:
    paid = Outbox("paid", MemorySink())
    look = Query("outbox_look", str)
    with pytest.raises(EverlongError, match=r"has tx\.publish"):
        await paid.publish(1)

    @activity
    async def plain() -> None:
        await paid.publish(1)

    @workflow
    async def flow() -> None:
        @look.handler
        def _() -> str:  # pyright: ignore[reportUnusedFunction]
            paid.publish(1).send(None)
            return ""

        with pytest.raises(EverlongError, match=r"has tx\.publish"):
            await plain.options(retry=ONCE)()
        await go.receive()

    async with hosting(path) as client:
        handle = await client.start(flow, id="f")
        with pytest.raises(EverlongError):
            await handle.query(look)
        await handle.signal(go, "on")
        await handle.result()
        assert not await client.outboxes()


async def test_a_broker_that_is_away_shows_and_gets_everything_later(path: Path) -> None:
    broker = Broker()
    broker.away = True
    paid = Outbox("paid", broker)

    @workflow
    async def flow(n: int) -> None:
        await paid.publish(str(n))

    async with hosting(path) as client:
        for n in range(5):
            await client.run(flow, n)

        async def failing() -> OutboxSummary | None:
            found = await only(client)
            return found if found is not None and found.failures > 3 else None

        seen = await until(failing)
        assert (seen.outbox, seen.waiting, seen.refused) == ("paid", 5, 0)
        oldest = (await client.outbox_messages("paid"))[0].position
        assert seen.fault == f"message {oldest}: ConnectionError: nobody there"
        assert seen.oldest_at is not None
        assert seen.fault_at is not None
        broker.away = False
        assert sorted(await broker.has(5)) == [b"0", b"1", b"2", b"3", b"4"]

        async def empty() -> bool:
            return await only(client) is None

        await until(empty)
        broker.away = True  # Its connection ends unnoticed, and a new one is made.
        await client.run(flow, 5)
        await until(failing)
        broker.away = False
        assert (await broker.has(6))[5] == b"5"
        await until(empty)
    assert broker.opened == broker.closed, "no connection is left behind"


async def test_what_a_broker_refuses_stops_nobody_and_can_be_sent_again(path: Path) -> None:
    broker = Broker()
    broker.refuses = b"large"
    paid = Outbox("paid", broker)

    @workflow
    async def flow() -> None:
        for value in ("a", "large", "b", "large"):
            await paid.publish(value)

    async with hosting(path) as client:
        await client.run(flow)
        assert await broker.has(2) == [b"a", b"b"]

        async def aside() -> bool:
            found = await only(client)
            return found is not None and found.refused == 2

        await until(aside)
        first, second = await client.outbox_messages("paid", refused=True)
        assert (first.value, first.refused, first.fault) == (b"large", "too large", None)
        assert await client.drop_from_outbox("paid", [second.position]) == 1
        broker.refuses = None
        assert await client.redrive_outbox("paid") == 1
        assert await broker.has(3) == [b"a", b"b", b"large"]
        assert broker.got[2].id == first.id


async def test_a_message_that_chokes_its_sink_is_named_and_can_be_dropped(path: Path) -> None:
    broker = Broker()
    broker.chokes_on = b"bone"
    paid = Outbox("paid", broker)

    @workflow
    async def flow() -> None:
        for value in ("a", "bone", "b"):
            await paid.publish(value)

    async with hosting(path) as client:
        await client.run(flow)

        async def named() -> OutboxSummary | None:
            found = await only(client)
            if found is None or found.waiting != 2:
                return None
            return found if "message " in (found.fault or "") else None

        seen = await until(named)
        (bone, _) = await client.outbox_messages("paid")
        assert bone.value == b"bone"
        assert seen.fault == f"message {bone.position}: ValueError: cannot swallow that"
        with pytest.raises(InvalidArguments, match="is no position"):
            await client.drop_from_outbox("paid", [-1])
        with pytest.raises(InvalidArguments, match="limit=0"):
            await client.outbox_messages("paid", limit=0)
        assert await client.drop_from_outbox("paid", [bone.position]) == 1
        assert await broker.has(2) == [b"a", b"b"]


async def test_several_workers_publish_each_message_once(path: Path) -> None:
    broker = Broker()  # Asserts that nobody else writes at the same time.
    paid = Outbox("paid", broker)

    @workflow
    async def flow(n: int) -> None:
        await paid.publish(str(n))
        await side_effect(int)

    async with Client.connect(path) as client, Worker(client):
        async with Worker(client), Worker(client):
            await asyncio.gather(*(client.run(flow, n) for n in range(30)))
            await broker.has(30)
        await client.run(flow, 30)  # Whoever had the outbox may be gone.
        await broker.has(31)
    assert sorted(map(int, broker.values)) == list(range(31))


async def test_what_was_left_is_published_by_the_next_worker(path: Path) -> None:
    broker = Broker()
    broker.away = True
    paid = Outbox("paid", broker)

    @workflow
    async def flow() -> None:
        await paid.publish("late")

    async with hosting(path) as client:
        await client.run(flow)
    async with Client.connect(path) as client:
        found = await only(client)
        assert found is not None
        assert (found.waiting, found.worker) == (1, None)
        registry.outboxes.clear()
        async with Worker(client):
            assert await only(client), "a worker that does not know the outbox leaves it alone"
    broker.away = False
    registry.outboxes["paid"] = (paid, "")
    async with hosting(path):
        assert await broker.has(1) == [b"late"]


async def test_a_stopping_worker_sends_what_is_there(path: Path) -> None:
    broker = Broker()
    paid = Outbox("paid", broker)

    @workflow
    async def flow() -> None:
        for n in range(1_200):  # More than go out at once.
            await paid.publish(str(n))

    async with hosting(path) as client:
        await client.run(flow)
    assert broker.values == [b"%d" % n for n in range(1_200)]


async def test_a_reset_publishes_nothing_before_its_point_again(path: Path) -> None:
    sink = MemorySink()
    paid = Outbox("paid", sink)

    @activity(transactional=True)
    async def book(tx: Transaction, word: str) -> str:
        tx.publish(paid, word)
        return word

    @workflow
    async def flow() -> str:
        await paid.publish("one")
        await book("two")
        await side_effect(str)
        word = await go.receive()
        await paid.publish(f"three {word}")
        await book("four")
        return word

    async with hosting(path) as client:
        handle = await client.start(flow, id="f")

        async def both() -> bool:
            return len(sink.messages) == 2

        await until(both)
        await handle.signal(go, "then")
        assert await handle.result() == "then"
        events = await handle.history()
        heard = next(one.seq for one in events if one.kind == "SignalReceived")
        again = await handle.reset(heard)
        assert await again.result() == "then"
        forked = await handle.fork("fork", heard)
        await forked.signal(go, "fork")
        await forked.result()
    values = [one.value.decode() for one in sink.messages]
    assert values[:4] == ["one", "two", "three then", "four"]
    assert values[4:6] == ["three then", "four"]
    assert "one" not in values[4:]
    assert "two" not in values[4:]
    assert len({one.id for one in sink.messages}) == len(values), "other messages, other ids"
    async with Client.connect(path) as client:
        assert not await client.verify()


async def test_a_move_waits_until_its_messages_have_gone_out(path: Path, tmp_path: Path) -> None:
    broker = Broker()
    broker.away = True
    paid = Outbox("paid", broker)

    @workflow
    async def flow() -> str:
        await paid.publish("before")
        word = await go.receive()
        await paid.publish("behind")
        return word

    async with Client.connect(tmp_path / "there.db") as there:
        async with hosting(path) as client:
            handle = await client.start(flow, id="f")
            await described(handle, lambda one: one.history_events > 1)
            with pytest.raises(MoveRefused, match="1 of its messages wait in an outbox"):
                await client.move("f", there, wait=1.5)
            assert (await handle.describe()).status == "running"
            moving = asyncio.ensure_future(client.move("f", there))
            await described(handle, lambda one: one.status == "paused")
            assert not moving.done()
            broker.away = False
            await moving
            assert broker.values == [b"before"]
        async with Worker(there):
            moved = there.get_handle("f", flow)
            await moved.signal(go, "on")
            assert await moved.result() == "on"
            assert await broker.has(2) == [b"before", b"behind"]


async def test_messages_are_sealed_in_the_store_and_open_for_the_broker(path: Path) -> None:
    broker = Broker()
    broker.away = True
    paid = Outbox("paid", broker)

    @workflow
    async def flow() -> None:
        await paid.publish("canary-in-a-mine", key="canary-key")

    codecs = [Encrypt({"k1": new_key()})]
    async with Client.connect(path, codecs=codecs) as client, Worker(client):
        await client.run(flow)
        async with Client.connect(path) as keyless:
            (seen,) = await keyless.outbox_messages("paid")
            assert (seen.value, seen.key) == (None, None)
            assert "k1" in (seen.fault or "")
        (seen,) = await client.outbox_messages("paid")
        assert seen.value == b"canary-in-a-mine"
        if isinstance(path, Path):  # pyright: ignore[reportUnnecessaryIsInstance]
            stored = b"".join(one.read_bytes() for one in path.parent.glob("everlong.db*"))
            assert b"canary" not in stored
        broker.away = False
        assert await broker.has(1) == [b"canary-in-a-mine"]


async def test_a_field_that_is_new_changes_nothing_for_those_that_are_replayed(
    path: Path,
) -> None:
    broker = Broker()
    before = Outbox("paid", broker, Payment)

    @dataclass
    class Now(Payment):
        note: str = "none"

    after = Outbox("paid", broker, Now)
    used: list[Outbox[Any]] = [before]

    @workflow
    async def flow() -> str:
        kind = Payment if used[-1] is before else Now
        await used[-1].publish(kind(1))
        return await go.receive()

    async with hosting(path) as client:
        handle = await client.start(flow, id="f")
        await broker.has(1)
    used.append(after)
    async with hosting(path) as client:
        handle = client.get_handle("f", flow)
        await handle.signal(go, "on")
        assert await handle.result() == "on"
    assert broker.values == [b'{"id":1,"currency":"EUR"}']
