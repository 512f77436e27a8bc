"""A server has many owners at once: claims, leases and fences between processes."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from msgspec.structs import replace

from everlong_engine.model.codec import checksum, encode_event
from everlong_engine.model.events import RunCompleted
from everlong_engine.model.writes import MessageResult, Refusal, StartResult
from everlong_engine.store.postgres.store import PostgresStore
from tests.support.postgres_server import lent_store
from tests.support.store_rig import Rig, refusal, signal

HOUR_US = 3600 * 1_000_000


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with lent_store() as url:
        yield url


@pytest.fixture
async def rigs(url: str) -> AsyncIterator[tuple[Rig, Rig]]:
    """Two processes with a worker each, both alive."""
    stores = [await PostgresStore.open(url) for _ in range(2)]
    one, two = Rig(stores[0]), Rig(stores[1], seed=8)
    await one.register("one")
    await two.register("two")
    yield one, two
    for store in stores:
        await store.close()


async def test_both_may_have_workers(rigs: tuple[Rig, Rig]) -> None:
    for rig in rigs:
        rig.store.acquire()
    assert [rig.store.owned for rig in rigs] == [True, True]
    assert [worker.is_there for worker in await rigs[0].store.workers()] == [True, True]


async def test_what_one_claims_the_other_does_not(rigs: tuple[Rig, Rig]) -> None:
    one, two = rigs
    names = {f"w{number}" for number in range(40)}
    for name in names:
        await one.started(name)
    claimed: list[str] = []
    while len(claimed) < len(names):
        found = await asyncio.gather(one.claim(limit=3), two.claim(limit=3))
        claimed += [run.row.workflow_id for each in found for run in each]
    assert sorted(claimed) == sorted(names)


async def test_what_a_live_worker_owns_is_not_taken_over(rigs: tuple[Rig, Rig]) -> None:
    one, two = rigs
    row = await one.owned()
    assert await two.store.take_over([two.worker_id], two.now_us, 100) == 0
    assert refusal(await one.one(one.append(row))) is None


async def test_without_a_beat_in_its_lease_a_worker_is_dead_for_good(url: str) -> None:
    silent, heard = await PostgresStore.open(url, lease_us=0), await PostgresStore.open(url)
    one, two = Rig(silent), Rig(heard, seed=8)
    await one.register("silent")
    await two.register("heard")
    row = await one.owned()
    assert await silent.take_over([two.worker_id], two.now_us, 100) == 1
    assert (await silent.beat([one.worker_id])).alive == set()
    assert (await heard.beat([two.worker_id])).alive == {two.worker_id}
    taken = await two.claim_one()
    assert taken.row.run_id == row.run_id
    assert refusal(await one.one(one.append(row))) is Refusal.FENCED
    assert refusal(await two.one(two.append(taken.row))) is None
    there = {worker.name: worker.is_there for worker in await heard.workers()}
    assert there == {"silent": False, "heard": True}
    await silent.close()
    await heard.close()


async def test_a_beat_renews_the_lease(url: str) -> None:
    brief, long = await PostgresStore.open(url, lease_us=0), await PostgresStore.open(url)
    one, two = Rig(brief), Rig(long, seed=8)
    await one.register()
    await one.owned()
    assert (await long.beat([one.worker_id])).alive == {one.worker_id}
    assert await brief.take_over([], two.now_us, 100) == 0
    await brief.close()
    await long.close()


async def test_a_beat_tells_when_somebody_may_be_found_dead(url: str) -> None:
    """At the end of the others' first lease, by the server's clock; at once where the dead have
    left something; never where nobody else is."""
    hour = await PostgresStore.open(url, lease_us=HOUR_US)
    brief = await PostgresStore.open(url, lease_us=0)
    one, two, three = Rig(hour), Rig(hour, seed=8), Rig(brief, seed=9)
    await one.register()
    assert (await hour.beat([one.worker_id])).sweep_s is None
    await two.register()
    assert 3000 < ((await hour.beat([one.worker_id])).sweep_s or 0) <= 3600
    await three.register()
    await three.owned()
    assert ((await brief.beat([one.worker_id, two.worker_id])).sweep_s or 0) <= 0
    # Who has not been heard of for a whole lease itself waits for that.
    assert ((await hour.beat([one.worker_id])).sweep_s or 0) > 3000
    await brief.bury(three.worker_id)
    assert (await hour.beat([one.worker_id, two.worker_id])).sweep_s == 0
    assert await hour.take_over([one.worker_id, two.worker_id], one.now_us, 100) == 1
    assert (await hour.beat([one.worker_id, two.worker_id])).sweep_s is None
    await hour.close()
    await brief.close()


async def test_beats_of_others_are_no_news_and_everything_else_is(rigs: tuple[Rig, Rig]) -> None:
    one, two = rigs
    for number in range(3):
        await one.started(f"w{number}")
        assert await two.store.changed()
        for _ in range(100):  # The server's own housekeeping counts, and comes when it likes.
            await one.store.beat([one.worker_id])
            await one.store.beat([one.worker_id, two.worker_id])
            if not await two.store.changed():
                break
        else:
            raise AssertionError("beats look like commits of others")


async def test_by_versions_nobody_claims_who_has_not_seen_the_last_one_that_came(url: str) -> None:
    store = await PostgresStore.open(url)
    rig = Rig(store)
    await rig.register("one")
    await rig.started("follows")
    seen = await store.fleet()
    wants = replace(rig.wants(), fleet=seen.number)
    rig.worker_id = rig.ids.next(rig.now_us)
    await rig.register("two")
    assert await store.claim(wants, rig.now_us, 10) == []
    assert await store.changed()
    assert store.fleet_number != seen.number
    fleet = await store.fleet()
    assert len(fleet.members) == 2
    wants = replace(wants, fleet=fleet.number)
    assert len(await store.claim(wants, rig.now_us, 10)) == 1
    await store.bury(rig.worker_id)
    after = await store.fleet()
    assert after.number != fleet.number
    assert [one.left_us is None for one in after.members] == [False, True]
    await store.close()


async def test_nobody_is_declared_dead_by_who_was_silent_itself(url: str) -> None:
    """After an outage everybody looks dead: whoever comes back first must not take all."""
    brief, long = await PostgresStore.open(url, lease_us=0), await PostgresStore.open(url)
    one, two = Rig(brief), Rig(long, seed=8)
    await one.register()
    await two.register()
    await one.owned()
    assert await long.take_over([two.worker_id], two.now_us, 100) == 0
    assert (await long.beat([two.worker_id])).alive == {two.worker_id}
    assert await long.take_over([two.worker_id], two.now_us, 100) == 0
    await brief.close()
    await long.close()


async def test_an_owner_hears_of_mail_for_what_it_has_and_of_no_other(
    rigs: tuple[Rig, Rig],
) -> None:
    one, two = rigs
    await one.owned("mine")
    await two.owned("theirs")
    mine, theirs = await two.position("mine"), await one.position("theirs")
    for rig, position in ((one, mine), (two, theirs)):
        found = await rig.store.mail_since(10**9, 10, [rig.worker_id])
        assert [mail.position for mail in found] == [position]


async def test_an_owner_is_told_of_a_termination(rigs: tuple[Rig, Rig]) -> None:
    one, two = rigs
    row = await one.owned()
    await two.one(two.terminate())
    (notice,) = await one.store.mail_since(0, 10, [one.worker_id])
    assert notice.execution_id == row.execution_id
    assert await two.store.mail_since(0, 10, [two.worker_id]) == []


async def test_an_end_waits_for_a_message_that_is_on_its_way(
    rigs: tuple[Rig, Rig], url: str
) -> None:
    """The sender has been answered before the end is judged, or hears that it came too late."""
    one, _ = rigs
    row = await one.owned()
    sender = await asyncpg.connect(url)
    looker = await asyncpg.connect(url)
    async with sender.transaction():
        await sender.execute(
            "SELECT 1 FROM everlong.runs WHERE shard = $1 AND run_id = $2 FOR KEY SHARE",
            row.shard,
            row.run_id,
        )
        ending = asyncio.ensure_future(one.one(one.append(row, RunCompleted(b""))))
        while not await looker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not ending.done()
        kind, body = encode_event(signal(), {})
        await sender.execute(
            "INSERT INTO everlong.inbox (shard, execution_id, kind, body, checksum)"
            " VALUES ($1, $2, $3, $4, $5)",
            row.shard,
            row.execution_id,
            kind,
            body,
            checksum(0, kind, body),
        )
    assert refusal(await ending) is Refusal.MAIL
    await sender.close()
    await looker.close()


async def test_two_starts_of_one_request_begin_one_execution(rigs: tuple[Rig, Rig]) -> None:
    for number in range(10):
        starts = [rig.one(rig.start(f"w{number}", request_id="r")) for rig in rigs]
        first, second = await asyncio.gather(*starts)
        assert isinstance(first, StartResult)
        assert isinstance(second, StartResult)
        assert first.created is not second.created
        assert first.run_id == second.run_id


async def test_two_that_write_to_the_same_runs_wait_for_each_other_in_turn(
    rigs: tuple[Rig, Rig],
) -> None:
    """Whatever the order of their writes: rows are locked in one order, so that nobody is ended."""
    one, two = rigs
    names = [f"w{number}" for number in range(8)]
    for name in names:
        await one.started(name)
    for _ in range(5):
        there = one.group(*(one.message(name) for name in names))
        back = two.group(*(two.message(name) for name in reversed(names)))
        for found in await asyncio.gather(there, back):
            places = [each.position for each in found if isinstance(each, MessageResult)]
            assert len(places) == len(names)
            assert None not in places
    assert await one.problems() == []
