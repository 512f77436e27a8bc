"""What hostile rows may cost: some memory, and never an import, a process or a call."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from everlong_engine.model.codec import checksum
from everlong_engine.model.payload import pack
from tests.hostile import specimen
from tests.hostile.test_bodies import DEEP, MAPS
from tests.proof.record import record

ROOT = Path(__file__).resolve().parent.parent.parent
MORE_MIB_MAX = 250
"""Beyond what the same takes on a healthy store. The bombs would take gigabytes."""
BEYOND = 70_000_000


def in_a_child(path: Path, warm: Path, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.child", str(path), str(warm)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _copy(folder: Path, name: str) -> Path:
    made = specimen.copy(folder)
    return Path(shutil.move(made, folder / name))


def bombed(path: Path) -> None:
    """A bomb in every table that holds bytes, and rows that are larger than any."""
    with specimen.tampered(path) as db:
        run = "(SELECT run_id FROM runs WHERE workflow_id = 'victim')"
        db.execute(
            f"UPDATE history SET body = ?, checksum = ? WHERE seq = 3 AND run_id = {run}",
            (MAPS, checksum(3, 2, MAPS)),
        )
        db.execute("UPDATE inbox SET body = ?, checksum = ?", (DEEP, checksum(0, 7, DEEP)))
        db.execute("UPDATE attempts SET details = ?, error = ?", (MAPS, "e" * 5_000_000))
        digest = hashlib.sha256(MAPS).digest()
        db.execute("UPDATE blobs SET data = ?, digest = ?", (MAPS, digest))
        db.execute("UPDATE blob_uses SET digest = ?", (digest,))
        db.execute("UPDATE questions SET arguments = ?", (MAPS,))
        db.execute("UPDATE requests SET result = ?", (MAPS,))
        db.execute("UPDATE workers SET types = ?, dead = 0", ("[" * 100_000,))


def oversized(path: Path) -> None:
    """More in one row than is ever written, in tables that every look reads."""
    with specimen.tampered(path) as db:
        db.execute(f"UPDATE inbox SET body = zeroblob({BEYOND})")
        db.execute(f"UPDATE attempts SET details = zeroblob({BEYOND})")
        db.execute(f"UPDATE questions SET arguments = zeroblob({BEYOND})")


def test_memory_stays_flat(tmp_path: Path) -> None:
    began = time.monotonic()
    healthy, warm = _copy(tmp_path, "healthy.db"), _copy(tmp_path, "warm.db")
    usual = in_a_child(healthy, warm)["mib"]
    most, problems = 0, 0
    for number, hurt in enumerate((bombed, oversized)):
        path = _copy(tmp_path, f"{number}.db")
        hurt(path)
        told = in_a_child(path, _copy(tmp_path, f"warm-{number}.db"))
        most, problems = max(most, told["mib"]), problems + told["problems"]
        assert told["problems"] >= 2, hurt
    record(
        "memory under hostile rows",
        invariants=[13],
        tried="a bomb in every table that holds bytes, and rows of 70 MB, hosted, asked and "
        "verified in a process of their own",
        times=2,
        broken=int(most > usual + MORE_MIB_MAX),
        seconds=time.monotonic() - began,
        figures={"MiB on a healthy store": usual, "MiB at most": most, "problems named": problems},
        reproduce="pytest tests/hostile -k memory",
    )
    assert most <= usual + MORE_MIB_MAX


NOTHING: dict[str, Any] = {}
MARKER = """
from pathlib import Path
Path({path!r}).write_text("imported")
class Boom(Exception):
    def __new__(cls, *args):
        Path({path!r}).write_text("made")
        return super().__new__(cls, *args)
    def __reduce__(self):
        return (Boom, ())
def workflow(*args): Path({path!r}).write_text("called")
"""


@pytest.mark.parametrize("name", ["hostile_marker.Boom", "os.system", "hostile_marker:workflow"])
def test_nothing_is_imported_or_called_because_of_data(name: str, tmp_path: Path) -> None:
    """Names of modules, classes and functions wherever a row may hold a name."""
    written = tmp_path / "written"
    (tmp_path / "hostile_marker.py").write_text(MARKER.format(path=str(written)))
    path = _copy(tmp_path, "hostile.db")
    evil = pack(["echo owned", {"__class__": name, "py/object": name}])
    failure: list[Any] = [
        name,
        "echo owned",
        "",
        pack([name, [["echo owned"], NOTHING], None]),
        True,
        None,
    ]
    with specimen.tampered(path) as db:
        db.execute("UPDATE workers SET types = ?, name = ?", (json.dumps([name]), name))
        db.execute("UPDATE questions SET query = ?, arguments = ?", (name, evil))
        db.execute("UPDATE attempts SET error_type = ?, details = ?", (name, evil))
        db.execute("UPDATE runs SET type = ?, wake_us = 1 WHERE workflow_id = 'retrying'", (name,))
    specimen.put_event(path, 3, 3, [1, 1, failure, 1])
    told = in_a_child(path, _copy(tmp_path, "warm.db"), PYTHONPATH=str(tmp_path))
    assert not written.exists(), written.read_text()
    assert told["begun"] == []
    wire = specimen.event(path, 1)
    wire[1], wire[2] = name, msgpack.packb([[name], {}])
    specimen.put_event(path, 1, 1, wire)
    told = in_a_child(path, _copy(tmp_path, "warm2.db"), PYTHONPATH=str(tmp_path))
    assert not written.exists(), written.read_text()
    assert told["begun"] == []
