"""`Lines`: a file that grows, line after line."""

import asyncio
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final, Generic, TypeVar, overload

import anyio.to_thread

from everlong.exceptions import StreamRewound
from everlong.streams._polled import PARTITION, PolledFileReader, check_poll, position_in
from everlong.streams._source import Cursor, Reader, Record, Source, require_same

__all__ = ["Lines"]

T = TypeVar("T")

_FIRST_BYTES: Final = 4096


class Lines(Source[T], Generic[T]):
    """The lines of a file to which others append, such as a log or JSON lines.

        clicks = Stream("clicks", Lines("clicks.jsonl", value=Click))

    A line is a message once its newline is there. What people get wrong: a file that is rotated or
    cut is another file, whose positions mean other lines; the flow is paused with `StreamRewound`.
    Rotate by starting a flow for each file.

    Args:
        path: of the file, which may come into being later.
        value: the type of its messages' values, see `Source`.
        poll: seconds between two looks at a file that has not grown.
    """

    keyed = False

    @overload
    def __init__(self: "Lines[bytes]", path: str | Path, *, poll: float = 0.2) -> None: ...
    @overload
    def __init__(self, path: str | Path, value: type[T], *, poll: float = 0.2) -> None: ...
    @overload
    def __init__(
        self: "Lines[Any]", path: str | Path, value: Any, *, poll: float = 0.2
    ) -> None: ...
    def __init__(self, path: str | Path, value: Any = bytes, *, poll: float = 0.2) -> None:
        super().__init__(value)
        self.path = Path(path)
        self.poll = check_poll(poll)

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader behind the cursor; it waits for the file."""
        at = position_in(after, partitions, 0, self)
        identity = await anyio.to_thread.run_sync(self.identify)
        while identity is None:
            await asyncio.sleep(self.poll)
            identity = await anyio.to_thread.run_sync(self.identify)
        require_same(identity, after, f"{self.path}")
        return _LinesReader(self, identity, at)

    def identify(self) -> str | None:
        """Not for flows: what the file is by which it is known again: its inode, which a new file
        may get, and its first line. None as long as there is none."""
        try:
            with self.path.open("rb") as file:
                return _identity_of(file)
        except FileNotFoundError:
            return None

    def __repr__(self) -> str:
        return f"Lines({str(self.path)!r})"


def _identity_of(file: BinaryIO) -> str | None:
    """None as long as there is no first line."""
    first = file.readline(_FIRST_BYTES)
    if not first.endswith(b"\n") and len(first) < _FIRST_BYTES:
        return None
    return f"inode {os.fstat(file.fileno()).st_ino} {sha256(first).hexdigest()[:16]}"


class _LinesReader(PolledFileReader):
    """A line's position is behind its newline."""

    def __init__(self, source: Lines[Any], identity: str, at: int) -> None:
        super().__init__(identity, at, source.poll)
        self._source = source

    def look_now(self, max_messages: int, max_bytes: int) -> list[Record]:
        path = self._source.path
        try:
            # Opened once: what is read is what was identified, whatever gets its name meanwhile.
            with path.open("rb") as file:
                self._require_same(_identity_of(file))
                if file.seek(0, 2) < self.at:
                    raise StreamRewound(f"{path} was cut: it was read up to byte {self.at}")
                file.seek(self.at)
                return self._lines(file, max_messages, max_bytes)
        except FileNotFoundError:
            self._require_same(None)
            raise

    def _require_same(self, now: str | None) -> None:
        if now != self.identity:
            raise StreamRewound(
                f"{self._source.path} is another file now ({self.identity} was read, "
                f"{now or 'none'} is there): it was rotated or made anew"
            )

    def _lines(self, file: BinaryIO, max_messages: int, max_bytes: int) -> list[Record]:
        found: list[Record] = []
        while len(found) < max_messages and max_bytes > 0:
            line = file.readline()
            if not line.endswith(b"\n"):
                break  # It is being written.
            self.at += len(line)
            max_bytes -= len(line)
            found.append(Record(PARTITION, self.at, line.rstrip(b"\r\n")))
        return found
