"""Keyed entities under kill -9: each message counts once in its state, each timer comes once."""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import random
import time
from pathlib import Path
from typing import Any, Final

import pytest

from everlong import Client
from everlong.streams import EntityControl, EntityState, StreamControl
from tests.chaos.arena import FULL
from tests.proof.record import record
from tests.support.command_line import begin, worker_ready

KILLS: Final = 100 if FULL else 5
MESSAGES: Final = 100_000 if FULL else 6_000
KEYS: Final = 400
LINE_BYTES: Final = 8
CODE: Final = """
from dataclasses import dataclass
from everlong import Output
from everlong.streams import EntityContext, Lines, Message, Stream, Timer, entity

numbers = Stream("numbers", Lines("numbers.txt", int, poll=0.01))
rung = Output("chaos_rung", str, keep=None)

@dataclass
class Sums:
    count: int = 0
    total: int = 0
    rang: int = 0

@entity(
    numbers, key=lambda m: str(m.value % {keys}), state=Sums, name="chaos_sums", max_messages=50
)
async def sums(state: Sums, message: Message[int], ctx: EntityContext) -> None:
    state.count += 1
    state.total += message.value
    if state.count == 2:
        ctx.set_timer("second", after=0.05)

@sums.on_timer
async def rings(state: Sums, timer: Timer, ctx: EntityContext) -> None:
    state.rang += 1
    ctx.publish(rung, ctx.key)
"""


async def position(control: StreamControl) -> int:
    found = await control.position()
    return 0 if found is None else int(found.after["0"]) // LINE_BYTES


@pytest.mark.timeout(3600 if FULL else 180)
async def test_states_are_what_the_messages_make_of_them(tmp_path: Path) -> None:
    began = time.monotonic()
    chance = random.Random()
    path = tmp_path / "everlong.db"
    (tmp_path / "numbers.txt").write_text("".join(f"{n:7}\n" for n in range(MESSAGES)))
    (tmp_path / "flow.py").write_text(CODE.format(keys=KEYS))
    broken = between = 0
    states: list[EntityState[dict[str, Any]]] = []
    async with Client.connect(path) as client:
        handle = await client.start("chaos_sums", id="sums")
        stream = StreamControl(handle, "numbers")
        entities: EntityControl[dict[str, Any]] = EntityControl(handle)
        for kill in range(KILLS + 1):
            worker = begin("worker", "flow.py", "--json", folder=tmp_path)
            await asyncio.to_thread(worker_ready, worker)
            last = kill == KILLS
            goal = MESSAGES if last else MESSAGES * (kill + 1) // (KILLS + 2)
            while await position(stream) < goal:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            if last:
                await asyncio.wait_for(all_there(entities), 60)
            else:
                await asyncio.sleep(chance.random() * 0.1)
            worker.kill()
            worker.communicate()
            states = [one async for one in entities.states()]
            counted = sum(one.state["count"] for one in states)
            # A batch that is on record may wait for its handlers, and no other may be missing.
            missing = await position(stream) - counted
            between += missing > 0
            broken += not 0 <= missing <= 50
            broken += sum(not fits(one) for one in states) + len(await client.verify())
        rang = [one async for one in handle.subscribe("chaos_rung", live=False)]
    broken += sorted(rang) != sorted(map(str, range(KEYS)))
    broken += sum(one.state["count"] != MESSAGES // KEYS for one in states)
    record(
        "keyed entities, their worker killed",
        invariants=[2, 3, 4, 6],
        tried="one state for each key of a stream, its worker killed at random moments: each "
        "message is in its state once, each timer has come once",
        times=KILLS,
        broken=broken,
        seconds=time.monotonic() - began,
        figures={"messages": MESSAGES, "keys": KEYS, "kills with a batch on record": between},
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_entity_kills.py",
    )
    assert broken == 0
    assert len(states) == KEYS


async def all_there(entities: EntityControl[dict[str, Any]]) -> None:
    """Behind the last batch, and behind the last timer."""
    while True:
        states = [one.state async for one in entities.states()]
        if sum(one["count"] for one in states) == MESSAGES and all(one["rang"] for one in states):
            return
        await asyncio.sleep(0.01)


def fits(one: EntityState[dict[str, Any]]) -> bool:
    """The messages of a key come in order, so what is in its state is known by their count."""
    count, total = one.state["count"], one.state["total"]
    first = int(one.key)
    return (
        total == sum(range(first, first + KEYS * count, KEYS))
        and one.state["rang"] <= 1
        and (one.state["rang"] == 0 or not one.timers)
        and (count < 2 or one.state["rang"] + len(one.timers) == 1)
    )
