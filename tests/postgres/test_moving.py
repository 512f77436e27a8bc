"""Moves between a file and a server, in both directions: killed on the way, and at any moment."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from everlong import (
    Client,
    MoveRefused,
    MoveReport,
    Query,
    Retry,
    Signal,
    Worker,
    WorkflowMoved,
    WorkflowNotFound,
    activity,
    continue_as_new,
    info,
    workflow,
)
from tests.support.hosting import until
from tests.support.postgres_server import lent_store

ROOT: Final = Path(__file__).parents[2]
DIRECTIONS: Final = ("file to server", "server to file", "file to file")
STEPS: Final = ("held", "copied", "left", "arrived", "settled")

word = Signal("moving_word", int)
so_far = Query("moving_so_far", int)


@activity(name="moving_note", retry=Retry(delay=0.01, jitter=0.0, max_attempts=50), timeout=20.0)
async def note(ledger: str, line: str, failures: int = 0) -> str:
    with Path(ledger).open("a") as file:
        file.write(f"{line}\n")
    if Path(ledger).read_text().splitlines().count(line) <= failures:
        raise ValueError("not yet")
    return line


@workflow(name="moving_child")
async def child(ledger: str, name: str) -> str:
    heard = await word.receive()
    return await note(ledger, f"{name} {heard}")


@workflow(name="moving_parent")
async def parent(ledger: str) -> list[str]:
    own = info().workflow_id
    said = [await note(ledger, "begin")]
    handle = await child.options(id=f"{own}-child").start(ledger, "child")
    said.append(await note(ledger, f"heard {await word.receive()}"))
    said.append(await handle.result())
    return said


@pytest.fixture(params=DIRECTIONS)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """Where it is, and where it goes."""
    async with AsyncExitStack() as stack:
        urls = [str(tmp_path / "one.db"), str(tmp_path / "two.db")]
        if "server" in request.param:
            url = await stack.enter_async_context(lent_store(1024))
            urls[request.param == "file to server"] = url
        yield urls[0], urls[1]


def moved_until(step: str, here: str, there: str, name: str) -> None:
    """The move, by a process that dies when the step is done."""
    command = [sys.executable, "-m", "tests.support.mover", here, there, name, step]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    expected = 0 if step == "-" else -signal.SIGKILL
    assert done.returncode == expected, done.stderr.decode()


async def status(client: Client, name: str) -> str:
    try:
        return (await client.get_handle(name).describe()).status
    except WorkflowNotFound:
        return "unknown"


@pytest.mark.parametrize("step", STEPS)
async def test_a_mover_that_is_killed_leaves_it_in_one_store_and_can_be_repeated(
    stores: tuple[str, str], step: str, tmp_path: Path
) -> None:
    here, there = stores
    ledger = tmp_path / "ledger"
    async with Client.connect(here) as one, Client.connect(there) as other:
        async with Worker(one):
            await one.start(parent, str(ledger), id="p")
            await until(lambda: _known(one, "p-child"))
        await one.get_handle("p").signal(word, 1)
        moved_until(step, here, there, "p")
        names = ("p", "p-child")
        found = [[await status(client, name) for name in names] for client in (one, other)]
        expected = {
            "held": [["paused"] * 2, ["unknown"] * 2],
            "copied": [["paused"] * 2, ["unknown"] * 2],
            "left": [["moved"] * 2, ["unknown"] * 2],
            "arrived": [["moved"] * 2, ["running"] * 2],
            "settled": [["moved"] * 2, ["running"] * 2],
        }
        assert found == expected[step]
        # Workers of both stores, before anybody has repeated the move: it goes on in one at most.
        async with Worker(one), Worker(other):
            # What is told that it is accepted is heard, wherever that was.
            try:
                await one.get_handle("p-child").signal(word, 2)
            except WorkflowMoved:
                moved_until("-", here, there, "p")
                await other.get_handle("p-child").signal(word, 2)
            moved_until("-", here, there, "p")
            with pytest.raises(WorkflowMoved):
                await one.get_handle("p").signal(word, 9)
            result = await other.get_handle("p").result()
        assert result == ["begin", "heard 1", "child 2"]
        assert sorted(ledger.read_text().splitlines()) == sorted(result)
        assert not await one.verify()
        assert not await other.verify()


async def _known(client: Client, name: str) -> bool:
    return bool((await client.list(workflow_id=name)).items)


async def test_a_move_that_was_cut_short_is_called_off_by_resuming(
    stores: tuple[str, str], tmp_path: Path
) -> None:
    here, there = stores
    async with Client.connect(here) as one, Client.connect(there) as other:
        await one.start(child, str(tmp_path / "ledger"), "c", id="c")
        moved_until("copied", here, there, "c")
        await one.get_handle("c").resume()
        async with Worker(one), Worker(other):
            await one.get_handle("c").signal(word, 5)
            assert await one.get_handle("c").result() == "c 5"
        assert await status(other, "c") == "unknown"
        assert not await one.verify()


async def test_two_who_move_the_same_at_once_move_it_once(
    stores: tuple[str, str], tmp_path: Path
) -> None:
    here, there = stores
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Client.connect(here))
        other = await stack.enter_async_context(Client.connect(there))
        for number in range(5):
            name = f"c{number}"
            await one.start(child, str(tmp_path / "ledger"), name, id=name)
            await one.get_handle(name).signal(word, number)
            moves = [one.move(name, other) for _ in range(3)]
            done = await asyncio.gather(*moves, return_exceptions=True)
            unexpected = [one for one in done if not isinstance(one, MoveReport | MoveRefused)]
            assert unexpected == []
            await one.move(name, other)
            assert await status(one, name) == "moved"
        async with Worker(other):
            for number in range(5):
                assert await other.get_handle(f"c{number}").result() == f"c{number} {number}"
        lines = (tmp_path / "ledger").read_text().splitlines()
        assert sorted(lines) == [f"c{number} {number}" for number in range(5)]


# --------------------------------------------------------------------------- while it is spoken to


@workflow(name="moving_listener")
async def listener(wanted: int, heard: list[int] | None = None) -> list[int]:
    heard = heard or []
    while len(heard) < wanted:
        heard.append(await word.receive())
        if len(heard) % 7 == 0:
            continue_as_new(heard=heard)
    return heard


async def test_no_signal_that_was_accepted_is_lost_while_it_goes_to_and_fro(
    stores: tuple[str, str],
) -> None:
    wanted = 150
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client.connect(url)) for url in stores]
        for client in clients:
            await stack.enter_async_context(Worker(client))
        await clients[0].start(listener, wanted, id="ear")
        there = 0
        moves = 0

        async def speak() -> None:
            at = 0
            for number in range(wanted):
                while True:
                    try:
                        await clients[at].get_handle("ear").signal(word, number)
                    except (WorkflowMoved, WorkflowNotFound):
                        at = 1 - at
                        await asyncio.sleep(0)
                    else:
                        break

        speaking = asyncio.create_task(speak())
        while not speaking.done():
            await clients[there].move("ear", clients[1 - there])
            there, moves = 1 - there, moves + 1
        await speaking
        assert await clients[there].get_handle("ear").result() == list(range(wanted))
        assert moves >= 3
        for client in clients:
            assert not await client.verify()


# ---------------------------------------------------------------------------- at any moment of life


@dataclass(frozen=True, slots=True)
class Do:
    """A step of a program: what it adds to the result can be said without running it."""

    what: Literal["call", "fail", "sleep", "receive", "child", "anew", "together"]
    number: int


Program: TypeAlias = list[Do]
_KINDS: Final = ("call", "fail", "sleep", "receive", "child", "anew", "together")
programs = st.lists(st.builds(Do, st.sampled_from(_KINDS), st.integers(0, 9)), max_size=7)


@workflow(name="moving_leaf")
async def leaf(ledger: str, name: str) -> str:
    await asyncio.sleep(0.02)  # tidy: waits because it is a durable timer
    return await note(ledger, name)


@workflow(name="moving_program")
async def play(
    ledger: str, program: Program, at: int = 0, said: list[str] | None = None
) -> list[str]:
    said = said or []
    while at < len(program):
        step, own = program[at], f"{at}"
        at += 1
        match step.what:
            case "call":
                said.append(await note(ledger, f"{own} call"))
            case "fail":
                said.append(await note(ledger, f"{own} fail", failures=2))
            case "sleep":
                await asyncio.sleep(0.03)  # tidy: waits because it is a durable timer
                said.append(f"{own} slept")
            case "receive":
                said.append(f"{own} heard {await word.receive()}")
            case "child":
                name = f"{info().workflow_id}-{own}"
                said.append(await leaf.options(id=name)(ledger, f"{own} leaf"))
            case "together":
                both = [note(ledger, f"{own} a"), leaf(ledger, f"{own} b")]
                said += await asyncio.gather(*both)
            case "anew":
                continue_as_new(program=program, at=at, said=[*said, f"{own} anew"])
    return said


def foretold(program: Program) -> list[str]:
    """What a program says that nobody moves."""
    said: list[str] = []
    heard = 0
    for at, step in enumerate(program):
        match step.what:
            case "receive":
                said.append(f"{at} heard {heard}")
                heard += 1
            case "child":
                said.append(f"{at} leaf")
            case "together":
                said += [f"{at} a", f"{at} b"]
            case "sleep":
                said.append(f"{at} slept")
            case _:
                said.append(f"{at} {step.what}")
    return said


async def carried(urls: tuple[str, str], program: Program, seed: int, ledger: Path) -> Any:
    """Its result, with moves at random moments and words from outside meanwhile."""
    random = Random(seed)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client.connect(url)) for url in urls]
        for client in clients:
            await stack.enter_async_context(Worker(client))
        name = f"program-{seed}-{random.getrandbits(40)}"
        words = sum(step.what == "receive" for step in program)
        await clients[0].start(play, str(ledger), program, id=name)
        at = sent = 0
        for _ in range(random.randint(1, 5)):
            pause_s = random.choice([0.0, 0.001, 0.01, 0.04])
            await asyncio.sleep(pause_s)  # tidy: waits because any moment will do
            if sent < words and random.random() < 0.6:
                try:
                    await clients[at].get_handle(name).signal(word, sent)
                except Exception as error:
                    raise AssertionError(f"{error}: it was there") from error
                sent += 1
            await clients[at].move(name, clients[1 - at])
            at = 1 - at
        for number in range(sent, words):
            await clients[at].get_handle(name).signal(word, number)
        result = await clients[at].get_handle(name).result()
        for client in clients:
            assert not await client.verify()
        return result


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=False,
)
@given(program=programs, seed=st.integers(0, 1_000_000))
def test_moved_at_any_moment_it_ends_as_if_it_had_stayed(
    tmp_path_factory: pytest.TempPathFactory, direction: str, program: Program, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("moved")
    ledger = folder / "ledger"

    async def run() -> Any:
        async with AsyncExitStack() as stack:
            urls = [str(folder / "one.db"), str(folder / "two.db")]
            if "server" in direction:
                url = await stack.enter_async_context(lent_store(1024))
                urls[direction == "file to server"] = url
            return await carried((urls[0], urls[1]), program, seed, ledger)

    assert asyncio.run(run()) == foretold(program)
    did = ledger.read_text().splitlines() if ledger.exists() else []
    for at, step in enumerate(program):
        if step.what == "fail":
            assert did.count(f"{at} fail") == 3, "as often as its policy tries, and no more"
        elif step.what == "call":
            assert did.count(f"{at} call") == 1
