"""SIGTERM to a worker with attempts at work, on a server and on a file: what can end ends, the rest
is handed back, and nothing is lost or done twice without need."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from everlong import Client
from tests.support.command_line import begin, worker_ready
from tests.support.hosting import until
from tests.support.postgres_server import lent_store

STOP_S: Final = 2.0
CODE: Final = """
import asyncio
from pathlib import Path
from everlong import Retry, activity, workflow

HERE = Path(__file__).parent

def told(line: str) -> int:
    with (HERE / "ledger").open("a") as file:
        file.write(line + "\\n")
    return (HERE / "ledger").read_text().split().count(line)

@activity(retry=Retry(delay=0.0, jitter=0.0))
async def ends_in_time(name: str) -> str:
    told(name)
    while not (HERE / "asked").exists():
        await asyncio.sleep(0.01)
    return name

@activity(retry=Retry(delay=0.0, jitter=0.0))
async def takes_for_ever(name: str) -> str:
    if told(name) == 1:
        await asyncio.Event().wait()
    return name

@workflow(name="drained_quick")
async def quick(name: str) -> list[str]:
    first = await ends_in_time(name)
    return [first, await ends_in_time(name + "-next")]

@workflow(name="drained_slow")
async def slow(name: str) -> str:
    return await takes_for_ever(name)
"""


@pytest.fixture(params=["server", "file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        if request.param == "server":
            yield await stack.enter_async_context(lent_store(1024))
        else:
            yield str(tmp_path / "drained.db")


async def test_what_can_end_in_time_ends_and_the_rest_is_handed_back(
    store: str, tmp_path: Path
) -> None:
    (tmp_path / "draining.py").write_text(CODE)
    names = [f"{kind}{number}" for kind in ("quick", "slow") for number in range(3)]
    async with Client.connect(store) as client:
        for name in names:
            await client.start(f"drained_{name[:-1]}", id=name, name=name)
        process = begin(
            *("worker", "draining.py", "--json", "--db", store),
            *("--stop-timeout", f"{STOP_S}"),
            folder=tmp_path,
        )
        await asyncio.to_thread(worker_ready, process)
        await until(lambda: _wrote(tmp_path, len(names)))
        if client.engine.shared:  # Told with the next beat.
            await until(lambda: _are_at_work(client, len(names)))
        os.kill(process.pid, signal.SIGTERM)
        asked = time.monotonic()
        (tmp_path / "asked").touch()
        await client.start("drained_quick", id="late", name="late")
        await asyncio.to_thread(process.communicate, timeout=30)
        assert process.returncode == 0
        # Not before the time was over, since some do not end, and not much later.
        assert STOP_S * 0.9 <= time.monotonic() - asked < STOP_S + 8
        assert not [one for one in await client.workers() if one.is_there]
        for name in names:
            found = await client.get_handle(name).describe()
            assert found.owner is None
            assert found.status == "running" or name.startswith("quick")
            recorded = [one.kind for one in await client.get_handle(name).history()]
            assert ("ActivityCompleted" in recorded) is name.startswith("quick")
        process = begin("worker", "draining.py", "--json", "--db", store, folder=tmp_path)
        await asyncio.to_thread(worker_ready, process)
        for name in (*names, "late"):
            result = await client.get_handle(name).result()
            assert result == (name if name.startswith("slow") else [name, f"{name}-next"])
        process.terminate()
        await asyncio.to_thread(process.communicate, timeout=30)
        assert process.returncode == 0
        ledger = (tmp_path / "ledger").read_text().split()
        assert {ledger.count(name) for name in names if name.startswith("quick")} == {1}
        assert {ledger.count(name) for name in names if name.startswith("slow")} == {2}
        assert not await client.verify()


async def _are_at_work(client: Client, wanted: int) -> bool:
    (one,) = [one for one in await client.workers() if one.is_there]
    assert one.slots == 200
    return one.busy == wanted


async def _wrote(folder: Path, lines: int) -> bool:
    ledger = folder / "ledger"
    return ledger.exists() and len(ledger.read_text().split()) >= lines
