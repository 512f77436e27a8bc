"""Where processes are started and killed: a folder, a store, a ledger, and nobody else's business.

Every child is in a process group of its own and is watched through a pidfd, so that a signal can
never reach a process that only has the same number.
"""

# tidy: this file sleeps because it waits for other processes, which offer nothing but files
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.chaos.customer import lines, parsed

ROOT: Final = Path(__file__).resolve().parents[2]
FULL: Final = os.environ.get("EVERLONG_CHAOS") == "full"
PATIENCE_S: Final = 60.0


class Child:
    """A process that plays a role."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    @property
    def is_alive(self) -> bool:
        return not self.wait(0)

    def signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """With all that it started, and wait until it is gone."""
        if self.is_alive:
            with suppress(ProcessLookupError):  # It may be too young to have a group of its own.
                os.killpg(self.pid, signal.SIGKILL)
            with suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
        assert self.wait(PATIENCE_S)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        look = select.poll()  # Not `select`, which knows 1,024 descriptors: these stay open.
        look.register(self._descriptor, select.POLLIN)
        return bool(look.poll(seconds * 1_000))

    def close(self) -> None:
        os.close(self._descriptor)


class Arena:
    def __init__(self, folder: Path, through: Sequence[str] = (), **environment: str) -> None:
        """`through`: a program that starts the nursery in its own way, with its arguments."""
        self.db = folder / "everlong.db"
        self.ledger = folder / "ledger"
        self.log = folder / "acknowledged"
        self.output = folder / "output"
        self.kills = 0
        self._children: list[Child] = []
        self._read = 0
        self._entries: list[dict[str, Any]] = []
        self._nursery = subprocess.Popen(
            [*through, sys.executable, "-m", "tests.chaos.cast"],
            cwd=ROOT,
            env={**os.environ, "CHAOS_LEDGER": str(self.ledger), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, role: str, **options: Any) -> Child:
        """Begin a role; it is on its way when this returns."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        order = {"role": role, "output": str(self.output), "db": str(self.db), **options}
        self._nursery.stdin.write(json.dumps(order) + "\n")
        self._nursery.stdin.flush()
        child = Child(int(self._nursery.stdout.readline()))
        self._children.append(child)
        return child

    def worker(self, *, ready: bool = True, **options: Any) -> Child:
        """A worker; with `ready` it has begun to claim when this returns."""
        child = self.start("work", **options)
        if ready:
            self.until(
                lambda: self.noted(what="ready", pid=child.pid) or not child.is_alive,
                "a worker that is ready",
            )
            assert child.is_alive or self.noted(what="ready", pid=child.pid), self.told()
        return child

    def client(self, seed: int, count: int, pause_s: float, *, role: str = "send") -> Child:
        return self.start(role, log=str(self.log), seed=seed, count=count, pause_s=pause_s)

    def kill(self, child: Child) -> None:
        child.kill()
        self.kills += 1

    def told(self) -> str:
        """What the processes wrote to their terminals."""
        return self.output.read_text("utf-8") if self.output.exists() else ""

    # --------------------------------------------------------------------------------- the ledger

    def entries(self) -> list[dict[str, Any]]:
        """All that was noted so far; what is new is read, the rest remembered."""
        if self.ledger.exists():
            with self.ledger.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            self._entries += parsed(whole)
        return self._entries

    def forget_entries(self) -> None:
        """The ledger begins anew: what is tried from here on is another store."""
        self.ledger.unlink(missing_ok=True)
        self._read, self._entries = 0, []

    def noted(self, **facts: Any) -> list[dict[str, Any]]:
        return [one for one in self.entries() if facts.items() <= one.items()]

    def acknowledgements(self) -> list[dict[str, Any]]:
        """Every answer that a client saw, in order."""
        return [line for line in lines(self.log) if line["what"] == "acknowledged"]

    def has_finished(self) -> bool:
        """Whether a client has come to the end of its plan."""
        return any(line["what"] == "finished" for line in lines(self.log))

    def seen(self) -> list[dict[str, Any]]:
        """Every result that a client saw."""
        return [line for line in lines(self.log) if line["what"] == "seen"]

    def until(self, look: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
        """Wait for something to be so."""
        end = time.monotonic() + patience_s
        while not look():
            assert time.monotonic() < end, f"waited in vain for {what}\n{self.told()}"
            time.sleep(0.003)

    def close(self) -> None:
        for child in self._children:
            if child.is_alive:
                child.signal(signal.SIGCONT)
                child.kill()
            child.close()
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.close()
        self._nursery.stdout.close()
        self._nursery.wait(PATIENCE_S)


def arena(
    folder: Path, through: Sequence[str] = (), **environment: str
) -> Generator[Arena, None, None]:
    found = Arena(folder, through, **environment)
    try:
        yield found
    finally:
        found.close()


def left_of(child: Child) -> list[int]:
    """Who is still there of a process that has ended: its children are in its session."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = stat.read_text("utf-8").rpartition(")")[2].split()[:4]
            if int(session) == child.pid and state != "Z":
                found.append(int(stat.parent.name))
    return found


def assert_nobody_is_left(arena: Arena, child: Child, within_s: float = 5.0) -> None:
    arena.until(lambda: not left_of(child), f"the end of {left_of(child)}", within_s)
