"""Where databases are written while they are measured.

A folder `.bench` in the checkout, because a temporary folder of the system is often in memory,
where a commit costs nothing. It holds the peers' virtual environments too, and keeps itself out of
git.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

CACHE = Path(__file__).resolve().parent.parent / ".bench"

IN_MEMORY = ("tmpfs", "ramfs")

_MOUNTS = Path("/proc/self/mounts")


def cache() -> Path:
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", encoding="utf-8")
    return CACHE


@contextmanager
def scratch(parent: Path | None = None) -> Generator[Path]:
    """A folder for one invocation, removed at its end."""
    place = parent or cache()
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="scratch-", dir=place) as folder:
        yield Path(folder)


def file_system(folder: Path) -> str:
    """The kind of file system that holds `folder`, such as ext4."""
    if not _MOUNTS.exists():
        return "unknown file system"
    mounts = [line.split() for line in _MOUNTS.read_text(encoding="utf-8").splitlines()]
    holding = [
        (len(mount[1]), order, mount[2])
        for order, mount in enumerate(mounts)
        if folder.resolve().is_relative_to(mount[1])
    ]
    return max(holding)[2]  # the deepest mount point; of two on one point, the later covers
