"""`Directory`: files that appear in a folder, each a message, or each of its lines."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, Final, Generic, TypeVar, overload

import anyio.to_thread

from everlong.exceptions import InvalidArguments, StreamRewound
from everlong.streams._ledger import ENTRIES_MAX, Entry, Found, Ledger
from everlong.streams._polled import PARTITION, PolledReader, behind, check_poll
from everlong.streams._source import (
    Cursor,
    Position,
    Reader,
    Record,
    Source,
    number_in,
    require_same,
)
from everlong_engine import limits

__all__ = ["Directory"]

T = TypeVar("T")

_log: Final = logging.getLogger("everlong.streams")

_LEDGERS: Final = {"files": ".everlong-files", "lines": ".everlong-lines"}
_VALUE_BYTES_MAX: Final = limits.PAYLOAD_BYTES_MAX // 4 + 1
"""More of a file, or of a line, is not read: it is too large for a message anyway."""
_TAIL_BYTES: Final = 4096
"""By which it is known that a file has grown, and was not written anew."""


class Directory(Source[T], Generic[T]):
    """The files that appear in a folder, in the order in which they are found.

        invoices = Stream("invoices", Directory("inbox", Invoice, pattern="*.json"))

    A message is what a file holds, or each of its lines; its key is the file's name. The order is
    kept in a small file, the ledger, to which each file is added when it is found: so late files
    with earlier names or times are read, too, and a position means the same file for ever.

    What people get wrong: a file must not be read while it is being written. Write it under another
    name that does not fit the pattern, or a hidden one, and rename it; then `settle=0` will do. Or
    let `settle` be longer than any pause of the writer. A file that changes behind that is a
    message again, with all that it holds; of lines, those are read that were added.

    Args:
        path: of the folder, which may come into being later.
        value: the type of its messages' values, see `Source`.
        pattern: which files, as in `*.csv` or, in subfolders too, `**/*.csv`. Names that begin with
            a dot are left out, whatever it says.
        lines: each line is a message; the last one may lack its newline.
        contents: False gives a file's name in place of what it holds, for files over 500,000 bytes.
        settle: seconds for which a file must not change before it is read.
        poll: seconds between two looks when nothing was there.
        ledger: where the order is kept, if not in the folder, as `.everlong-files` or
            `.everlong-lines`. It goes with the folder: without it nobody knows what was read.
    """

    @overload
    def __init__(
        self: "Directory[bytes]",
        path: str | Path,
        *,
        pattern: str = "*",
        lines: bool = False,
        contents: bool = True,
        settle: float = 2.0,
        poll: float = 1.0,
        ledger: str | Path | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        path: str | Path,
        value: type[T],
        *,
        pattern: str = "*",
        lines: bool = False,
        contents: bool = True,
        settle: float = 2.0,
        poll: float = 1.0,
        ledger: str | Path | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Directory[Any]",
        path: str | Path,
        value: Any,
        *,
        pattern: str = "*",
        lines: bool = False,
        contents: bool = True,
        settle: float = 2.0,
        poll: float = 1.0,
        ledger: str | Path | None = None,
    ) -> None: ...
    def __init__(
        self,
        path: str | Path,
        value: Any = bytes,
        *,
        pattern: str = "*",
        lines: bool = False,
        contents: bool = True,
        settle: float = 2.0,
        poll: float = 1.0,
        ledger: str | Path | None = None,
    ) -> None:
        super().__init__(value)
        if not pattern or {"", ".", ".."} & set(pattern.split("/")):
            raise InvalidArguments(
                f"pattern={pattern!r}: give one for paths within the folder, such as *.csv or "
                "**/*.csv"
            )
        if lines and not contents:
            raise InvalidArguments("lines=True and contents=False: a line has no name to give")
        if not settle >= 0:
            raise InvalidArguments(f"settle={settle}: give seconds, 0 or more")
        self.path, self.lines, self.contents = Path(path), lines, contents
        self.settle, self.poll = settle, check_poll(poll)
        holds = "lines" if lines else "files"
        self.ledger = Ledger(self.path / _LEDGERS[holds] if ledger is None else Path(ledger), holds)
        self.pattern = pattern
        self.now: Callable[[], float] = monotonic

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader behind the cursor; it waits for the folder."""
        at = behind(after, partitions, self)
        place = (0, 0) if at is None else self._place(at)
        there = await anyio.to_thread.run_sync(self.path.is_dir)
        while not there:
            await asyncio.sleep(self.poll)
            there = await anyio.to_thread.run_sync(self.path.is_dir)
        make = self.ledger.create if after is None else self.ledger.identity
        identity = await anyio.to_thread.run_sync(make) or "none"
        require_same(identity, after, f"{self.path}")
        reader = _DirectoryReader(self, identity, place)
        await anyio.to_thread.run_sync(reader.learn)
        return reader

    def _place(self, at: Position) -> tuple[int, int]:
        """A line of the ledger to go on with, and a byte of its file."""
        line, slash, byte = str(at).partition("/")
        if bool(slash) != self.lines:
            form = "a number of the ledger, and one of the file: 97/1024" if self.lines else "97"
            raise InvalidArguments(f"{at!r} is no position of {self!r}, such as {form}")
        return number_in(line, self), number_in(byte or 0, self)

    def is_behind(self, position: Position, other: Position) -> bool:
        """By their places in the ledger, and within the file."""
        try:
            return self._place(position) > self._place(other)
        except InvalidArguments:  # Of a rewind to what is none: nothing is read from there.
            return False

    def there(self) -> Iterator[tuple[str, os.stat_result]]:
        """Not for flows: the files that fit now, by their names within the folder."""
        pattern = self.pattern.split("/")
        yield from _walk(self.path, "", pattern, deep=len(pattern) > 1)

    def __repr__(self) -> str:
        return f"Directory({str(self.path)!r}, pattern={self.pattern!r})"


@dataclass(slots=True)
class _Changing:
    """A file that is not entered as it is now."""

    size: int
    mtime_ns: int
    since: float
    """When it was seen so for the first time."""
    first: float
    """When it was seen to be new."""


class _DirectoryReader(PolledReader):
    def __init__(self, source: Directory[Any], identity: str, place: tuple[int, int]) -> None:
        super().__init__(identity, source.poll)
        self._source = source
        self._at, self._byte = place
        self._known: dict[str, Found] = {}
        self._learnt, self._count = 0, 0
        self._changing: dict[str, _Changing] = {}
        self._pattern = source.pattern.split("/")

    async def look(self, max_messages: int, max_bytes: int) -> list[Record]:
        return await anyio.to_thread.run_sync(self._look, max_messages, max_bytes)

    def _look(self, max_messages: int, max_bytes: int) -> list[Record]:
        return self._entered(max_messages, max_bytes) or (
            self._entered(max_messages, max_bytes) if self._find() else []
        )

    # ------------------------------------------------------------------------- what was entered

    def learn(self) -> None:
        """What others have entered, or this flow before it was opened."""
        ledger = self._source.ledger
        for _ in ledger.read(self._at, self.identity):
            break  # Raises if the position is none.
        self._remember(ledger.read(self._learnt, self.identity))

    def _remember(self, entries: Iterable[Entry]) -> None:
        for one in entries:
            self._known[one.found.name] = one.found
            self._learnt = one.behind
            self._count += 1

    def _entered(self, max_messages: int, max_bytes: int) -> list[Record]:
        """The messages of what the ledger has behind the position, which moves on."""
        records: list[Record] = []
        for entry in self._source.ledger.read(self._at, self.identity):
            for record, at, byte in self._messages(entry):
                records.append(record)
                self._at, self._byte = at, byte
                max_bytes -= len(record.value)
                if len(records) == max_messages or max_bytes <= 0:
                    return records
            self._at, self._byte = entry.behind, 0
        return records

    def _messages(self, entry: Entry) -> Iterator[tuple[Record, int, int]]:
        """Each with where to go on behind it."""
        found, source = entry.found, self._source
        read = source.lines and entry.at == self._at and self._byte == found.size
        if read or not _fits(found.name.split("/"), self._pattern):
            return
        try:
            with (source.path / found.name).open("rb") as file:
                if source.lines:
                    yield from self._lines(entry, file)
                elif (whole := self._whole(entry, file)) is not None:
                    yield whole, entry.behind, 0
        except FileNotFoundError:
            _log.warning(
                "%r: %r was found, and has gone before it was read: it is left out",
                source,
                found.name,
            )

    def _whole(self, entry: Entry, file: BinaryIO) -> Record | None:
        """None: it has changed, and what it holds by now is entered anew."""
        found, source = entry.found, self._source
        value = file.read(_VALUE_BYTES_MAX) if source.contents else os.fsencode(found.name)
        now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) != (found.size, found.mtime_ns):
            return None
        return self._record(entry, entry.behind, value)

    def _lines(self, entry: Entry, file: BinaryIO) -> Iterator[tuple[Record, int, int]]:
        found = entry.found
        now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) != (found.size, found.mtime_ns) and (
            now.st_size < found.size or _digest(file, found.size) != found.digest
        ):
            _log.warning(
                "%r: %r was written anew before it was read to its end: it is read as it is now",
                self._source,
                found.name,
            )
            return
        byte = found.start
        if entry.at == self._at and self._byte:
            byte = self._byte
            file.seek(byte - 1)
            if not found.start <= byte < found.size or file.read(1) != b"\n":
                raise InvalidArguments(
                    f"no line of {found.name!r} in {self._source.path} begins at byte {byte}: "
                    "rewind the flow to where it is to go on"
                )
        file.seek(byte)
        while byte < found.size:
            line = file.readline(min(_VALUE_BYTES_MAX, found.size - byte))
            byte += len(line)
            value = line
            while not line.endswith(b"\n") and byte < found.size:  # The rest of a very long one.
                line = file.readline(min(_VALUE_BYTES_MAX, found.size - byte))
                byte += len(line)
            record = self._record(entry, f"{entry.at}/{byte}", value.rstrip(b"\r\n"))
            yield record, entry.at, byte

    def _record(self, entry: Entry, position: Position, value: bytes) -> Record:
        found = entry.found
        name = os.fsencode(found.name)
        return Record(PARTITION, position, value, name, found.mtime_ns // 1000)

    # --------------------------------------------------------------------------- what is found

    def _find(self) -> bool:
        """Whether files were entered, by this or by others."""
        source, before = self._source, self._learnt
        # First what others have entered: that need not settle once more.
        self._remember(source.ledger.read(self._learnt, self.identity))
        now = source.now()
        found = [
            one
            for name, stat in source.there()
            if (one := self._settled(name, stat, now)) is not None
        ]
        found.sort(key=lambda one: (one.mtime_ns, one.name))
        if found:
            self._enter(found)
        return self._learnt > before

    def _enter(self, found: Sequence[Found]) -> None:
        known = {one.name: self._known.get(one.name) for one in found}

        def still_new(others: Sequence[Entry]) -> Sequence[Found]:
            self._remember(others)
            adds = [one for one in found if self._known.get(one.name) == known[one.name]]
            if self._count + len(adds) > ENTRIES_MAX:
                raise InvalidArguments(
                    f"{self._source.ledger.path} holds {self._count:,} files, and is full: begin a "
                    "flow with another folder"
                )
            return adds

        self._source.ledger.enter(self._learnt, self.identity, still_new)
        self._remember(self._source.ledger.read(self._learnt, self.identity))

    def _settled(self, name: str, stat: os.stat_result, now: float) -> Found | None:
        """What is to be entered of a file as it is now."""
        size, mtime_ns = stat.st_size, stat.st_mtime_ns
        known = self._known.get(name)
        if known is not None and (known.size, known.mtime_ns) == (size, mtime_ns):
            self._changing.pop(name, None)
            return None
        seen = self._changing.setdefault(name, _Changing(size, mtime_ns, now, now))
        if (seen.size, seen.mtime_ns) != (size, mtime_ns):
            seen.size, seen.mtime_ns, seen.since = size, mtime_ns, now
        settled = now - seen.since >= self._source.settle
        if not self._source.lines:
            found = Found(name, size, mtime_ns) if settled else None
        elif settled or now - seen.first >= self._source.settle:
            found = self._part(name, known, size, mtime_ns, settled=settled)
        else:
            found = None
        if found is not None:
            del self._changing[name]
        return found

    def _part(
        self, name: str, known: Found | None, size: int, mtime_ns: int, *, settled: bool
    ) -> Found | None:
        """The lines that were added; all of them if the file is another one."""
        try:
            with (self._source.path / name).open("rb") as file:
                start = 0
                if known is not None and size >= known.size:
                    start = known.size if _digest(file, known.size) == known.digest else 0
                if known is not None and 0 < start < size:
                    self._require_whole_line(file, name, start)
                end = size if settled else _behind_last_line(file, size)
                if end > start:
                    return Found(name, end, mtime_ns, start, _digest(file, end))
        except FileNotFoundError:
            pass  # It has gone since it was seen.
        return None

    def _require_whole_line(self, file: BinaryIO, name: str, start: int) -> None:
        file.seek(start - 1)
        if file.read(1) != b"\n":
            raise StreamRewound(
                f"{name} in {self._source.path} has grown within a line, whose beginning was read "
                f"as its last one, up to byte {start}. Let settle= be longer than any pause of "
                "whoever writes it. To go on, move it away, or to another name to read it anew"
            )


def _walk(
    folder: Path, within: str, pattern: Sequence[str], *, deep: bool
) -> Iterator[tuple[str, os.stat_result]]:
    """In no order. What goes meanwhile is not there, and what cannot be read is an error."""
    subfolders: list[str] = []
    with os.scandir(folder / within) as found:
        for one in found:
            name = within + one.name
            if one.name.startswith("."):
                continue
            if deep and one.is_dir(follow_symlinks=False):
                subfolders.append(f"{name}/")
            elif _fits(name.split("/"), pattern):
                try:
                    if one.is_file():
                        yield name, one.stat()
                except FileNotFoundError:
                    continue
    for name in subfolders:
        try:
            yield from _walk(folder, name, pattern, deep=True)
        except FileNotFoundError:
            continue


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """A path by its parts; `**` stands for any number of folders."""
    if not (parts and pattern):
        return not parts and all(one == "**" for one in pattern)
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or _fits(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _digest(file: BinaryIO, end: int) -> str:
    """Of the last bytes before a place."""
    file.seek(max(0, end - _TAIL_BYTES))
    return sha256(file.read(min(end, _TAIL_BYTES))).hexdigest()[:16]


def _behind_last_line(file: BinaryIO, end: int) -> int:
    """Where the last line that is whole ends; 0 if there is none."""
    while end > 0:
        begin = max(0, end - _TAIL_BYTES)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0
