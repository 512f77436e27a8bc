"""A workflow whose code is gone: its runs wait, seen by every command, and harm nobody."""

import asyncio
from pathlib import Path

import pytest

from everlong import Client, QueryFailed, Worker
from tests.hostile import specimen
from tests.hostile.conftest import Command
from tests.support.hosting import described


def _gone(path: Path) -> None:
    with specimen.tampered(path) as db:
        db.execute("UPDATE runs SET wake_us = 1 WHERE workflow_id IN ('victim', 'retrying')")


async def test_runs_of_it_wait_until_somebody_hosts_it_again(tmp_path: Path) -> None:
    path = specimen.copy(tmp_path)
    _gone(path)
    async with Client.connect(path) as client:
        async with Worker(client, workflows=[specimen.flow]):
            handle = client.get_handle("retrying")
            await client.get_handle("victim", specimen.flow).result()
            found = await handle.describe()
            assert (found.status, found.hosted, found.owner) == ("running", False, None)
            with pytest.raises(QueryFailed, match="no worker here hosts hostile-stubborn-flow"):
                await handle.query("told")
            await handle.signal(specimen.go, "it is kept")
        async with Worker(client, workflows=specimen.WORKFLOWS):
            found = await described(handle, lambda it: it.hosted and "hostile-go" in it.signals)
            assert found.activities[0].state == "backing off"


def test_every_command_says_that_nobody_hosts_it(tmp_path: Path, command: Command) -> None:
    path = specimen.copy(tmp_path)
    _gone(path)
    asyncio.run(_serve_others(path))
    shown = command("show", "retrying")
    assert "none is here for hostile-stubborn-flow: everlong worker FILE" in shown.out
    assert '"hosted": false' in command("show", "retrying", "--json").out
    listed = command("list", "--status", "running")
    assert "retrying" in listed.out
    assert "hostile-stubborn-flow" in listed.out
    told = command("doctor")
    assert "no worker is here for hostile-stubborn-flow" in told.out
    assert told.code == 0
    assert command("history", "retrying").code == 0
    assert command("verify").code == 0
    assert command("terminate", "retrying").code == 0
    assert "hostile-stubborn-flow" not in command("doctor").out


async def _serve_others(path: Path) -> None:
    async with Client.connect(path) as client, Worker(client, workflows=[specimen.flow]):
        await client.get_handle("victim", specimen.flow).result()
