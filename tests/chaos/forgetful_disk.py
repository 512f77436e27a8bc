"""A disk that forgets what was not synced: the model behind the tests' power cuts. Pure.

A file has two contents: what programs read, and what would still be there after a power cut. Writes
go to the first and into a log; a sync copies the touched pages to the second. Names are the same: a
file is found after a cut only if its folder was synced, which is harsher than most file systems.

What survives a cut is up to the disk, so there are two kinds: `nothing` unsynced is left, or
`some` of it: of each page any prefix of the writes to it, the last one perhaps torn between two
sectors, and each unsynced name or its absence by chance.

A sync can also be made to fail the way Linux lets it fail: once, with an error, after which the
pages count as clean although they never reached the disk.
"""

from collections.abc import Iterator
from random import Random
from typing import Final, Literal

__all__ = ["PAGE_BYTES", "Folder", "Inode", "Survivors"]

PAGE_BYTES: Final = 4096
SECTOR_BYTES: Final = 512

Survivors = Literal["nothing", "some"]


class Inode:
    """A file: what is read, what is on the disk, and the writes in between."""

    def __init__(self, content: bytes = b"") -> None:
        self.data = bytearray(content)
        self.durable = bytearray(content)
        self.pending: list[tuple[int, bytes]] = []
        self.truncated: int | None = None
        """The smallest size that it had since the last sync, if it was made smaller."""

    def write(self, offset: int, data: bytes) -> None:
        self._grow(self.data, offset + len(data))
        self.data[offset : offset + len(data)] = data
        self.pending.append((offset, data))

    def truncate(self, size: int) -> None:
        if size < len(self.data):
            del self.data[size:]
            self.truncated = size if self.truncated is None else min(size, self.truncated)
            self.pending = [
                (offset, data[: size - offset]) for offset, data in self.pending if offset < size
            ]
        elif size > len(self.data):
            self.write(len(self.data), bytes(size - len(self.data)))

    def sync(self) -> None:
        """Whole pages go to the disk, as they are now."""
        if self.truncated is not None:
            del self.durable[self.truncated :]
        for offset, piece in self.pending:
            first = offset // PAGE_BYTES * PAGE_BYTES
            last = -(-(offset + len(piece)) // PAGE_BYTES) * PAGE_BYTES
            page = self.data[first:last]
            self._grow(self.durable, first + len(page))
            self.durable[first : first + len(page)] = page
        self.forget()

    def forget(self) -> None:
        """The pages count as clean from here on, wherever they are."""
        self.pending.clear()
        self.truncated = None

    def after_a_cut(self, survivors: Survivors, chance: Random) -> bytes:
        if survivors == "nothing":
            return bytes(self.durable)
        left = bytearray(self.durable)
        if self.truncated is not None and chance.random() < 0.5:
            del left[self.truncated :]
        pages: dict[int, list[tuple[int, bytes]]] = {}
        for offset, data in self.pending:
            for at, piece in _by_page(offset, data):
                pages.setdefault(at // PAGE_BYTES, []).append((at, piece))
        for writes in pages.values():
            kept = writes[: chance.randint(0, len(writes))]
            if kept and chance.random() < 0.25:
                at, piece = kept[-1]
                kept[-1] = (at, piece[: chance.randrange(0, PAGE_BYTES, SECTOR_BYTES)])
            for at, piece in kept:
                self._grow(left, at + len(piece))
                left[at : at + len(piece)] = piece
        return bytes(left)

    @staticmethod
    def _grow(content: bytearray, size: int) -> None:
        content.extend(bytes(max(0, size - len(content))))


def _by_page(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        room = PAGE_BYTES - offset % PAGE_BYTES
        yield offset, data[:room]
        offset, data = offset + room, data[room:]


class Folder:
    """Names of files, as programs see them and as a cut would leave them."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.names = {name: Inode(content) for name, content in (files or {}).items()}
        self.durable = dict(self.names)

    def sync(self) -> None:
        self.durable = dict(self.names)

    def after_a_cut(self, survivors: Survivors, chance: Random) -> dict[str, bytes]:
        left = dict(self.durable)
        if survivors == "some":
            for name in sorted(self.names.keys() | self.durable.keys()):
                if self.names.get(name) is not self.durable.get(name) and chance.random() < 0.5:
                    left.pop(name, None)
                    if name in self.names:
                        left[name] = self.names[name]
        return {name: inode.after_a_cut(survivors, chance) for name, inode in left.items()}
