"""A worker in a process of its own whose flows read partitions, files of a folder, into a table:
`python -m tests.support.spread_worker URL LEASE_S FOLDER`. Says "ready" once it claims."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everlong import Client, Transaction, Worker, activity, checkpoint, workflow
from everlong.streams import Cursor, Reader, Record, Source, Stream
from everlong.worker import _balance
from tests.support.postgres_worker import shorten_leases

__all__ = ["Parts", "consume", "lines", "save_parts"]


class Parts(Source[int]):
    """Each file of a folder is a partition, each of its lines a message."""

    partitions_every_s = 0.2

    def __init__(self, folder: Path) -> None:
        super().__init__(int)
        self.folder = folder

    async def partitions(self) -> Sequence[str]:
        return sorted(one.name for one in self.folder.iterdir())

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        return PartsReader(self, after, partitions or await self.partitions())


class PartsReader(Reader):
    identity = "parts"

    def __init__(self, source: Parts, after: Cursor | None, partitions: Sequence[str]) -> None:
        read: Mapping[str, Any] = {} if after is None else after.after
        self._next = {name: int(read.get(name, -1)) + 1 for name in partitions}
        self._source = source

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        found: list[Record] = []
        waited_s = 0.0
        while True:
            for name, at in self._next.items():
                values = (self._source.folder / name).read_bytes().splitlines()
                more = values[at : at + max_messages - len(found)]
                found += [Record(name, at + n, value) for n, value in enumerate(more)]
                self._next[name] += len(more)
            if found or (wait_s is not None and waited_s >= wait_s):
                return found
            await asyncio.sleep(0.02)  # tidy: waits because files tell nobody that they grow
            waited_s += 0.02


lines: Stream[int] = Stream("lines", Parts(Path(sys.argv[3] if len(sys.argv) > 3 else "/")))


@activity(transactional=True)
async def save_parts(tx: Transaction, rows: list[dict[str, Any]]) -> None:
    tx.executemany("insert into sink (part, number) values (:part, :number)", rows)


@workflow
async def consume() -> None:
    async for batch in lines.batches(max_messages=5):
        await save_parts([{"part": one.partition, "number": one.value} for one in batch])
        await checkpoint()


async def main(url: str) -> None:
    async with Client.connect(url) as client:
        worker = Worker(client, workflows=[consume], activities=[save_parts])
        await worker.run(on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    shorten_leases(float(sys.argv[2]))
    looks: Any = _balance
    looks._EVERY_S = 0.5
    asyncio.run(main(sys.argv[1]))
