"""`everlong replay` looks at a server as it does at a file."""

from pathlib import Path
from typing import Final

from tests.support.command_line import begin, everlong, worker_ready
from tests.support.postgres_server import fresh_database

CODE: Final = """
import asyncio
from everlong import activity, workflow

@activity
async def charge(number: int) -> int:
    return number

@activity
async def check(number: int) -> int:
    return number

@workflow
async def on_server(number: int) -> None:
    await {first}(number)
    await asyncio.sleep(3600)
"""


async def test_the_runs_of_a_server_are_replayed_and_nothing_is_changed(tmp_path: Path) -> None:
    url = await fresh_database()
    (tmp_path / "flow.py").write_text(CODE.format(first="charge"))
    for number in range(3):
        begun = ("start", "on_server", "--id", f"r-{number}", "-a", f"number={number}")
        assert everlong(*begun, "--db", url, folder=tmp_path).code == 0
    worker = begin("worker", "flow.py", "--json", "--db", url, folder=tmp_path)
    try:
        assert worker_ready(worker)["workflows"] == ["on_server"]

        def shown() -> list[int]:
            done = everlong("list", "--json", "--db", url, folder=tmp_path)
            return [one["history_events"] for one in done.document["items"]]

        while shown() != [4, 4, 4]:
            pass
    finally:
        worker.kill()
        worker.communicate()
    before = everlong("show", "r-1", "--json", "--db", url, folder=tmp_path)
    fits = everlong("replay", "flow.py", "--json", "--db", url, folder=tmp_path)
    assert (fits.code, fits.document["runs"], fits.document["events"]) == (0, 3, 12)
    (tmp_path / "flow.py").write_text(CODE.format(first="check"))
    parts = everlong("replay", "flow.py", "--db", url, folder=tmp_path)
    assert parts.code == 1
    assert "3 of 3 runs of 1 workflow cannot go on" in parts.out
    assert everlong("show", "r-1", "--json", "--db", url, folder=tmp_path).out == before.out
