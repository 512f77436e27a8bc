"""Letters in outboxes: stored with their append or not at all, taken out by one worker only."""

from msgspec.structs import replace

from everlong_engine.model.events import RunCompleted, SignalReceived
from everlong_engine.model.letters import KeptLetter
from everlong_engine.model.outgoing import Target
from everlong_engine.model.statements import Statement
from everlong_engine.model.writes import AppendResult, Refusal
from everlong_engine.store.interface import Store
from tests.support.letters import letter
from tests.support.store_rig import Rig

ONE, TWO = b"1" * 16, b"2" * 16
ROOM = 1_000_000


async def comes(rig: Rig, worker_id: bytes) -> None:
    """A worker, beside those that are there."""
    rig.worker_id = worker_id
    await rig.register()


async def names(store: Store, *, refused: bool = False, outbox: str = "paid") -> list[bytes]:
    return [one.letter.payload for one in await store.letters(outbox, 0, 100, refused=refused)]


async def taken(store: Store, by: bytes, limit: int = 100, room: int = ROOM) -> list[KeptLetter]:
    found = await store.take_letters("paid", by, limit, room)
    assert found is not None
    return found


async def left(rig: Rig, *payloads: bytes, workflow_id: str = "w") -> None:
    """One append with these letters."""
    row = await rig.owned(workflow_id)
    seq = row.next_seq
    letters = tuple(letter(row, seq, n, payload=one) for n, one in enumerate(payloads))
    done = await rig.one(rig.append(row, SignalReceived("s", b"\xc0"), letters=letters))
    assert isinstance(done, AppendResult)
    assert done.refusal is None


async def test_letters_are_taken_in_their_order_and_stay_until_they_are_sent(rig: Rig) -> None:
    store = rig.store
    await comes(rig, ONE)
    await left(rig, b"a", b"b", b"c")
    assert await store.full_outboxes(["paid", "none"]) == ["paid"]
    found = await taken(store, ONE)
    assert [one.letter.payload for one in found] == [b"a", b"b", b"c"]
    assert all(one.is_whole and one.refused is None for one in found)
    assert found == await taken(store, ONE)
    await store.letters_sent("paid", [one.position for one in found[:2]], [])
    assert await taken(store, ONE) == found[2:]
    await store.letters_sent("paid", [found[2].position], [])
    assert await taken(store, ONE) == []
    assert await store.full_outboxes(["paid"]) == []
    assert await store.outboxes() == []
    assert await rig.problems() == []


async def test_an_append_that_is_refused_leaves_none(rig: Rig) -> None:
    row = await rig.owned()
    stale = replace(row, next_seq=row.next_seq + 5)
    letters = (letter(row, 7),)
    refused = await rig.one(rig.append(stale, SignalReceived("s", b"\xc0"), letters=letters))
    assert isinstance(refused, AppendResult)
    assert refused.refusal is Refusal.FENCED
    failing = (Statement("insert into nowhere values (1)", ({},)),)
    broken = await rig.one(
        rig.append(row, SignalReceived("s", b"\xc0"), letters=letters, statements=failing)
    )
    assert isinstance(broken, AppendResult)
    assert broken.refusal is Refusal.STATEMENTS
    assert await names(rig.store) == []


async def test_an_append_that_is_known_again_leaves_them_once(rig: Rig) -> None:
    row = await rig.owned()
    append = rig.append(row, SignalReceived("s", b"\xc0"), letters=(letter(row, row.next_seq),))
    for _ in range(2):
        done = await rig.one(append)
        assert isinstance(done, AppendResult)
        assert done.refusal is None
    assert await names(rig.store) == [b"x"]


async def test_a_first_drive_leaves_its_letters_with_the_start(rig: Rig) -> None:
    start = rig.start_here("w", RunCompleted(b"\xc0"))
    assert start.first is not None
    start.first.letters = (letter(start.run, 2),)
    await rig.one(start)
    assert await names(rig.store) == [b"x"]


async def test_only_one_living_worker_takes_from_an_outbox(rig: Rig) -> None:
    store = rig.store
    await comes(rig, ONE)
    await comes(rig, TWO)
    await left(rig, b"a")
    assert len(await taken(store, ONE)) == 1
    assert await store.take_letters("paid", TWO, 100, ROOM) is None
    assert len(await taken(store, ONE)) == 1
    await store.bury(ONE)
    assert len(await taken(store, TWO)) == 1


async def test_a_worker_that_gets_nowhere_lets_others_try(rig: Rig) -> None:
    store = rig.store
    await comes(rig, ONE)
    await comes(rig, TWO)
    await left(rig, b"a")
    await taken(store, ONE)
    await store.outbox_fails("paid", TWO, "not mine", rig.now_us)
    assert await store.take_letters("paid", TWO, 100, ROOM) is None
    await store.outbox_fails("paid", ONE, "away", rig.now_us)
    (row,) = await store.outboxes()
    assert (row.waiting, row.failures, row.fault, row.fault_us) == (1, 1, "away", rig.now_us)
    (mine,) = await taken(store, TWO)
    await store.letters_sent("paid", [mine.position], [])
    assert await store.outboxes() == []


async def test_bounds_of_a_batch_let_at_least_one_through(rig: Rig) -> None:
    store = rig.store
    await comes(rig, ONE)
    await left(rig, *(b"%d" % n * 10 for n in range(1, 9)), *(b"y" * 10 for _ in range(40)))
    assert len(await taken(store, ONE, limit=3)) == 3
    assert len(await taken(store, ONE, room=1)) == 1
    assert len(await taken(store, ONE, room=35)) == 3
    assert len(await taken(store, ONE, room=305)) == 30
    assert len(await taken(store, ONE)) == 48


async def test_what_is_refused_is_set_aside_and_comes_back_in_its_place(rig: Rig) -> None:
    store = rig.store
    await comes(rig, ONE)
    await left(rig, b"a", b"b", b"c")
    a, b, c = await taken(store, ONE)
    await store.letters_sent("paid", [a.position], [(b.position, "too large")])
    assert await names(store) == [b"c"]
    (aside,) = await store.letters("paid", 0, 10, refused=True)
    assert (aside.letter.payload, aside.refused) == (b"b", "too large")
    (row,) = await store.outboxes()
    assert (row.waiting, row.refused, row.oldest_us) == (1, 1, c.letter.at_us)
    assert await store.send_again("paid", [c.position]) == 0
    assert await store.send_again("other", None) == 0
    assert await store.send_again("paid", None) == 1
    assert await names(store) == [b"b", b"c"]
    await store.letters_sent("paid", [], [(b.position, "still"), (c.position, "too")])
    assert await store.send_again("paid", [c.position]) == 1
    assert await store.drop_letters("paid", None) == 1
    assert await names(store) == [b"c"]
    assert await store.drop_letters("other", [c.position]) == 0
    assert await store.drop_letters("paid", [c.position, c.position]) == 1
    assert await store.outboxes() == []


async def test_letters_outlive_their_execution(rig: Rig) -> None:
    row = await rig.owned()
    await rig.one(rig.append(row, RunCompleted(b"\xc0"), letters=(letter(row, row.next_seq),)))
    assert await rig.store.letters_of([row.execution_id]) == 1
    assert await rig.store.letters_of([b"9" * 16]) == 0
    _, gone = await rig.store.prune((0, b""), rig.now_us * 2, 100)
    assert gone == 1
    assert await rig.store.latest(Target(row.shard, row.namespace, "w")) is None
    assert await names(rig.store) == [b"x"]
    assert await rig.problems() == []


async def test_a_damaged_letter_is_named(rig: Rig) -> None:
    row = await rig.owned()
    whole = letter(row, row.next_seq)
    damaged = replace(whole, payload=b"other", number=1)
    await rig.one(rig.append(row, SignalReceived("s", b"\xc0"), letters=(whole, damaged)))
    assert [one.is_whole for one in await rig.store.letters("paid", 0, 9, refused=False)] == [
        True,
        False,
    ]
    (problem,) = await rig.problems()
    assert problem.startswith("letter ")
    assert problem.endswith(" of the outbox 'paid' has a wrong checksum")
