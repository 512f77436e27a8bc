"""A machine whose power can be cut: the tester's side of the forgetful disk.

The disk is served by a process of its own, and the tests never touch it themselves, so that a disk
that hangs cannot hang them: what survived a cut is written to a plain folder, and examined there.
"""

# tidy: this file sleeps because it waits for a mount, of which nothing tells
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from tests.chaos.arena import ROOT
from tests.chaos.forgetful_disk import Survivors
from tests.chaos.forgetful_mount import unmount
from tests.support.tools import need

__all__ = ["Machine", "machine"]

MOUNTED_WITHIN_S: Final = 10.0


class Machine:
    """Runs one forgetful disk; `db` is the store on it in the current life."""

    def __init__(self, point: Path) -> None:
        self._point = point
        self._life = 1
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.forgetful_mount", str(point)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        end = time.monotonic() + MOUNTED_WITHIN_S
        while not os.path.ismount(point):
            if self._server.poll() is not None or time.monotonic() > end:
                self.close()
                pytest.skip("needs leave to mount with FUSE (root, or a container that may)")
            time.sleep(0.01)

    @property
    def db(self) -> str:
        return str(self._point / str(self._life) / "everlong.db")

    def arm(self, *, cut_at: int | None = None, lose_sync_at: int | None = None) -> None:
        """The power goes with that change of the disk; that sync fails."""
        self._order(do="arm", cut_at=cut_at, lose_sync_at=lose_sync_at)

    @property
    def is_out(self) -> bool:
        return bool(self._order(do="state")["out"])

    @property
    def changes(self) -> int:
        """Writes, syncs and changes of names in this life."""
        return int(self._order(do="state")["changes"])

    @property
    def lost_syncs(self) -> int:
        """How many syncs have failed in this life."""
        return int(self._order(do="state")["lost_syncs"])

    def cut(self, survivors: Survivors, seed: int) -> int:
        """The power is off and on again; how many changes the disk has seen before."""
        facts = self._order(do="cut", survivors=survivors, seed=seed)
        self._life = facts["life"]
        return int(facts["changes"])

    def wipe(self) -> None:
        self._life = self._order(do="wipe")["life"]

    def save(self, folder: Path) -> Path:
        """What is on the disk, in a plain folder; the store in it, which may not be there."""
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        self._order(do="save", to=str(folder))
        return folder / "everlong.db"

    def _order(self, **order: Any) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait(5)
        self._server.stdout.close()
        if os.path.ismount(self._point):
            unmount(self._point)


@contextmanager
def machine(folder: Path) -> Generator[Machine]:
    need("fusermount3", path="/dev/fuse")
    if find_spec("mfusepy") is None:
        pytest.skip("needs mfusepy (pip install 'everlong[test]')")
    point = folder / "disk"
    point.mkdir()
    found = Machine(point)
    try:
        yield found
    finally:
        found.close()
