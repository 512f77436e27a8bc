"""A crash at every single write, and at every sync: exhaustive, where test_kills.py is random.

strace stops the program at the N-th `pwrite64` (or `fdatasync`, `ftruncate`, `unlink`) of a thread
and kills it there, before the call has had an effect. It counts for each thread by itself. All of
SQLite's writes come from the one thread of the writer, and only from there; so N counts through
them all, and the sweep ends with the first N that the program does not reach. The two calls that
the main thread makes, on the owner's lock file, are aimed at by the path. The ledger uses neither
of these calls.

After each crash the store is looked at as it lies there; then the same program runs once more, as
a client and a worker would after a crash, and everything must have happened once.
"""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from everlong import Client
from everlong_engine.model.events import CancelRequested, SignalReceived, TimerFired
from everlong_engine.model.ids import id_text
from everlong_engine.model.runs import LoadedRun, RunStatus
from tests.chaos import crash_program, evidence
from tests.chaos.arena import FULL, ROOT
from tests.proof.record import record
from tests.support.tools import need

EVERY: Final = {"pwrite64": 32, "fdatasync": 8, "ftruncate": 2, "unlink": 2}
"""In a normal test run every so many-th point of each kind, from a random one on; in full, all."""

POINTS_MAX: Final = 2_000
PATIENCE_S: Final = 60

RAN_TO_ITS_END, CRASHED = 0, -signal.SIGKILL


def run_until(call: str, number: int, store: Path, ledger: Path, only: Path | None = None) -> int:
    """The program, killed at that call; its exit code."""
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    if only is not None:
        strace += ["-P", str(only)]
    inject = ["-e", f"inject={call}:signal=KILL:when={number}"]
    program = [sys.executable, "-m", "tests.chaos.crash_program", str(store), str(ledger)]
    done = subprocess.run(
        [*strace, *inject, *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode in (RAN_TO_ITS_END, CRASHED), done.stderr
    return done.returncode


async def recovers(store: Path, ledger: Path) -> int:
    """Everything that must hold after a crash; how many answers had been given before it."""
    answers = crash_program.noted(ledger, "answer")
    if store.exists():
        _is_sound(store)
    async with Client.connect(store) as client:
        assert [problem.text for problem in await client.verify()] == []
        runs = await evidence.all_runs(client)
        for line in answers:
            _is_there(line["key"], line["answer"], runs, _requests(store))
    await crash_program.play(store, ledger)
    async with Client.connect(store) as client:
        await _happened_once(client, ledger)
    await evidence.nothing_is_damaged(store)
    return len(answers)


def _is_sound(store: Path) -> None:
    """Opened for writing: what a journal holds is rolled back first, as any user's would be."""
    with closing(sqlite3.connect(store)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _requests(store: Path) -> set[str]:
    with closing(sqlite3.connect(store)) as file:
        return {row[0] for row in file.execute("SELECT request_id FROM requests")}


def _is_there(key: str, answer: object, runs: list[LoadedRun], requests: set[str]) -> None:
    """What was acknowledged, in the store as the crash left it."""
    what, _, name = key.partition("-")
    by_name = {one.row.workflow_id: one.row for one in runs}
    match what:
        case "start":
            assert answer in [id_text(one.row.run_id) for one in runs], f"{key} is lost"
        case "signal" | "cancel":
            assert key in requests, f"{key} is lost"
        case "terminate":
            assert by_name["terminated"].status is RunStatus.TERMINATED
        case _:
            assert answer == crash_program.EXPECTED[name]
            assert not any(one.row.status.is_open for one in runs if one.row.workflow_id == name), (
                f"the result of {name} was seen, and it is open"
            )


async def _happened_once(client: Client, ledger: Path) -> None:
    for name, expected in crash_program.EXPECTED.items():
        assert await crash_program.outcome(client, name) == expected
    runs = await evidence.all_runs(client)
    executions = {(one.row.workflow_id, one.row.execution_id) for one in runs}
    assert sorted(name for name, _ in executions) == sorted(crash_program.EXPECTED)
    begun = {(one.row.workflow_id, id_text(one.row.run_id)) for one in runs}
    assert len(begun) == len(runs) == 4  # One of them was begun anew, once.
    events = Counter(type(one.event) for run in runs for one in run.history)
    assert events[SignalReceived] == 2
    assert events[CancelRequested] == 1
    assert events[TimerFired] == 2
    await evidence.outcomes_are_recorded_once(client)
    attempts = Counter(
        (one["run"], one["activity"], one["attempt"])
        for one in crash_program.noted(ledger, "begin")
    )
    assert max(attempts.values()) == 1, "an attempt was begun twice under one number"
    answers = Counter(line["key"] for line in crash_program.noted(ledger, "answer"))
    assert set(answers.values()) == {1}


async def _sweep(call: str, folder: Path) -> tuple[int, int]:
    """(Points that were hit, answers that had been given before those crashes)."""
    step = 1 if FULL else EVERY[call]
    first = random.randint(1, step)
    points, answered = 0, 0
    for number in range(first, POINTS_MAX, step):
        store, ledger = folder / f"{call}-{number}.db", folder / f"{call}-{number}.ledger"
        if run_until(call, number, store, ledger) == RAN_TO_ITS_END:
            break
        try:
            answered += await recovers(store, ledger)
        except BaseException as error:
            error.add_note(f"crashed at {call} number {number}; the store is {store}")
            raise
        points += 1
        for file in folder.glob(f"{call}-{number}.*"):
            file.unlink()
    else:
        pytest.fail(f"more than {POINTS_MAX} calls of {call}")
    return points, answered


@pytest.mark.timeout(1800 if FULL else 120)
async def test_a_crash_at_any_write_or_sync_loses_nothing_acknowledged(tmp_path: Path) -> None:
    need("strace")
    begun = time.monotonic()
    found = {call: await _sweep(call, tmp_path) for call in EVERY}
    points = {call: points for call, (points, _) in found.items()}
    answered = sum(answered for _, answered in found.values())
    print(f"crash points: {points}; {answered} answers had been given before them")
    least = {"pwrite64": 150, "fdatasync": 20, "ftruncate": 2, "unlink": 3} if FULL else EVERY
    for call in EVERY:
        assert points[call] >= (least[call] if FULL else 1)
    assert answered > 0
    record(
        "a crash at each write and sync",
        invariants=[1, 2, 3, 4, 6, 8, 9, 14],
        tried="a program with one of everything, killed by strace at its N-th write or sync, for "
        "each N; then checked and run on",
        times=sum(points.values()),
        broken=0,
        seconds=time.monotonic() - begun,
        figures={**points, "answers given before": answered},
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_crash_points.py -s",
    )


@pytest.mark.parametrize("call", ["ftruncate", "pwrite64"])
async def test_a_crash_while_taking_the_owners_lock_leaves_the_file_free(
    tmp_path: Path, call: str
) -> None:
    need("strace")
    store, ledger = tmp_path / "everlong.db", tmp_path / "ledger"
    lock = tmp_path / "everlong.db.owner"
    assert run_until(call, 1, store, ledger, only=lock) == CRASHED
    assert lock.read_text() == ""
    assert await recovers(store, ledger) == 0


async def test_the_sweep_sees_an_answer_that_is_given_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own proof: a ledger that claims more than the store holds is found."""
    need("strace")
    store, ledger = tmp_path / "everlong.db", tmp_path / "ledger"
    assert run_until("fdatasync", 6, store, ledger) == CRASHED
    monkeypatch.setenv("CRASH_LEDGER", str(ledger))
    crash_program.note(what="answer", key="signal-2", answer=None)
    with pytest.raises(AssertionError, match="signal-2 is lost"):
        await recovers(store, ledger)
