"""An outbox under kill -9: the worker dies before it publishes, halfway, and between publishing and
marking. Each message arrives, twice at most with one id, and for a reader that knows ids once.

The broker is a real one, the process dies by its own SIGKILL at the moment that is tested.
"""

# tidy: this file sleeps because other processes say nothing while they work
import asyncio
import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from everlong import Client
from everlong.streams import Record
from everlong.streams.mqtt import Mqtt
from tests.chaos.arena import FULL
from tests.proof.record import record
from tests.support.command_line import begin, worker
from tests.support.sink_rigs import mosquitto

DEATHS: Final = ("before", "within", "behind") * (12 if FULL else 1)
MESSAGES: Final = 200 * len(DEATHS)
CODE: Final = """
import os, signal
from everlong import Outbox, Retry, Transaction, activity, checkpoint, workflow
from everlong.streams import mqtt

class Dies(mqtt._MqttWriter):
    async def write(self, messages):
        if len(messages) < 10:  # The first ones go out one by one.
            return await super().write(messages)
        if os.environ["DIES"] != "before":
            part = messages if os.environ["DIES"] == "behind" else messages[: len(messages) // 2]
            await super().write(part)
        os.kill(os.getpid(), signal.SIGKILL)

if "DIES" in os.environ:
    mqtt._MqttWriter = Dies

paid = Outbox("paid", mqtt.MqttSink("{url}", "paid"), int)

@activity(name="chaos_pay", transactional=True, retry=Retry(delay=0.01))
async def pay(tx: Transaction, first: int) -> None:
    for number in range(first, first + 20):
        tx.execute("insert into payments (id) values (:id)", {{"id": number}})
        tx.publish(paid, number)

@workflow(name="chaos_pays")
async def pays(done: int = 0) -> int:
    while done < {messages}:
        await pay(done)
        for number in range(done + 20, done + 25):
            await paid.publish(number)
        done += 25
        await checkpoint(done=done)
    return done
"""


async def everything(reader_of: Mqtt[bytes], count: int) -> list[Record]:
    """At least so many, and whatever comes within a while behind them."""
    reader = await reader_of.open(None, None)
    found: list[Record] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            found += await reader.fetch(1_000, 1_000_000, None)
    while more := await reader.fetch(1_000, 1_000_000, 0.5):
        found += more
    await reader.close()
    return found


@pytest.mark.timeout(3600 if FULL else 180)
async def test_each_message_arrives_whenever_the_worker_dies(tmp_path: Path) -> None:
    began, path = time.monotonic(), tmp_path / "everlong.db"
    keeps = "max_inflight_messages 20000"
    async with (
        mosquitto(tmp_path, "max_queued_messages 0", keeps) as server,
        Client.connect(path) as client,
    ):
        url = f"mqtt://127.0.0.1:{server.port}"
        (tmp_path / "flow.py").write_text(CODE.format(url=url, messages=MESSAGES))
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table payments (id integer primary key)")
        once = Mqtt(url, "paid", session="once", prefetch=10_000)
        every = Mqtt(url, "paid", session="every", prefetch=10_000, id_property="no such")
        for source in (once, every):  # So that the broker keeps what comes.
            await (await source.open(None, None)).close()
        handle = await client.start("chaos_pays", id="pays")
        for death in DEATHS:
            dying = begin("worker", "flow.py", folder=tmp_path, DIES=death)
            await asyncio.to_thread(dying.communicate, timeout=60)
            assert dying.returncode == -9
        with worker("flow.py", folder=tmp_path):
            assert await handle.result() == MESSAGES
            async with asyncio.timeout(60):
                while await client.outboxes():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        seen = await everything(every, MESSAGES)
        known = await everything(once, MESSAGES)
    ids: defaultdict[bytes, set[bytes]] = defaultdict(set)
    for one in seen:
        ids[one.value].add(one.headers["message_id"])
    everything_once = [b"%d" % n for n in range(MESSAGES)]
    assert sorted(ids, key=int) == everything_once, "none is lost"
    assert all(len(one) == 1 for one in ids.values()), "what comes twice has one id"
    assert len({name for one in ids.values() for name in one}) == MESSAGES, (
        "and no other message has it"
    )
    assert [one.value for one in known] == everything_once, "once, in order, for who knows ids"
    repeated = len(seen) - MESSAGES
    assert repeated > 0, "a death behind publishing was met"
    assert max(Counter(one.value for one in seen).values()) <= len(DEATHS) + 1
    with closing(sqlite3.connect(path)) as connection:
        (rows,) = connection.execute("select count(*) from payments").fetchone()
    assert rows == MESSAGES * 20 // 25
    record(
        "an outbox whose worker is killed",
        invariants=[2, 14],
        tried="kill -9 before, within and behind the publishing of a batch",
        times=len(DEATHS),
        broken=0,
        seconds=time.monotonic() - began,
        figures={"messages": MESSAGES, "sent twice": repeated},
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_outbox_kills.py",
    )
