"""A crash at every single write of a reset: it is done whole, or not at all.

strace kills `everlong reset` at its N-th `pwrite64`, as in test_crash_points.py. The store is then
checked as it lies there, the same command is given once more, and a worker goes on.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from everlong import Client, Signal, Worker, activity, workflow
from tests.chaos.arena import FULL, ROOT
from tests.proof.record import record
from tests.support.hosting import described
from tests.support.tools import need

STEP: Final = 1 if FULL else 12
POINTS_MAX: Final = 200
EVERLONG: Final = str(Path(sys.executable).with_name("everlong"))
PATIENCE_S: Final = 60
CRASHED: Final = -signal.SIGKILL

heard = Signal("reset_crash_heard", str)


@activity(name="reset_crash_step")
async def step(text: str) -> str:
    return text


@workflow(name="reset_crash_flow")
async def flow() -> list[str]:
    """Half done before the reset: a step, a signal, and a step that is done anew."""
    first = await step("first")
    word = await heard.receive()
    return [first, word, await step(word), await heard.receive()]


async def prepared(store: Path) -> int:
    """A run that waits in its middle, in nobody's hands; how many events it has."""
    async with Client.connect(store) as client, Worker(client):
        handle = await client.start(flow, id="half")
        await handle.signal(heard, "one")
        await described(handle, lambda found: found.history_events == 6)
    async with Client.connect(store) as client:
        await client.get_handle("half").signal(heard, "two")
        return len(await client.get_handle("half").history())


def reset_until(number: int, store: Path) -> int:
    """`everlong reset`, killed at its N-th write; its exit code."""
    inject = ["-e", "trace=pwrite64", "-e", f"inject=pwrite64:signal=KILL:when={number}"]
    command = [EVERLONG, "reset", "half", "--to", "4", "--db", str(store)]
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", *inject, *command, "--request-id", "once"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode in (0, CRASHED), done.stderr
    return done.returncode


async def recovers(store: Path, events: int) -> bool:
    """Everything that must hold after a crash; whether the reset was done before it."""
    async with Client.connect(store) as client:
        assert [problem.text for problem in await client.verify()] == []
        runs = (await client.list(workflow_id="half")).items
        handle = client.get_handle("half", flow)
        if len(runs) == 1:
            assert (runs[0].status, runs[0].history_events) == ("running", events)
        else:
            assert [one.status for one in runs] == ["running", "reset"]
            assert len(await handle.history()) == 3
        await handle.reset(4, request_id="once")
        again = (await client.list(workflow_id="half")).items
        assert [one.status for one in again] == ["running", "reset"], "and not a second time"
        async with Worker(client):
            assert await handle.result() == ["first", "one", "one", "two"]
        assert [problem.text for problem in await client.verify()] == []
    return len(runs) == 2


@pytest.mark.timeout(900 if FULL else 120)
async def test_a_crash_at_any_write_of_a_reset_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    need("strace")
    begun = time.monotonic()
    original = tmp_path / "original.db"
    events = await prepared(original)
    points = before = 0
    for number in range(random.randint(1, STEP), POINTS_MAX, STEP):
        store = tmp_path / f"at-{number}.db"
        shutil.copy(original, store)
        code = reset_until(number, store)
        done = await recovers(store, events)
        if code != CRASHED:
            assert done
            break
        points += 1
        before += not done
    else:
        pytest.fail(f"more than {POINTS_MAX} writes")
    print(f"{points} crash points, {before} of them before the reset was stored")
    assert points >= (8 if FULL else 1)
    record(
        "a crash at each write of a reset",
        invariants=[1, 2, 3, 5],
        tried="everlong reset, killed by strace at its N-th write, for each N; then checked, "
        "repeated and run on",
        times=points,
        broken=0,
        seconds=time.monotonic() - begun,
        figures={"before the reset was stored": before},
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_reset_crashes.py -s",
    )
