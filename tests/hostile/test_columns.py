"""Every column of every table holds what it must not: who is concerned is told, and nobody else.

The values are chosen by the declared type of each column, not by what the engine checks.
"""

import asyncio
import random
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from everlong import Client
from everlong.exceptions import EverlongError, StoreError
from tests.chaos.arena import FULL
from tests.hostile import specimen
from tests.hostile.conftest import Command
from tests.proof.record import record

SHORT = 20

MOST = "9223372036854775807"
INTEGERS = ("'abc'", "x'ff'", "1.5", MOST, "-9223372036854775808", "-1", "77")
BLOBS = ("'abc'", "7", "1.5", "x''", "x'ff'", "zeroblob(16)", "CAST(x'ff' AS TEXT)")
TEXTS = ("x'ff'", "CAST(x'ff' AS TEXT)", "''", "printf('%.*c', 1000000, 'x')", "char(27) || '[2J'")

UNTOLD: dict[str, tuple[str, ...]] = {
    # What fits: a file cannot know that it is not what was written.
    "history.append_id": (MOST, "-9223372036854775808", "-1", "77"),
    "inbox.position": ("77",),
    "runs.lease_token runs.wake_us runs.started_us runs.closed_us runs.losses runs.strikes": (
        "77",
    ),
    "history.at_us attempts.activity_id attempts.attempt attempts.started_us": ("77",),
    "published.at_us links.number": ("77",),
    "attempts.ended_us attempts.retry_us workers.pid workers.started_us": ("77",),
    "workers.beat_us questions.asked_us runs.strikes": ("77",),
    "requests.result attempts.details questions.arguments questions.answer": (
        "x''",
        "x'ff'",
        "zeroblob(16)",
    ),
    "runs.owner questions.question_id workers.worker_id": ("zeroblob(16)",),
}
ODD_TEXTS = TEXTS[:2]


@dataclass(frozen=True)
class Case:
    table: str
    column: str
    value: str
    is_named: bool
    """Whether `verify` must say so."""

    def __str__(self) -> str:
        return f"{self.table}.{self.column} = {self.value}"


def cases(folder: Path) -> list[Case]:
    """By what the schema declares."""
    found: list[Case] = []
    untold = {one: values for names, values in UNTOLD.items() for one in names.split()}
    with closing(sqlite3.connect(specimen.copy(folder))) as db:
        for table in specimen.WHERE:
            for _, column, kind, *_ in db.execute(f"PRAGMA table_info({table})"):
                values = {
                    "INTEGER": INTEGERS,
                    "BLOB": BLOBS,
                    "TEXT": TEXTS,
                    "": (*INTEGERS, *TEXTS),
                }[kind]
                for value in values:
                    is_odd = value in ODD_TEXTS if kind == "TEXT" else True
                    is_named = is_odd and value not in untold.get(f"{table}.{column}", ())
                    found.append(Case(table, column, value, is_named))
    return found


async def _approve_all(client: Client) -> None:
    for one in (await client.approvals()).items:
        if one.workflow_id == "victim":
            await client.approve(one.id, by="ann")


async def _look(client: Client) -> None:
    """Whatever is asked about a damaged run has an answer."""
    answers: list[str] = []
    for name in ("victim", "retrying"):
        handle = client.get_handle(name)
        for ask in (handle.describe, handle.history, handle.resume):
            try:
                await ask()
            except EverlongError as error:
                answers.append(str(error))
        for ask_or_tell in (client.approvals, partial(_approve_all, client)):
            try:
                await ask_or_tell()
            except EverlongError as error:
                answers.append(str(error))
        try:
            _ = [item async for item in handle.subscribe("told", live=False)]
        except EverlongError as error:
            answers.append(str(error))
    assert len((await client.list()).items) >= len(specimen.HEALTHY)
    assert all(len(one) > 20 for one in answers)


def _hurt(case: Case, folder: Path, command: Command) -> None:
    path = specimen.copy(folder)
    try:
        changed = specimen.change(path, case.table, case.column, case.value)
    except sqlite3.Error:
        return  # SQLite itself refuses it.
    assert changed >= 1, f"{case}: nothing was damaged"
    told = command("verify")
    if case.is_named:
        assert told.code == 1, f"{case}: verify says {told.out}"
        assert len(told.out.splitlines()) >= 2
    if (case.column, case.value) == ("position", MOST):
        with pytest.raises(StoreError, match="no places left"):
            asyncio.run(specimen.everything_goes_on(path))
        return
    asyncio.run(specimen.everything_goes_on(path, _look, workers=2))
    for name in ("victim", "retrying", "healthy-0"):
        for look in ("show", "history"):
            command(look, name)
    assert "healthy-1" in command("list").out
    command("list", "--json", "--status", "blocked")
    command("doctor")
    command("verify", "--json")


@pytest.mark.timeout(3600 if FULL else 120)
def test_any_column_may_hold_anything(tmp_path: Path, command: Command) -> None:
    began, seed = time.monotonic(), random.randrange(1 << 30)
    print(f"seed {seed}")
    every = cases(tmp_path)
    chosen = every if FULL else random.Random(seed).sample(every, SHORT)
    broken: list[str] = []
    for case in chosen:
        for leftover in tmp_path.iterdir():
            leftover.unlink()
        try:
            _hurt(case, tmp_path, command)
        except (Exception, ExceptionGroup) as error:
            broken.append(f"{case}: {type(error).__name__}: {error}"[:1500])
    record(
        "hostile columns",
        invariants=[13, 14],
        tried="columns of every table held what they must not, beside healthy runs",
        times=len(chosen),
        broken=len(broken),
        seconds=time.monotonic() - began,
        figures={"tables": len(specimen.WHERE), "columns and values": len(every)},
        reproduce="EVERLONG_CHAOS=full pytest tests/hostile -k columns",
    )
    assert not broken, "\n".join(broken)


def test_the_specimen_itself_is_whole(command: Command, tmp_path: Path) -> None:
    path = specimen.copy(tmp_path)
    assert command("verify").code == 0
    asyncio.run(specimen.everything_goes_on(path))
    assert command("verify").code == 0
    with TemporaryDirectory() as folder:
        assert len(cases(Path(folder))) > 300
