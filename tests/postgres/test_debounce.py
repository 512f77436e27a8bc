"""Debounced starts between processes that are killed: each is in what begins, or makes the next."""

import asyncio
from asyncio.subprocess import Process
from collections import defaultdict
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from everlong import Client
from tests.support.hosting import until
from tests.support.postgres_server import fresh_database
from tests.support.ready_process import ready

WHO = ("ann", "bob")
BETWEEN = 8
"""So many executions, at least, between two deaths."""


def process(*arguments: str) -> AbstractAsyncContextManager[Process]:
    return ready("-m", "tests.support.debounce_process", *arguments)


class Starter:
    """One that is told what it was acknowledged."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.came_to: list[tuple[int, str]] = []

    async def listen(self, process: Process) -> None:
        assert process.stdout is not None
        while (line := await process.stdout.readline()).endswith(b"\n"):
            number, workflow_id = line.decode().split()
            self.came_to.append((int(number), workflow_id))

    @property
    def executions(self) -> int:
        return len({workflow_id for _, workflow_id in self.came_to})


@pytest.mark.parametrize("store", ["file", "server"])
async def test_no_start_is_lost_and_none_is_done_twice(store: str, tmp_path: Path) -> None:
    place = str(tmp_path / "everlong.db") if store == "file" else await fresh_database()
    starters = [Starter(name) for name in WHO]
    async with Client.connect(place) as client:
        async with process("start", place, "ann") as ann, process("start", place, "bob") as bob:
            listening = [
                asyncio.create_task(one.listen(each))
                for one, each in zip(starters, (ann, bob), strict=True)
            ]
            for _ in range(2):  # A worker dies, and another one goes on.
                async with process("work", place) as worker:
                    known = starters[0].executions

                    async def some_have_begun(known: int = known) -> bool:
                        return starters[0].executions >= known + BETWEEN

                    await until(some_have_begun)
                    worker.kill()
                    await worker.wait()
            ann.kill()
            bob.kill()
            await asyncio.gather(*listening)

        async with process("work", place):

            async def all_have_ended() -> bool:
                return await client.count("closed is not set") == 0

            await until(all_have_ended)
        assert await client.verify() == []
        await check(client, starters)


async def check(client: Client, starters: list[Starter]) -> None:
    """What began says of the starts that came to it, which were the last of each sender."""
    said: dict[str, tuple[str, int]] = {}
    stored = 0
    page = await client.list(limit=1000)
    assert page.next is None
    for one in page.items:
        handle = client.get_handle(one.workflow_id)
        sender, number = await handle.result()
        said[one.workflow_id] = sender, number
        together = (await handle.describe()).debounced
        assert together is not None
        stored += together.starts
    acknowledged = sum(len(one.came_to) for one in starters)
    # Of each that was killed one start may have been stored of which it was never told.
    assert acknowledged <= stored <= acknowledged + len(starters)
    assert len(said) >= 2 * BETWEEN
    for starter in starters:
        came: defaultdict[str, list[int]] = defaultdict(list)
        for number, workflow_id in starter.came_to:
            came[workflow_id].append(number)
        assert came.keys() <= said.keys()
        for workflow_id, numbers in came.items():
            sender, number = said[workflow_id]
            if sender == starter.name:
                assert max(numbers) <= number <= max(numbers) + 1
