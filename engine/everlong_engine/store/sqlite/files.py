"""The file beneath a store: where it may lie, whose it is, and which schema it has.

One engine process owns a file. The sign of life is a lock on `<db>.owner`, not a time: a stopped
owner keeps the file, a dead one frees it at once. It is an `fcntl.lockf` lock, since `flock` is
inherited by forked children; such a lock goes when *any* descriptor of the file is closed in the
process, so nobody opens it while this process has the lock.
"""

import fcntl
import os
import sqlite3
import struct
import sys
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Final

from everlong_engine.model.errors import (
    ForeignFile,
    NetworkFileSystem,
    NewerSchema,
    StoreError,
    StoreFailed,
    StoreOwned,
)

__all__ = [
    "APPLICATION_ID",
    "SCHEMA_VERSION",
    "OwnerLock",
    "Place",
    "check_place",
    "prepare_schema",
    "refuse_foreign",
]

APPLICATION_ID: Final = 0x45564C47  # "EVLG"
SCHEMA_VERSION: Final = 13

_held: Final[set[tuple[int, Path]]] = set()
"""Locks of this process: the system grants a process its own lock again."""

_opening: Final = Lock()
"""No thread takes a lock while another looks at its file: to close it would free the lock."""

_FLOCK: Final = struct.Struct("qqihh" if sys.platform == "darwin" else "hhqqi4x")
"""The system's `struct flock`: of the whole file, an exclusive lock."""

_NETWORK: Final = ("nfs", "cifs", "smb", "9p", "virtiofs", "ceph", "afs", "lustre", "glusterfs")
_NETWORK_FUSE: Final = ("fuse.sshfs", "fuse.gluster", "fuse.ceph", "fuse.s3fs", "fuse.rclone")


def check_place(path: Path) -> None:
    """Refuse a place that cannot hold a store.

    Raises:
        StoreError: the folder is missing, or the path is one.
        NetworkFileSystem: SQLite's locks and its log do not work there.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise StoreError(
            f"{folder} is not a folder: create it, or name another file", path=str(path)
        )
    if path.is_dir():
        raise StoreError(f"{path} is a folder: name a file in it", path=str(path))
    kind = _file_system(folder)
    if kind.startswith(_NETWORK + _NETWORK_FUSE):
        raise NetworkFileSystem(path=str(path), kind=kind)


def _file_system(folder: Path) -> str:
    """The type of the file system that holds a folder, as Linux names it; "" elsewhere."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""  # Not Linux: SQLite's own locking test is all there is.
    best, kind = "", ""
    where = str(folder.resolve())
    for line in mounts:
        before, _, after = line.partition(" - ")
        mount = before.split(" ")[4].encode().decode("unicode_escape")
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, after.split(" ", 1)[0]
    return kind


class Place:
    """Whether the paths still name the files that were opened.

    A file that is deleted, renamed or replaced goes on working for whoever has it open, and what is
    written to it then nobody will find again. Two looks at the folder, a few microseconds.

    On Linux the system tells under which name a handle's file is known. `stat` would do, and does
    elsewhere, but whoever looks at a file's times makes the next write set them anew: tried, 0.1 ms
    a commit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # The log of a file that nobody has read yet is made later.
        names = [one for one in (path, Path(f"{path}-wal")) if one.exists()]
        self._files = [_NameOfHandle(one) if _TELLS_NAMES else _Identity(one) for one in names]

    def check(self) -> None:
        """Raises StoreFailed."""
        for file in self._files:
            if not file.is_there():
                raise StoreFailed(
                    f"{file.path} was deleted, renamed or replaced while it was in use. Nothing "
                    "was acknowledged since; put it back if it still exists, and start again",
                    path=str(self._path),
                    reason="the file was deleted, renamed or replaced",
                )

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []


_TELLS_NAMES: Final = hasattr(os, "O_PATH") and Path("/proc/self/fd").is_dir()


class _NameOfHandle:
    """A handle that opens nothing: closing it frees no lock of this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        # Asked within the folder: a third less than by its path.
        self._folder = os.open("/proc/self/fd", os.O_PATH | os.O_CLOEXEC)
        self._link = str(self._descriptor)
        self._name = self._look()

    def is_there(self) -> bool:
        return self._look() == self._name

    def _look(self) -> str:
        return os.readlink(self._link, dir_fd=self._folder)

    def close(self) -> None:
        os.close(self._folder)
        os.close(self._descriptor)


class _Identity:
    """Device and number of the file that a path names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened = self._look()

    def is_there(self) -> bool:
        return self._look() == self._opened

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def close(self) -> None:
        """Holds nothing."""


class OwnerLock:
    """Holds `<db>.owner` while this process runs workers on the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        resolved = path.resolve()
        self._lock_path = resolved.with_name(resolved.name + ".owner")
        self._descriptor: int | None = None
        self._pid = 0

    @property
    def held(self) -> bool:
        """False in a forked child too: a lock does not cross a fork."""
        return self._descriptor is not None and self._pid == os.getpid()

    def acquire(self) -> None:
        """Take the file. Raises StoreOwned, naming the owner, when another process has it."""
        with _opening:
            self._acquire()

    def _acquire(self) -> None:
        key = (os.getpid(), self._lock_path)
        if key in _held:  # The lock would be granted again, and lost with the first descriptor.
            raise StoreOwned(path=str(self._path), pid=os.getpid())
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = _written_in(descriptor)
            os.close(descriptor)
            raise StoreOwned(path=str(self._path), pid=pid) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor, self._pid = descriptor, os.getpid()
        _held.add(key)

    def holder(self) -> int | None:
        """The process that has the file: its id, 0 if that is not known, None if nobody has it.

        Asks without taking: a worker that starts in this moment is not refused.
        """
        with _opening:
            if (os.getpid(), self._lock_path) in _held:
                return os.getpid()
            try:
                descriptor = os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            except OSError:
                return 0
            try:
                return (_written_in(descriptor) or 0) if _is_locked(descriptor) else None
            finally:
                os.close(descriptor)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard((self._pid, self._lock_path))


def _written_in(descriptor: int) -> int | None:
    """The process id that the owner has left in its lock file."""
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else None


def _is_locked(descriptor: int) -> bool:
    """Whether another process has locked the file; said to be so where the system cannot tell."""
    wish = (fcntl.F_WRLCK, os.SEEK_SET)
    darwin = sys.platform == "darwin"
    asked = _FLOCK.pack(0, 0, 0, *wish) if darwin else _FLOCK.pack(*wish, 0, 0, 0)
    with suppress(OSError):
        found = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        return bool(found[3 if darwin else 0] != fcntl.F_UNLCK)
    return True


def prepare_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Create the schema in a new file, bring an older one forward, refuse the rest.

    Raises what `refuse_foreign` raises.
    """
    if refuse_foreign(connection, path) == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        for step in range(version + 1, SCHEMA_VERSION + 1):
            for statement in _statements(f"schema_{step:04}.sql"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def refuse_foreign(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's version, 0 in a new file. Writes nothing.

    Raises:
        ForeignFile: a SQLite database of something else.
        NewerSchema: written by a later version of Everlong.
    """
    application_id, version, tables = _identity(connection)
    if (application_id, version, tables) != (0, 0, 0) and application_id != APPLICATION_ID:
        raise ForeignFile(path=str(path))
    if version > SCHEMA_VERSION:
        raise NewerSchema(path=str(path), found=version, known=SCHEMA_VERSION)
    return version


def _identity(connection: sqlite3.Connection) -> tuple[int, int, int]:
    # One statement: somebody may be making the tables in this moment.
    found = connection.execute(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) "
        "FROM pragma_application_id, pragma_user_version"
    ).fetchone()
    application_id, version, tables = map(int, found)
    return application_id, version, tables


def _statements(name: str) -> list[str]:
    """The statements of a script; one at a time, since a script of many would commit first."""
    text = files("everlong_engine.store.sqlite").joinpath(name).read_text("utf-8")
    found: list[str] = []
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    return found
