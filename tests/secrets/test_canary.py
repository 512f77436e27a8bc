"""A secret is planted wherever a program can put one, and then looked for in everything.

Without `Encrypt` each place must be found in the file: else the search itself finds nothing.
"""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import pytest

from everlong import (
    AlreadyAnswered,
    Client,
    OpenApproval,
    QueryFailed,
    Worker,
    WorkflowCancelled,
    WorkflowFailed,
)
from everlong.codec import Codec, Encrypt, new_key
from tests.proof.record import record
from tests.secrets.flows import (
    FLOWS,
    PLACES,
    SECRET,
    breaks,
    courier,
    extra,
    fails,
    go,
    plant,
    sulks,
    told,
    waits,
)
from tests.support.command_line import Done, clean_environment, everlong
from tests.support.hosting import described, until

IDS = ("courier", "fails", "cancelled", "terminated", "breaks")
LOOKS = (
    ("list",),
    ("approvals",),
    ("doctor",),
    ("verify",),
    *(("show", id) for id in IDS),
    *(("history", id, "--traceback") for id in IDS),
    *(("show", id, "--json") for id in IDS),
    *(("history", id, "--json") for id in IDS),
)


@asynccontextmanager
async def lived_through(
    folder: Path, codecs: Sequence[Codec], *keys: str
) -> AsyncGenerator[Client]:
    """A store in which every place has had its secret, and whose worker is still there."""
    path = folder / "everlong.db"

    async def command(*arguments: str) -> Done:
        return await asyncio.to_thread(everlong, *arguments, *keys, folder=folder)

    async with Client.connect(path, codecs=codecs) as client:
        # In the inbox first: nobody hosts it yet.
        handle = await client.start(
            courier, plant("input"), id="courier", memo=plant("memo of the start")
        )
        assert (await handle.describe()).memo == plant("memo of the start")
        async with Worker(client, workflows=FLOWS):
            await handle.signal(extra, plant("unread signal"))
            await handle.signal(go, plant("signal"))
            (asked_for,) = await until_asked(client)
            assert asked_for.title == plant("approval title")
            assert plant("approval data") in (await command("approvals")).out
            told_so = plant("approval comment")
            answer = ("approve", asked_for.id, "--by", "ann", "--comment", told_so)
            assert (await command(*answer)).code == 0
            with pytest.raises(AlreadyAnswered, match=SECRET):
                await client.reject(asked_for.id, by="bob")
            args = ("signal", "courier", "secrets-number", plant("rejected signal"))
            assert (await command(*args)).code == 0
            second = await described(
                client.get_handle("courier"),
                lambda it: it.history_events and it.run_id != handle.run_id,
            )
            asked = ("query", "courier", "secrets-told", "--arg", f"question={plant('question')}")
            assert plant("answer") in (await command(*asked)).out
            assert (await command("query", "courier", "secrets-sulks")).code == 1
            assert await handle.query(told) == plant("answer")
            with pytest.raises(QueryFailed, match=SECRET):
                await handle.query(sulks)
            items = [item async for item in handle.subscribe("secrets-items", live=False)]
            assert items[0] == plant("published item")
            shown = await command("subscribe", "courier", "secrets-items", "--no-follow")
            assert plant("large published item") in shown.out
            await handle.signal(go, "now")
            assert await handle.result() == plant("returned")
            assert second.workflow_id == "courier"
            assert second.memo == plant("memo")
            assert plant("memo") in (await command("show", "courier")).out
            await _endings(client)
            yield client


async def _endings(client: Client) -> None:
    with pytest.raises(WorkflowFailed, match=SECRET):
        await client.run(fails, id="fails")
    cancelled = await client.start(waits, plant("input"), id="cancelled")
    await cancelled.cancel(plant("cancel reason"), request_id="by mail")
    with pytest.raises(WorkflowCancelled, match=SECRET):
        await cancelled.result()
    terminated = await client.start(waits, plant("input"), id="terminated")
    await terminated.terminate(plant("terminate reason"))
    blocked = await client.start(breaks, id="breaks")
    found = await described(blocked, lambda it: it.status == "blocked")
    assert plant("blocked reason") in (found.reason or "")


async def until_asked(client: Client) -> list[OpenApproval]:
    async def look() -> list[OpenApproval]:
        return (await client.approvals()).items

    return await until(look)


def printed_by(commands: Sequence[Sequence[str]], folder: Path) -> str:
    """What many commands print, without the key, in one process: starting one takes a second."""
    script = (
        "import json, sys; from everlong.cli import main\n"
        "for command in json.loads(sys.argv[1]): assert main(command) in (0, 1), command"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)],
        cwd=folder,
        env=clean_environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def everything(folder: Path) -> bytes:
    """What all files hold. Another process reads them: in this one, closing a file that SQLite has
    open too would drop SQLite's locks on it.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return subprocess.run(["cat", *files], stdout=subprocess.PIPE, timeout=100, check=True).stdout


def places_in(data: bytes) -> set[str]:
    return {place for place in PLACES if plant(place).encode() in data}


@pytest.fixture
def in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLONG_TEST_SECRET", plant("environment"))


@pytest.mark.usefixtures("in_the_environment")
async def test_an_encrypted_store_shows_a_secret_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began = perf_counter()
    caplog.set_level(logging.DEBUG)
    key = new_key()
    folder, home = tmp_path / "store", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    file = home / "codecs.toml"
    file.write_text(f'[keys]\nk1 = "{key}"\n')
    file.chmod(0o600)
    codec = Encrypt({"k1": key})
    async with lived_through(folder, [codec], "--codecs", str(file)) as client:
        worker = Worker(client)
        assert SECRET.encode() not in everything(folder)  # With the log of SQLite.
        shown = await asyncio.to_thread(printed_by, LOOKS, folder)
        for thing in (client, worker, codec, client.get_handle("courier")):
            assert SECRET not in repr(thing) + str(vars(thing).keys())
            assert key not in repr(thing)
        assert key.encode() not in everything(folder)
    stored = everything(folder)
    assert SECRET.encode() not in stored
    assert SECRET not in caplog.text
    assert key not in caplog.text
    assert SECRET not in shown
    assert shown.count("encrypted with key 'k1'") > 20
    record(
        "a planted secret in an encrypted store",
        invariants=[13, 14],
        tried="places where a program can put a secret, searched for in files, logs and commands",
        times=len(PLACES) + 2,
        broken=0,
        seconds=perf_counter() - began,
        figures={"bytes searched": len(stored), "commands": len(LOOKS)},
        reproduce="pytest tests/secrets/test_canary.py",
    )


async def test_without_encryption_the_search_finds_every_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with lived_through(tmp_path, ()):
        live = everything(tmp_path)
    assert places_in(live + everything(tmp_path)) == set(PLACES)
    assert SECRET in caplog.text
    assert plant("local variable").encode() not in live
    assert plant("environment").encode() not in live
    assert os.environ.get("EVERLONG_TEST_SECRET") is None
