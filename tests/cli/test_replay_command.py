"""`everlong replay`: would the runs of a store go on with this code?"""

import hashlib
import importlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from everlong import registry
from tests.cli.conftest import Here
from tests.support.command_line import Done, everlong, worker

FLOW = """
from everlong import Signal, activity, patched, workflow

go = Signal("go_replayed", str)

@activity
async def charge(number: int) -> int:
    return number

@activity
async def check(number: int) -> int:
    return number

@workflow
async def replayed(number: int) -> str:
{steps}
    print("it waits")
    await go.receive()
    return "done"
"""
NAMES = ("charge", "check", "replayed", "go_replayed")
OLD = "    await charge(number)"
NEW = "    await check(number)\n    await charge(number)"
PATCHED = '    if patched("check-first"):\n        await check(number)\n    await charge(number)'


def deploy(folder: Path, steps: str) -> None:
    (folder / "flow.py").write_text(FLOW.format(steps=steps))


MAKE = """
import asyncio
from everlong import Client, Worker
from flow import go, replayed

async def main():
    async with Client.connect("everlong.db") as client:
        handles = [await client.start(replayed, n, id=f"r-{n}") for n in range(4)]
        await handles[0].signal(go, "on")
        async with Worker(client):
            await handles[0].result()
            while any(one.history_events < 3 for one in (await client.list()).items):
                await asyncio.sleep(0.01)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs that stand in their middle, and one that has ended."""
    folder = tmp_path_factory.mktemp("replay")
    deploy(folder, OLD)
    (folder / "make.py").write_text(MAKE)
    subprocess.run([sys.executable, "make.py"], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def three(made: Path, tmp_path: Path, here: Here) -> Iterator["Shop"]:
    shutil.copytree(made, tmp_path, ignore=shutil.ignore_patterns("*.pyc"), dirs_exist_ok=True)
    tables: tuple[dict[str, Any], ...] = (
        registry.workflows,
        registry.activities,
        registry.signals,
    )
    kept = [dict(table) for table in tables]
    yield Shop(tmp_path, here)
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


@dataclass
class Shop:
    """A folder with a store and the code, which each command imports anew."""

    folder: Path
    here: Here

    def run(self, *arguments: str) -> Done:
        for table in (registry.workflows, registry.activities, registry.signals):
            for name in [*table]:
                if getattr(table[name], "__module__", "") == "flow" or name in NAMES:
                    del table[name]
        sys.modules.pop("flow", None)
        importlib.invalidate_caches()
        return self.here(*arguments)

    def replay(self, *arguments: str) -> Done:
        return self.run("replay", "flow.py", *arguments)


def test_it_names_the_first_differing_step_and_what_to_do(three: Shop) -> None:
    fits = three.replay()
    assert (fits.code, fits.out.splitlines()[-1][:29]) == (0, "✓ 3 runs of 1 workflow fit th")
    assert "it waits" not in fits.out
    deploy(three.folder, NEW)
    done = three.replay()
    assert done.code == 1
    for part in (
        "r-3  replayed  event 2 of 3",
        "recorded  activity 'charge' (number 1) at flow.py:16",
        "made now  activity 'check' (number 1) at flow.py:16",
        'if patched("…"):',
        "✗ 3 of 3 runs of 1 workflow cannot go on",
    ):
        assert part in done.out
    facts = three.replay("--json").document
    assert (facts["ok"], facts["runs"], facts["events"]) == (False, 3, 9)
    (one, _, _) = facts["incompatible"]
    assert (one["event"], one["made_at"], one["type"]) == (2, "flow.py:16", "NondeterminismError")
    deploy(three.folder, PATCHED)
    assert three.replay().code == 0
    deploy(three.folder, OLD.replace("number)", "number + 1)"))
    assert "with {'number': 3}" in three.replay().out, "only the argument tells"


def test_it_takes_what_is_asked_for(three: Shop) -> None:
    deploy(three.folder, NEW)
    assert three.replay("--id", "r-2", "--json").document["runs"] == 1
    assert three.replay("--type", "other", "--json").document["runs"] == 0
    assert three.replay("--status", "completed", "--json").document["runs"] == 1
    assert three.replay("--closed", "5", "--json").document["runs"] == 4
    assert three.replay("--status", "ended").code == 2
    found = three.replay("-f", "id = 'r-1' or id = 'r-3'", "--json").document
    assert [one["workflow_id"] for one in found["incompatible"]] == ["r-3", "r-1"]
    assert three.replay("--filter", "id =").code == 2
    assert "no runs" in three.replay("--namespace", "other").out


def test_a_run_that_is_paused_is_replayed_too(three: Shop) -> None:
    assert three.run("pause", "r-2").code == 0
    deploy(three.folder, NEW)
    assert three.replay("--json").document["runs"] == 3
    assert three.replay("--status", "paused", "--json").document["runs"] == 1


def test_a_run_whose_workflow_is_gone_does_not_pass(three: Shop) -> None:
    (three.folder / "flow.py").write_text("from everlong import workflow\n")
    done = three.replay()
    assert done.code == 1
    assert "the code has no workflow 'replayed'" in done.out
    assert '@workflow(name="…")' in done.out


def test_exported_files_are_replayed_instead_of_the_store(three: Shop) -> None:
    (three.folder / "one.jsonl").write_text(three.run("export", "r-1").out)
    for path in three.folder.glob("everlong.db*"):
        path.unlink()
    assert three.replay("one.jsonl").code == 0
    deploy(three.folder, NEW)
    assert three.replay("one.jsonl").code == 1
    (three.folder / "half.jsonl").write_text(
        "\n".join((three.folder / "one.jsonl").read_text().split("\n")[:4])
    )
    done = three.replay("half.jsonl")
    assert done.code == 2
    assert "Line 5" in done.err
    assert three.replay("none.jsonl").code == 2
    assert three.replay("one.jsonl", "--filter", "id = 'r-1'").code == 2
    assert three.run("replay", "one.jsonl").code == 2, "no code"
    assert three.run("replay", "none.py").code == 2
    assert three.replay().code == 3, "no store"


def test_nothing_is_touched_not_even_under_a_worker(three: Shop) -> None:
    before = hashlib.sha256((three.folder / "everlong.db").read_bytes()).hexdigest()
    assert three.replay("--closed", "9").code == 0
    assert hashlib.sha256((three.folder / "everlong.db").read_bytes()).hexdigest() == before
    with worker("flow.py", folder=three.folder):
        assert three.replay().code == 0
        assert three.run("signal", "r-1", "go_replayed", "on").code == 0
    assert three.run("verify").code == 0


BACK_TO_SCHEMA_1 = """
DROP TABLE outgoing_boxes;
DROP TABLE outgoing_letters;
DROP TABLE start_keys;
DROP TABLE entity_states;
DROP TABLE turns;
DROP TABLE queue_starts;
DROP TABLE queue_limits;
DROP TABLE tasks;
DROP INDEX runs_of_status;
DROP INDEX runs_pinned_owned;
DROP INDEX runs_pinned;
DROP INDEX runs_to_wake;
ALTER TABLE runs DROP COLUMN version;
ALTER TABLE workers DROP COLUMN versions;
ALTER TABLE workers DROP COLUMN slots;
ALTER TABLE workers DROP COLUMN busy;
CREATE INDEX runs_to_wake ON runs (queue, type, wake_us) WHERE wake_us IS NOT NULL;
DROP TABLE requests_of_types;
DROP TABLE pauses_of_types;
DROP TABLE pauses;
DROP TABLE tags;
DROP TABLE approvals;
DROP TABLE links;
DROP TABLE published;
PRAGMA user_version = 1;
"""


def test_a_store_of_an_earlier_schema_stays_one(three: Shop) -> None:
    with sqlite3.connect(three.folder / "everlong.db") as connection:
        connection.executescript(BACK_TO_SCHEMA_1)
    connection.close()
    assert three.replay().code == 0
    with sqlite3.connect(three.folder / "everlong.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


def test_a_damaged_run_is_told_and_the_others_are_replayed(three: Shop) -> None:
    with sqlite3.connect(three.folder / "everlong.db") as connection:
        connection.execute("DROP TRIGGER history_never_changes")
        connection.execute(
            "UPDATE history SET body = x'00' WHERE seq = 2 AND run_id ="
            " (SELECT run_id FROM runs WHERE workflow_id = 'r-2')"
        )
    connection.close()
    facts = three.replay("--json").document
    assert facts["runs"] == 3
    (one,) = facts["incompatible"]
    assert (one["workflow_id"], one["type"]) == ("r-2", "UndecodablePayload")
    assert "wrong checksum" in one["message"]


def test_foreign_files_are_refused(three: Shop) -> None:
    (three.folder / "letter.db").write_text("Dear reader, " * 100)
    assert three.replay("--db", "letter.db").code == 3
    (three.folder / "empty.db").touch()
    assert "holds no store" in three.replay("--db", "empty.db").err
    assert (three.folder / "empty.db").stat().st_size == 0


STEPPING = """
import asyncio
from everlong import Client, Interceptor, Worker, activity, workflow

@activity
async def noted() -> None: ...

@workflow
async def plain() -> str:
    return "done"

class Notes(Interceptor):
    async def execute_workflow(self, call, next):
        await noted()
        return await next(call)

around = [Notes()]

async def main():
    async with Client.connect("everlong.db") as client, Worker(client, interceptors=around):
        await client.run(plain, id="p")

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_interceptors_that_run_steps_are_named(tmp_path: Path) -> None:
    (tmp_path / "stepping.py").write_text(STEPPING)
    subprocess.run([sys.executable, "stepping.py"], cwd=tmp_path, check=True)
    line = ("replay", "stepping.py", "--closed", "1")
    assert everlong(*line, folder=tmp_path).code == 1
    fits = everlong(*line, "--interceptors", "stepping.py:around", folder=tmp_path)
    assert fits.code == 0, fits.out
    wrong = everlong(*line, "--interceptors", "stepping.py:plain", folder=tmp_path)
    assert (wrong.code, "an Interceptor or a list" in wrong.err) == (2, True)


def test_a_run_has_the_interceptors_that_are_named(tmp_path: Path) -> None:
    (tmp_path / "stepping.py").write_text(STEPPING)
    line = ("run", "stepping.py:plain", "--interceptors", "stepping.py:around")
    done = everlong(*line, folder=tmp_path)
    assert (done.code, done.out) == (0, "done\n"), done.err
    assert ", 4 events" in everlong("show", "plain", folder=tmp_path).out  # With one activity.
