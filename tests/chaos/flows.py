"""What runs while workers are killed: a mix of flows whose effects go into a ledger outside.

The ledger is a file of JSON lines, each appended by one write and synced: what an attempt did
stands there even if its process is killed in the next moment. `CHAOS_LEDGER` names it. Names begin
with chaos_, since they share pytest's process with those of all other tests.
"""

import asyncio
import json
import os
import select
import signal
import threading
import time
from typing import Any

from everlong import ActivityLost, Retry, Signal, activity, continue_as_new, info, workflow

LISTENED = 3
"""Signals that a listening flow waits for."""

LAST = -1
"""What tells a hearer that it is enough."""

variant = "first"
"""Which version of the code of `changing` this process has."""

numbers = Signal("chaos_numbers", int)
enough = Signal("chaos_enough", bool)
go_on = Signal("chaos_go_on", bool)


def note(**facts: Any) -> None:
    """Append to the ledger, durably."""
    append(os.environ["CHAOS_LEDGER"], **facts)


def append(path: str, **facts: Any) -> None:
    """One line, with one write, synced. The empty line before it ends one that was cut off."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, b"\n" + json.dumps(facts).encode() + b"\n")
        os.fsync(file)
    finally:
        os.close(file)


def _note_attempt(what: str, **facts: Any) -> None:
    me = info()
    note(
        what=what,
        workflow=me.workflow_id,
        run=me.run_id,
        activity=me.activity_id,
        attempt=me.attempt,
        key=me.idempotency_key,
        pid=os.getpid(),
        at_ns=time.monotonic_ns(),
        **facts,
    )


# tidy: this file sleeps because its activities must be at work for a moment, to be killed in it

# ----------------------------------------------------------------------------------- activities


@activity(name="chaos_effect", retry=Retry(delay=0.01))
async def effect(value: int, pause_ms: int = 5) -> int:
    _note_attempt("begin")
    await asyncio.sleep(pause_ms / 1000)
    _note_attempt("end")
    return value


@activity(name="chaos_effect_in_thread", retry=Retry(delay=0.01))
def effect_in_thread(value: int) -> int:
    _note_attempt("begin")
    # Not time.sleep, which fails under libfaketime where only wall time is faked.
    select.select([], [], [], 0.005)
    _note_attempt("end")
    return value


@activity(name="chaos_effect_that_fails", retry=Retry(delay=0.02, backoff=1.0, jitter=0.0))
async def effect_that_fails(value: int, failures: int) -> int:
    _note_attempt("begin")
    if info().attempt <= failures:
        raise ConnectionError("not yet")
    _note_attempt("end")
    return value


@activity(name="chaos_effect_at_most_once", at_most_once=True)
async def effect_at_most_once(value: int) -> int:
    _note_attempt("begin")
    await asyncio.sleep(0.02)
    _note_attempt("end")
    return value


@activity(name="chaos_kill_my_worker")
async def kill_my_worker() -> None:
    _note_attempt("begin")
    os.kill(os.getpid(), signal.SIGKILL)


@activity(name="chaos_never_end")
async def never_end() -> None:
    _note_attempt("begin")
    await asyncio.Event().wait()


@activity(name="chaos_never_end_in_thread")
def never_end_in_thread() -> None:
    _note_attempt("begin")
    threading.Event().wait()


@activity(name="chaos_never_end_in_process", process=True)
def never_end_in_process() -> None:
    _note_attempt("begin")
    threading.Event().wait()


@activity(name="chaos_effect_in_process", process=True, retry=Retry(delay=0.01))
def effect_in_process(value: int) -> int:
    """Holds the interpreter for a moment, as such work does."""
    _note_attempt("begin")
    end = time.monotonic() + 0.03
    while time.monotonic() < end:
        pass
    _note_attempt("end")
    return value


# ------------------------------------------------------------------------------------ workflows


@workflow(name="chaos_chain")
async def chain(first: int) -> int:
    total = 0
    for step in range(5):
        total += await effect(first + step)
    return total


@workflow(name="chaos_fan")
async def fan(first: int) -> int:
    return sum(await asyncio.gather(*(effect(first + step, step) for step in range(8))))


@workflow(name="chaos_patient")
async def patient(first: int) -> int:
    total = 0
    for step in range(3):
        await asyncio.sleep(0.05)
        total += await effect_in_thread(first + step)
    return total


@workflow(name="chaos_stubborn")
async def stubborn(first: int) -> int:
    return await effect_that_fails(first, 2)


@workflow(name="chaos_careful")
async def careful(first: int) -> int:
    """0 where it is not known whether the effect took place."""
    try:
        return await effect_at_most_once(first)
    except ActivityLost:
        return 0


@workflow(name="chaos_listener")
async def listener(first: int) -> list[int]:
    return [await effect(await numbers.receive()) for _ in range(LISTENED)]


@workflow(name="chaos_roller")
async def roller(first: int, got: tuple[int, ...] = ()) -> list[int]:
    """One signal in each run: they must find their way into the next one."""
    got = (*got, await effect(await numbers.receive()))
    if len(got) < LISTENED:
        continue_as_new(got=got)
    return list(got)


@workflow(name="chaos_hearer")
async def hearer(first: int) -> list[int]:
    """Takes what it is told until it is told that it is enough."""
    heard: list[int] = []
    while (number := await numbers.receive()) != LAST:
        heard.append(await effect(number))
    return heard


@workflow(name="chaos_tidy")
async def tidy(first: int) -> int:
    """Waits until it is cancelled, and tidies up."""
    try:
        await effect(first)
        await go_on.receive()
    finally:
        await effect(first + 1)
    return first


@workflow(name="chaos_endless")
async def endless(first: int) -> None:
    """Goes on until it is terminated."""
    while True:
        await effect(first, 20)


@workflow(name="chaos_replaced")
async def replaced(first: int) -> None:
    """Waits until another one is started in its place."""
    await effect(first)
    await go_on.receive()


MIX = (chain, fan, patient, stubborn, careful, listener, roller, hearer, tidy, endless, replaced)
MESSAGES = {
    "chaos_chain": ("use",),
    "chaos_listener": ("signal",) * LISTENED,
    "chaos_roller": ("signal",) * LISTENED,
    "chaos_hearer": ("shout", "shout", "shout", "enough"),
    "chaos_tidy": ("cancel",),
    "chaos_endless": ("terminate",),
    "chaos_replaced": ("replace",),
}
"""What clients send to a flow behind its start, in this order."""


@workflow(name="chaos_bomb")
async def bomb() -> None:
    await kill_my_worker()


@workflow(name="chaos_bomb_in_code")
async def bomb_in_code() -> None:
    """No activity to suspect: the worker dies while it drives the flow itself."""
    os._exit(9)


@workflow(name="chaos_stuck")
async def stuck() -> None:
    await never_end()


@workflow(name="chaos_stuck_in_thread")
async def stuck_in_thread() -> None:
    await never_end_in_thread()


@workflow(name="chaos_stuck_in_process")
async def stuck_in_process() -> None:
    await never_end_in_process()


@workflow(name="chaos_busy")
async def busy() -> None:
    """Never gives its worker's loop back."""
    await effect(1)
    while True:
        pass


@workflow(name="chaos_in_processes")
async def in_processes(first: int) -> int:
    return sum(await asyncio.gather(*(effect_in_process(first + step) for step in range(4))))


@workflow(name="chaos_slow")
async def slow() -> int:
    """Longer at work than any worker lives while there are bombs."""
    return await effect(1, 1_500)


@workflow(name="chaos_steady")
async def steady(pause_ms: int = 3) -> int:
    """Goes on until it is told that it is enough."""
    steps = 0
    told = asyncio.ensure_future(enough.receive())
    while not told.done():
        steps += await effect(1, pause_ms)
    return steps


@workflow(name="chaos_changing")
async def changing() -> str:
    """Its first step differs from one version to the other."""
    if variant == "first":
        await effect(1)
    else:
        await effect_in_thread(1)
    await go_on.receive()
    await effect(2)
    return "done"


def expected(kind: str, first: int) -> Any:
    """What a flow of the mix returns, whatever happened on the way."""
    match kind.removeprefix("chaos_"):
        case "chain":
            return 5 * first + 10
        case "fan":
            return 8 * first + 28
        case "patient":
            return 3 * first + 3
        case "stubborn" | "careful":
            return first
        case "tidy" | "endless":
            verb, ending = _ENDINGS[kind]
            return f"{ending}: {verb}-{first // 100}-0"
        case "replaced":
            return expected("chaos_chain", first)
        case _:
            return [first + number for number in range(LISTENED)]


_ENDINGS = {
    "chaos_tidy": ("cancel", "WorkflowCancelled"),
    "chaos_endless": ("terminate", "WorkflowTerminated"),
}
