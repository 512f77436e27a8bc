"""Savepoints and rewinds from a shell, beside a worker that reads a file."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from tests.cli.conftest import Here
from tests.support.command_line import begin, everlong, worker_ready

FLOW: Final = """
from datetime import UTC, datetime

from everlong import checkpoint, workflow
from everlong.streams import Lines, Memory, Stream

readings = Stream("readings", Lines("readings.txt", int, poll=0.01))
moments = Stream("readings", source := Memory(identity="moments"))
source.put("old", at=datetime(2026, 1, 1, tzinfo=UTC))
source.put("new", at=datetime(2026, 7, 1, tzinfo=UTC))

@workflow
async def adds(total: int = 0) -> int:
    async for batch in readings.batches():
        total += sum(batch.values)
        await checkpoint(total=total)
    return total

@workflow
async def adds_more(total: int = 0, factor: int = 1) -> int:
    async for batch in readings.batches():
        total += factor * sum(batch.values)
        await checkpoint(total=total)
    return total
"""


def read_up_to(here: Here, position: int) -> None:
    while f"  {position}\n" not in here("stream", "position", "r", "readings").out:
        pass


def test_a_flow_is_replaced_by_another_at_a_savepoint(here: Here, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "readings.txt").write_text("1\n2\n")
    assert here("start", "adds", "--id", "r").code == 0
    assert here("stream", "savepoints", "r").out == "there are no savepoints\n"
    impatient = ("stream", "savepoint", "r", "readings", "s", "--wait", "0.05")
    assert "came to no checkpoint within 0.05 s" in here(*impatient).err  # Nobody is there.
    worker = begin("worker", "flow.py", "--json", folder=tmp_path)
    try:
        worker_ready(worker)
        read_up_to(here, 4)
        take = ("stream", "savepoint", "r", "readings")
        assert here(*take, "one").out == "✓ savepoint one of r taken\n"
        assert "has a savepoint 'one' already" in here(*take, "one").err
        told = here(*take, "two", "--stop", "--request-id", "once", "--json").document
        assert (told["savepoint"]["parameters"], told["stopped"]) == ({"total": 3}, True)
        assert told["savepoint"]["positions"] == {"readings": {"0": 4}}
        with (tmp_path / "readings.txt").open("a") as file:
            file.write("10\n")
        again = ("start", "adds_more", "--id", "r", "--from-savepoint", "two", "-a", "factor=2")
        assert everlong(*again, folder=tmp_path).err == ""
        read_up_to(here, 7)
        listed = here("stream", "savepoints", "r")
        assert "two  2026" in listed.out
        assert 'readings at {"0": 4}\n    total=3\n' in listed.out
        names = [
            one["name"] for one in here("stream", "savepoints", "r", "--json").document["items"]
        ]
        assert names == ["s", "one", "two"]
        (one,) = here("stream", "savepoints", "r", "one", "--json").document["items"]
        assert (one["workflow"], one["signals"]) == ("adds", [])
        typed = ("start", "flow.py:adds", "--id", "old", "--of", "r", "--from-savepoint", "one")
        assert everlong(*typed, "-a", "total=1000", folder=tmp_path).out == "old\n"
        assert here("stream", "drain", "old", "readings").code == 0
        assert here("stream", "drain", "r", "readings").code == 0
        while (shown := here("show", "r", "--json").document)["status"] == "running":
            pass
        while (before := here("show", "old", "--json").document)["status"] == "running":
            pass
    finally:
        worker.kill()
        worker.communicate()
    assert (shown["status"], shown["result"]) == ("completed", 23)
    assert before["result"] in (1000, 1010)


def test_a_flow_goes_back_to_a_savepoint_and_to_a_moment(here: Here, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "readings.txt").write_text("1\n2\n")
    assert here("start", "adds", "--id", "r").code == 0
    worker = begin("worker", "flow.py", "--json", folder=tmp_path)
    try:
        worker_ready(worker)
        read_up_to(here, 4)
        assert here("stream", "savepoint", "r", "readings", "s").code == 0
        with (tmp_path / "readings.txt").open("a") as file:
            file.write("10\n")
        read_up_to(here, 7)
        rewind = ("stream", "rewind", "r", "readings", "--to-savepoint", "s", "--keys", "fresh")
        assert here(*rewind).out == "✓ rewound r\n"
        delete = ("stream", "delete-savepoint", "r", "readings", "s", "--request-id", "once")
        assert here(*delete).out == "✓ savepoint s of r deleted\n"
        assert here(*delete, "--json").document["deleted"] == "s"
        assert here("stream", "savepoints", "r", "--json").document["items"] == []
        moment = ("stream", "rewind", "r", "flow.py:readings", "--to-time", "2026-03-01T00:00:00Z")
        refused = everlong(*moment, folder=tmp_path)
        assert "does not say when its messages were written" in refused.err
    finally:
        worker.kill()
        worker.communicate()
    moment = ("stream", "rewind", "r", "flow.py:moments", "--to-time", "2026-03-01T00:00:00Z")
    assert everlong(*moment, folder=tmp_path).out == "✓ rewound r\n"
    with closing(sqlite3.connect(tmp_path / "everlong.db")) as store:
        (body,) = store.execute("select body from inbox order by position desc limit 1").fetchone()
    assert b"moments" in body  # Where the moment lies is told, though this flow cannot go there.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("stream", "savepoints", "nobody"), "nobody"),
        (("stream", "savepoints", "r", "s"), "no savepoint 's'; there are: none"),
        (("stream", "savepoint", "nobody", "readings", "s"), "nobody"),
        (("stream", "savepoint", "r", "readings", ""), "a savepoint needs a name"),
        (("stream", "delete-savepoint", "r", "readings", "s"), "no savepoint 's'"),
        (("stream", "rewind", "r", "readings"), "give PARTITION=POSITION"),
        (("stream", "rewind", "r", "readings", "0=1", "--to-savepoint", "s"), "give PARTITION"),
        (("stream", "rewind", "r", "readings", "--to-savepoint", "s"), "no savepoint 's'"),
        (
            ("stream", "rewind", "r", "readings", "0=1", "--keys", "new"),
            "keys='new': give \"same\"",
        ),
        (
            ("stream", "rewind", "r", "f.py:s", "--to-time", "noon"),
            "write an instant with its zone",
        ),
        (("stream", "rewind", "r", "f.py:s", "--to-time", "2026-01-01T00:00:00Z"), "f.py"),
        (("start", "adds", "--from-savepoint", "s"), "say whose it is"),
        (("start", "adds", "--of", "r"), "name the savepoint"),
        (("start", "adds", "--of", "r", "--from-savepoint", "s"), "no savepoint 's'"),
    ],
)
def test_what_makes_no_sense_is_told(here: Here, arguments: tuple[str, ...], words: str) -> None:
    assert here("start", "adds", "--id", "r").code == 0
    done = here(*arguments)
    assert done.code in (2, 4)
    assert words in done.err
