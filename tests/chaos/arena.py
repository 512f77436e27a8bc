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
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.chaos.cast import lines

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
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        assert self.wait(PATIENCE_S)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        return bool(ready)

    def close(self) -> None:
        os.close(self._descriptor)


class Arena:
    def __init__(self, folder: Path) -> None:
        self.db = folder / "everlong.db"
        self.ledger = folder / "ledger"
        self.log = folder / "acknowledged"
        self.output = folder / "output"
        self.kills = 0
        self._children: list[Child] = []
        self._read = 0
        self._entries: list[dict[str, Any]] = []
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.cast"],
            cwd=ROOT,
            env={**os.environ, "CHAOS_LEDGER": str(self.ledger)},
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

    def client(self, seed: int, count: int, pause_s: float) -> Child:
        return self.start("send", log=str(self.log), seed=seed, count=count, pause_s=pause_s)

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
            self._entries += [json.loads(line) for line in whole.splitlines()]
        return self._entries

    def noted(self, **facts: Any) -> list[dict[str, Any]]:
        return [one for one in self.entries() if facts.items() <= one.items()]

    def acknowledged(self) -> set[str]:
        return {line["key"] for line in lines(self.log) if line["what"] == "acknowledged"}

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


def arena(folder: Path) -> Iterator[Arena]:
    found = Arena(folder)
    try:
        yield found
    finally:
        found.close()
