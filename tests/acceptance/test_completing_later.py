"""Activities whose outcome is told later, by whoever has their token."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from everlong import (
    ActivityInfo,
    ActivityNotOpen,
    ActivityTimeout,
    ApplicationError,
    Client,
    EverlongError,
    InvalidToken,
    Retry,
    Signal,
    Worker,
    WorkflowCancelled,
    WorkflowFailed,
    activity,
    complete_later,
    continue_as_new,
    info,
    side_effect,
    workflow,
)
from everlong.codec import Encrypt
from everlong_engine.store.postgres import reads as postgres_reads
from everlong_engine.store.sqlite import reads as sqlite_reads
from tests.support.gated_store import LossyStore
from tests.support.hosting import AT_ONCE, described, hosting, kinds, of_kind, until
from tests.support.other_process import other_process
from tests.support.process_activities import hand_out

again: Signal[bool] = Signal("completing-later-again", bool)


@dataclass
class Receipt:
    number: int


class Declined(Exception):
    pass


class Tokens:
    """What the activities of a test hand out, and whoever completes them waits for."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def hand_out(self) -> None:
        token = info(ActivityInfo).token
        self._loop.call_soon_threadsafe(self._queue.put_nowait, token)

    async def next(self) -> str:
        async with asyncio.timeout(20):
            return await self._queue.get()


def asking(tokens: Tokens, **options: Any) -> Any:
    """A workflow that awaits an activity that is completed elsewhere."""

    async def leave(number: int) -> Receipt:
        tokens.hand_out()
        complete_later()

    ask: Any = cast("Any", activity)(name="ask", raises=[Declined], **options)(leave)

    @workflow(name="asks", raises=[Declined])
    async def asks() -> int:
        number: int = (await ask(1)).number
        return number

    return asks


async def elsewhere(handle: Any) -> None:
    await described(handle, lambda d: d.activities and d.activities[0].state == "elsewhere")


# ------------------------------------------------------------------------------- the answers


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_an_answer_by_token_is_the_outcome(path: Path, kind: str) -> None:
    tokens = Tokens()

    @activity
    async def ask() -> Receipt:
        tokens.hand_out()
        complete_later()

    @activity
    def ask_in_a_thread() -> Receipt:
        tokens.hand_out()
        complete_later()

    @workflow
    async def asks() -> int:
        return (await (ask() if kind == "async" else ask_in_a_thread())).number

    async with hosting(path) as client:
        handle = await client.start(asks)
        await client.complete(await tokens.next(), Receipt(17))
        assert await handle.result() == 17
        assert await kinds(handle) == [
            "RunStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "RunCompleted",
        ]


async def test_it_works_in_a_process_too(path: Path, tmp_path: Path) -> None:
    handed_out = tmp_path / "token"

    @workflow
    async def asks() -> int:
        return await hand_out(str(handed_out))

    async with hosting(path, activities=[hand_out], workflows=[asks], processes=1) as client:
        handle = await client.start(asks)

        async def found() -> str:
            return handed_out.read_text() if handed_out.exists() else ""

        await client.complete(await until(found), 8)
        assert await handle.result() == 8


async def test_a_failure_by_token_is_raised_as_itself_and_not_retried(path: Path) -> None:
    tokens = Tokens()
    asks = asking(tokens, retry=AT_ONCE)
    async with hosting(path) as client:
        for error, cause in ((Declined("no"), Declined), ("no", ApplicationError)):
            handle = await client.start(asks)
            await client.fail(await tokens.next(), error)
            with pytest.raises(WorkflowFailed, match="no") as failed:
                await handle.result()
            assert isinstance(failed.value.__cause__, cause)


async def test_it_waits_over_restarts_without_a_lost_attempt_or_a_slot(path: Path) -> None:
    tokens = Tokens()
    asks = asking(tokens, at_most_once=True)
    async with Client.connect(path) as client:
        async with Worker(client, activity_slots=1) as worker:
            handles = [await client.start(asks, id=f"asks-{n}") for n in range(3)]
            asked = [await tokens.next() for _ in handles]
            for handle in handles:
                await elsewhere(handle)
            # As by a death: it lets go of its runs without a word.
            keeper = worker._keeper  # pyright: ignore[reportPrivateUsage]
            assert keeper is not None
            keeper.abandon()
        await client.complete(asked[0], Receipt(1))  # Nobody is there to hear it.
        async with Worker(client):
            assert await handles[0].result() == 1
            await client.complete(asked[1], Receipt(2))
            assert await handles[1].result() == 2
            (scheduled,) = await of_kind(handles[2], "ActivityScheduled")
            assert [(one.number, one.state) for one in scheduled.attempts] == [(1, "elsewhere")]
    async with Client.connect(path) as client, Worker(client, cache_size=0):
        await client.complete(asked[2], Receipt(3))
        assert await client.get_handle("asks-2", asks).result() == 3
    assert tokens._queue.empty()  # pyright: ignore[reportPrivateUsage]


async def test_another_process_that_does_not_know_the_type_may_answer(path: Path) -> None:
    tokens = Tokens()
    asks = asking(tokens)
    async with hosting(path) as client, other_process(path) as other:
        handle = await client.start(asks)
        await other.do("complete", token=await tokens.next(), result={"number": 4})
        assert await handle.result() == 4
        handle = await client.start(asks)
        await other.do("complete", token=await tokens.next(), result={"number": "many"})
        with pytest.raises(WorkflowFailed, match="does not fit"):
            await handle.result()


async def test_a_result_that_does_not_fit_is_refused_where_the_type_is_known(path: Path) -> None:
    tokens = Tokens()
    asks = asking(tokens)
    async with hosting(path) as client:
        handle = await client.start(asks)
        token = await tokens.next()
        unfit: Any = {"number": "many"}
        with pytest.raises(EverlongError):
            await client.complete(token, unfit)
        await client.complete(token, Receipt(5))
        assert await handle.result() == 5


async def test_a_large_answer_arrives_whole(path: Path) -> None:
    tokens = Tokens()

    @activity
    async def ask() -> str:
        tokens.hand_out()
        complete_later()

    @workflow
    async def asks() -> int:
        return len(await ask())

    async with hosting(path) as client:
        handle = await client.start(asks)
        await client.complete(await tokens.next(), "x" * 200_000)
        assert await handle.result() == 200_000


async def test_an_answer_may_overtake_the_hand_over(path: Path) -> None:
    tokens, ended = Tokens(), asyncio.Event()

    @activity
    async def ask() -> int:
        tokens.hand_out()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        complete_later()

    @workflow
    async def asks() -> int:
        return await ask()

    async with hosting(path) as client:
        handle = await client.start(asks)
        await client.complete(await tokens.next(), 6)
        assert await handle.result() == 6
        await ended.wait()


# ---------------------------------------------------------------------------- one answer only


async def test_the_first_answer_wins_and_the_same_is_known_again(path: Path) -> None:
    tokens = Tokens()
    asks = asking(tokens)
    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(asks)
            token = await tokens.next()
            await elsewhere(handle)
        await client.complete(token, Receipt(1))
        await client.complete(token, Receipt(1))
        with pytest.raises(ActivityNotOpen, match="somebody else has answered"):
            await client.complete(token, Receipt(2))
        with pytest.raises(ActivityNotOpen, match="somebody else has answered"):
            await client.fail(token, "no")
        async with Worker(client):
            assert await handle.result() == 1
        await client.complete(token, Receipt(1))
        with pytest.raises(ActivityNotOpen, match="it has an outcome already"):
            await client.complete(token, Receipt(2))
        assert (await kinds(handle)).count("ActivityCompleted") == 1


async def test_of_many_answers_at_once_one_is_taken(path: Path) -> None:
    tokens = Tokens()
    asks = asking(tokens)
    async with hosting(path) as client:
        handle = await client.start(asks)
        token = await tokens.next()
        answers = await asyncio.gather(
            *(client.complete(token, Receipt(n)) for n in range(10)), return_exceptions=True
        )
        (taken,) = [n for n, error in enumerate(answers) if error is None]
        assert all(isinstance(one, ActivityNotOpen) for one in answers if one is not None)
        assert await handle.result() == taken


async def test_an_encrypted_answer_is_known_by_its_request_id(path: Path) -> None:
    tokens = Tokens()
    asks = asking(tokens)
    keys = {"one": b"k" * 32}
    async with Client.connect(path, codecs=[Encrypt(keys)]) as client, Worker(client):
        handle = await client.start(asks)
        token = await tokens.next()
        await client.complete(token, Receipt(1), request_id="hook-1")
        await client.complete(token, Receipt(1), request_id="hook-1")
        with pytest.raises(ActivityNotOpen):
            await client.complete(token, Receipt(1))
        assert await handle.result() == 1


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.file
async def test_what_is_no_token_is_refused_clearly(path: Path) -> None:
    tokens = Tokens()
    asks = asking(tokens)
    async with hosting(path) as client:
        await client.start(asks)
        token = await tokens.next()
        unlike: Any = 17
        for text in (
            "",
            "hello",
            token[:-3],
            token[:20] + "xyz" + token[23:],
            unlike,
            "everlong1.ä",
        ):
            with pytest.raises(InvalidToken):
                await client.complete(text, Receipt(1))
    async with Client.connect(path, namespace="other") as client:
        with pytest.raises(InvalidToken, match="namespace='default'"):
            await client.complete(token, Receipt(1))
    async with Client.connect(path.with_name("another.db")) as client:
        with pytest.raises(ActivityNotOpen, match="another store"):
            await client.complete(token, Receipt(1))


async def test_what_was_cancelled_or_has_ended_takes_no_answer(path: Path) -> None:
    tokens = Tokens()

    @activity
    async def ask() -> int:
        tokens.hand_out()
        complete_later()

    @activity
    async def rest() -> None:
        await asyncio.Event().wait()

    @workflow
    async def asks() -> None:
        try:
            await ask()
        finally:
            await rest()

    async with hosting(path) as client:
        handle = await client.start(asks)
        token = await tokens.next()
        await elsewhere(handle)
        await handle.cancel()
        await described(handle, lambda d: [one.name for one in d.activities] == ["rest"])
        with pytest.raises(ActivityNotOpen, match="has cancelled it"):
            await client.complete(token, 1)
        with pytest.raises(ActivityNotOpen, match="has cancelled it"):
            await client.heartbeat(token)
        await handle.terminate()
        handle = await client.start(asks)
        token = await tokens.next()
        await handle.terminate()
        with pytest.raises(ActivityNotOpen, match="terminated"):
            await client.fail(token, "too late")


async def test_it_belongs_in_an_activity_of_a_worker() -> None:
    @activity
    async def ask() -> int:
        complete_later()

    with pytest.raises(EverlongError, match="that a worker runs"):
        await ask()


# -------------------------------------------------------------------------------- time limits


@pytest.mark.parametrize("how", ["timeout", "heartbeat_timeout", "schedule_to_close"])
@pytest.mark.parametrize("restarted", [False, True])
async def test_its_time_limits_hold(path: Path, how: str, restarted: bool) -> None:
    tokens = Tokens()
    asks = asking(tokens, retry=Retry(max_attempts=1), **{how: 0.3 if restarted else 0.05})
    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(asks)
            token = await tokens.next()
            if not restarted:
                with pytest.raises(WorkflowFailed, match="ActivityTimeout"):
                    await handle.result()
        async with Worker(client):
            with pytest.raises(WorkflowFailed) as failed:
                await handle.result()
            assert isinstance(failed.value.__cause__, ActivityTimeout)
            with pytest.raises(ActivityNotOpen, match="timed out"):
                await client.complete(token, Receipt(1))


@pytest.mark.file
async def test_a_new_attempt_has_a_new_token_and_the_old_one_is_over(path: Path) -> None:
    tokens = Tokens()
    seen: list[object] = []

    @activity(timeout=0.2, retry=AT_ONCE)
    async def ask() -> int:
        seen.append(info(ActivityInfo).heartbeat_details)
        tokens.hand_out()
        complete_later()

    @workflow
    async def asks() -> int:
        return await ask()

    async with hosting(path) as client:
        handle = await client.start(asks)
        first = await tokens.next()
        await elsewhere(handle)
        assert await client.heartbeat(first, {"at": 3})
        second = await tokens.next()
        with pytest.raises(ActivityNotOpen, match="attempt 1 is over"):
            await client.complete(first, 1)
        with pytest.raises(ActivityNotOpen, match="attempt 1 is over"):
            await client.heartbeat(first)
        await client.complete(second, 2)
        assert await handle.result() == 2
        assert seen[:2] == [None, {"at": 3}]


async def test_heartbeats_by_token_put_its_limit_off(path: Path) -> None:
    tokens = Tokens()
    asks = asking(tokens, heartbeat_timeout=1.0, retry=Retry(max_attempts=1))
    async with hosting(path) as client:
        handle = await client.start(asks)
        token = await tokens.next()
        await elsewhere(handle)
        for _ in range(12):
            assert await client.heartbeat(token)
            await asyncio.sleep(0.1)  # tidy: waits because time is what it is about
        await client.complete(token, Receipt(9))
        assert await handle.result() == 9


async def test_who_waits_for_its_end_gets_it_from_the_answer(path: Path) -> None:
    tokens = Tokens()
    asks = asking(tokens, on_cancel="wait")
    async with hosting(path) as client:
        handle = await client.start(asks)
        token = await tokens.next()
        await elsewhere(handle)
        assert await client.heartbeat(token)
        await handle.cancel("enough")
        await described(handle, lambda d: d.activities and d.activities[0].state == "cancelling")
        assert not await client.heartbeat(token)
        await client.complete(token, Receipt(1))
        with pytest.raises(WorkflowCancelled, match="enough"):
            await handle.result()
        (ended,) = await of_kind(handle, "ActivityCancelled")
        assert ended.fields["outcome"] == "completed"


# ------------------------------------------------------------------------- codecs, lost answers


def asking_for_text(tokens: Tokens) -> Any:
    @activity(name="ask for text")
    async def ask() -> str:
        tokens.hand_out()
        complete_later()

    @workflow(name="asks for text")
    async def asks() -> str:
        return await ask()

    return asks


@pytest.mark.file
async def test_an_answer_waits_encrypted(path: Path) -> None:
    tokens, secret = Tokens(), "the canary sings"
    asks = asking_for_text(tokens)
    async with Client.connect(path, codecs=[Encrypt({"one": b"k" * 32})]) as client:
        async with Worker(client):
            handle = await client.start(asks)
            token = await tokens.next()
            await elsewhere(handle)
            assert await client.heartbeat(token, secret)
        await client.complete(token, secret)
        stored = b"".join(one.read_bytes() for one in path.parent.glob(f"{path.name}*"))
        assert secret.encode() not in stored
        async with Worker(client):
            assert await handle.result() == secret


async def test_who_answers_without_the_keys_fails_the_activity_and_blocks_nothing(
    path: Path,
) -> None:
    tokens = Tokens()
    asks = asking_for_text(tokens)
    async with Client.connect(path, codecs=[Encrypt({"one": b"k" * 32})]) as client:
        async with Worker(client):
            handle = await client.start(asks)
            token = await tokens.next()
            await elsewhere(handle)
        async with Client.connect(path) as stranger:
            await stranger.complete(token, "plain")
        async with Worker(client):
            with pytest.raises(WorkflowFailed, match="not encrypted"):
                await handle.result()


async def test_an_answer_whose_acknowledgement_is_lost_is_known_again(path: Path) -> None:
    tokens = Tokens()
    asks = asking_for_text(tokens)
    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(asks)
            token = await tokens.next()
            await elsewhere(handle)
        lossy = LossyStore(client)
        lossy.lose("submit")
        await client.complete(token, "once")
        assert lossy.lost == ["submit"]
        async with Worker(client):
            assert await handle.result() == "once"
        assert (await kinds(handle)).count("ActivityCompleted") == 1


async def test_an_answer_for_a_run_that_began_anew_is_not_given_to_the_next(path: Path) -> None:
    tokens = Tokens()

    @activity(name="ask anew")
    async def ask() -> int:
        tokens.hand_out()
        complete_later()

    @workflow(name="asks anew")
    async def asks(round_: int = 0) -> int:
        asking = asyncio.ensure_future(ask())
        await again.receive()
        if round_ == 0:
            continue_as_new(round_=1)
        return await asking

    async with hosting(path) as client:
        handle = await client.start(asks)
        first = await tokens.next()
        await elsewhere(handle)
        await handle.signal(again, True)
        second = await tokens.next()
        with pytest.raises(ActivityNotOpen, match="continued_as_new"):
            await client.complete(first, 1)
        await client.complete(second, 2)
        await handle.signal(again, True)
        assert await handle.result() == 2


# ------------------------------------------------------------- what is read of a long history


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The kinds of all events that are read from a store."""
    found: list[int] = []
    modules: tuple[Any, ...] = (sqlite_reads, postgres_reads)
    for module in modules:
        real = module.decode_event

        def decode(kind: int, *rest: Any, real: Any = real) -> Any:
            found.append(kind)
            return real(kind, *rest)

        monkeypatch.setattr(module, "decode_event", decode)
    return found


async def test_a_token_call_reads_one_event_of_a_long_history(
    path: Path, decoded: list[int]
) -> None:
    tokens, arguments = Tokens(), "x" * 100_000

    @activity
    async def ask(_: str) -> int:
        tokens.hand_out()
        complete_later()

    @activity
    async def answers_itself(_: str) -> int:
        tokens.hand_out()
        return 0

    @workflow(name="asks after a long life")
    async def asks() -> int:
        for _ in range(5_000):
            await side_effect(lambda: 1)
        await answers_itself(arguments)
        asking = asyncio.ensure_future(ask(arguments))
        await again.receive()
        asking.cancel()
        return await ask(arguments)

    async def reads(call: Awaitable[Any]) -> int:
        decoded.clear()
        await call
        return len(decoded)

    async def is_refused(call: Awaitable[Any], why: str) -> None:
        with pytest.raises(ActivityNotOpen, match=why):
            await call

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(asks)
            of_itself, given_up = await tokens.next(), await tokens.next()
            await elsewhere(handle)
            await handle.signal(again, True)
            token = await tokens.next()
            await described(handle, lambda d: [one.state for one in d.activities] == ["elsewhere"])
        for dead, why in ((of_itself, "it has an outcome already"), (given_up, "has cancelled it")):
            assert await reads(is_refused(client.complete(dead, 1), why)) == 1
            assert await reads(is_refused(client.fail(dead, "no"), why)) == 1
            assert await reads(is_refused(client.heartbeat(dead), why)) == 1
        assert await reads(client.heartbeat(token)) == 1
        assert await reads(client.complete(token, 2)) == 1
        assert await reads(client.complete(token, 2)) == 1
        other = client.complete(token, 3)
        assert await reads(is_refused(other, "somebody else has answered")) == 1
        async with Worker(client):
            assert await handle.result() == 2
        assert await reads(is_refused(client.complete(token, 3), "outcome already")) == 1


async def test_a_token_handed_out_behind_the_end_of_its_activity_takes_no_answer(
    path: Path,
) -> None:
    tokens, go_on = Tokens(), asyncio.Event()

    @activity(on_cancel="abandon")
    async def ask() -> int:
        await go_on.wait()
        tokens.hand_out()
        complete_later()

    @workflow(name="abandons")
    async def asks() -> None:
        asking = asyncio.ensure_future(ask())
        await again.receive()
        asking.cancel()
        await again.receive()

    async with hosting(path) as client:
        handle = await client.start(asks)
        await handle.signal(again, True)
        await described(handle, lambda d: not d.activities)
        go_on.set()
        token = await tokens.next()
        with pytest.raises(ActivityNotOpen, match="the workflow has cancelled it"):
            await client.complete(token, 1)
        with pytest.raises(ActivityNotOpen, match="the workflow has cancelled it"):
            await client.heartbeat(token)
        await handle.signal(again, True)
        await handle.result()


async def test_an_outcome_that_came_while_the_run_was_paused_is_told_by_token(path: Path) -> None:
    tokens, go_on = Tokens(), asyncio.Event()

    @activity
    async def ask() -> int:
        tokens.hand_out()
        await go_on.wait()
        return 1

    @workflow(name="is paused")
    async def asks() -> int:
        number = await ask()
        await again.receive()
        return number

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(asks)
            token = await tokens.next()
            await handle.pause()
            go_on.set()
        async with Worker(client):  # It has never handed out a token.
            await handle.resume()
            await until(lambda: _has(handle, "ActivityCompleted"))
            with pytest.raises(ActivityNotOpen, match="it has an outcome already"):
                await client.complete(token, 2)
            await handle.signal(again, True)
            assert await handle.result() == 1


async def _has(handle: Any, kind: str) -> bool:
    return kind in await kinds(handle)


async def test_of_two_processes_that_answer_at_once_one_is_taken(path: Path) -> None:
    tokens = Tokens()
    asks = asking(tokens)
    async with hosting(path) as client, other_process(path) as other:
        for _ in range(5):
            handle = await client.start(asks)
            token = await tokens.next()
            told = await asyncio.gather(
                client.complete(token, Receipt(1)),
                other.do("complete", token=token, result={"number": 2}),
                return_exceptions=True,
            )
            (taken,) = [n for n, error in enumerate(told, 1) if not isinstance(error, Exception)]
            refused = told[2 - taken]
            assert "ActivityNotOpen" in (type(refused).__name__, getattr(refused, "kind", ""))
            assert await handle.result() == taken
