"""In which order files were found: a small file that only grows, one line for each.

Nothing about files in a folder is a position. Names come in any order, a file that is moved there
keeps the time at which it was written, inodes are given anew. So whoever finds a file enters it
here, under a lock, and nothing is handed out before its line is on disk. From then on a line's
place in this file is the position: it means the same for ever, for every flow.
"""

import fcntl
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final
from uuid import uuid4

from pydantic import StrictInt, StrictStr, TypeAdapter

from everlong.exceptions import InvalidArguments, StreamRewound

__all__ = ["Entry", "Found", "Ledger"]

ENTRIES_MAX: Final = 1_000_000
_FORM: Final = "everlong ledger 1"
_HEADER: Final = TypeAdapter(tuple[StrictStr, StrictStr, StrictStr])
_ENTRY: Final = TypeAdapter(tuple[StrictStr, StrictInt, StrictInt, StrictInt, StrictStr])
_HEADER_BYTES_MAX: Final = 200
_ENTERING: Final = Lock()
"""Beside the file's lock, which not every file system keeps apart within one process."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a file was when it was found, and which part of it is meant."""

    name: str
    size: int
    """Up to which byte."""
    mtime_ns: int
    start: int = 0
    """From which byte on."""
    digest: str = ""
    """Of the last bytes before `size`, where a file may go on growing."""


@dataclass(frozen=True, slots=True)
class Entry:
    at: int
    """Where its line begins."""
    behind: int
    """Where it ends."""
    found: Found


class Ledger:
    def __init__(self, path: Path, holds: str) -> None:
        self.path = path
        self._holds = holds

    def identity(self) -> str | None:
        """None: it is not there.

        Raises:
            InvalidArguments: it is something else.
        """
        try:
            with self.path.open("rb") as file:
                return self._identity_of(file)
        except FileNotFoundError:
            return None

    def _identity_of(self, file: BinaryIO) -> str | None:
        """Leaves the file behind its first line."""
        line = file.readline(_HEADER_BYTES_MAX)
        if not line.endswith(b"\n") and len(line) < _HEADER_BYTES_MAX:
            return None  # It is being made.
        try:
            form, holds, number = _HEADER.validate_json(line)
        except ValueError:
            form, holds, number = "", "", ""
        if form != _FORM or holds != self._holds:
            raise InvalidArguments(
                f"{self.path} is no ledger of {self._holds}, which is to be kept there: give "
                "another place with ledger=…"
            )
        return f"{holds} {number}"

    def create(self) -> str:
        """Its identity, made now unless it is there already."""
        with self._locked(os.O_CREAT) as file:
            identity = self._identity_of(file)
            if identity is None:
                file.seek(0)
                file.truncate()
                number = uuid4().hex[:16]
                file.write(json.dumps([_FORM, self._holds, number]).encode() + b"\n")
                _keep(file)
                folder = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
                identity = f"{self._holds} {number}"
        return identity

    def read(self, at: int, identity: str) -> Iterator[Entry]:
        """What was entered, from a place on; from the beginning with 0. It is on disk by now.

        Raises:
            StreamRewound: it is another ledger, or has lost its end.
            InvalidArguments: no line begins there.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            raise self._gone(identity, None) from None
        with file:
            _, end = self._from(file, at, identity)
            os.fsync(file.fileno())  # Whoever wrote it may have died before that.
            yield from self._entries(file, end)

    def _from(self, file: BinaryIO, at: int, identity: str) -> tuple[int, int]:
        """Where to read, and the end."""
        now = self._identity_of(file)
        if now != identity:
            raise self._gone(identity, now)
        first, end = file.tell(), file.seek(0, 2)
        if at > end:
            raise StreamRewound(
                f"{self.path} ends at {end}, and it was read up to {at}: it was cut, or comes from "
                "a backup. Rewind the flow to where it is to go on"
            )
        if at:
            file.seek(max(0, at - 1))
            if at < first or file.read(1) != b"\n":
                raise InvalidArguments(f"{at} is no position of {self.path}: no line begins there")
        return file.seek(max(at, first)), end

    def _entries(self, file: BinaryIO, end: int) -> Iterator[Entry]:
        """From where the file stands up to its last whole line."""
        at = file.tell()
        while at < end:
            line = file.readline()
            if not line.endswith(b"\n"):
                return  # It is being written.
            try:
                name, size, mtime_ns, start, digest = _ENTRY.validate_json(line)
            except ValueError as error:
                raise InvalidArguments(
                    f"{self.path} is damaged at byte {at}, so nobody knows which file was meant: "
                    "bring it back from a backup, or begin a flow with another ledger=…"
                ) from error
            name = os.fsdecode(name.encode("latin-1"))
            found = Found(name, size, mtime_ns, start, digest)
            yield Entry(at, at := at + len(line), found)

    def _gone(self, identity: str, now: str | None) -> StreamRewound:
        return StreamRewound(
            f"{self.path} is not what positions were counted in ({identity} then, {now or 'none'} "
            "now): it was removed or made anew. Rewind the flow to where it is to go on"
        )

    def enter(
        self,
        at: int,
        identity: str,
        still_new: Callable[[Sequence[Entry]], Sequence[Found]],
    ) -> None:
        """Add what was found.

        Args:
            at: up to where the caller knows it.
            identity: what the caller knows it by.
            still_new: what to add, given what others have entered meanwhile.

        Raises:
            StreamRewound: it is another ledger, or has lost its end.
        """
        with self._locked() as file:
            at, end = self._from(file, at, identity)
            others = list(self._entries(file, end))
            if adds := still_new(others):
                text = "".join(map(_line, adds))
                file.seek(others[-1].behind if others else at)
                file.truncate()  # Half a line, of somebody who died.
                file.write(text.encode())
                _keep(file)

    @contextmanager
    def _locked(self, create: int = 0) -> Generator[BinaryIO]:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | create, 0o666)
        except PermissionError as error:
            raise InvalidArguments(
                f"the order in which files were found is kept in {self.path}, which cannot be "
                f"written ({error.strerror}): give another place with ledger=…"
            ) from error
        with os.fdopen(descriptor, "r+b") as file, _ENTERING:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                yield file
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)


def _line(found: Found) -> str:
    """A name is bytes, which need not be UTF-8."""
    name = os.fsencode(found.name).decode("latin-1")
    return json.dumps([name, found.size, found.mtime_ns, found.start, found.digest]) + "\n"


def _keep(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
