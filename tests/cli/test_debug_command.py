"""`everlong debug`, driven through a terminal as a person does."""

import hashlib
import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.command_line import clean_environment, everlong

FLOW: Final = """\
import asyncio
from pathlib import Path
from everlong import Signal, activity, workflow

go = Signal("go_debugged", str)


@activity
async def charge(amount: int) -> int:
    with Path("charged").open("a") as file:
        file.write("once ")
    return amount * 2


def tripled(amount: int) -> int:
    three = amount * 3
    return three


@workflow
async def debugged(amount: int) -> str:
    paid = await charge(amount)
    more = tripled(paid)
    await asyncio.sleep(0.01)
    word = await go.receive()
    return f"{word} {more}"
"""
MAKE: Final = """
import asyncio
from everlong import Client, Worker
from flow import debugged, go

async def main():
    async with Client.connect("everlong.db") as client, Worker(client):
        await client.start(debugged, 7, id="waiting")
        handle = await client.start(debugged, 1, id="done")
        await handle.signal(go, "thanks")
        await handle.result()
        while (await client.get_handle("waiting").describe()).history_events < 5:
            await asyncio.sleep(0.01)

asyncio.run(main())
"""
PROMPT: Final = b"(everlong) "
PATIENCE_S: Final = 60.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("debug")
    (folder / "flow.py").write_text(FLOW)
    (folder / "make.py").write_text(MAKE)
    subprocess.run([sys.executable, "make.py"], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def shop(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def typed(folder: Path, arguments: Sequence[str], commands: Sequence[str]) -> tuple[int, str]:
    """The exit code, and all that the terminal showed, when each prompt gets the next command."""
    main = f"import sys; sys.path.insert(0, {str(folder)!r}); from everlong.cli import main; "
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        line = [sys.executable, "-c", main + "sys.exit(main())", "debug", *arguments]
        os.execve(line[0], line, clean_environment({"NO_COLOR": "1", "TERM": "dumb"}))
    shown = b""
    waiting = list(commands)
    at = 0
    while True:
        ready, _, _ = select.select([terminal], [], [], PATIENCE_S)
        assert ready, f"nothing came any more behind {shown!r}"
        try:
            data = os.read(terminal, 4096)
        except OSError:  # Linux tells so that the other side has gone.
            break
        if not data:
            break
        shown += data
        if waiting and PROMPT in shown[at:]:
            at = len(shown)
            os.write(terminal, f"{waiting.pop(0)}\n".encode())
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, shown.decode().replace("\r\n", "\n")


def test_the_code_is_stepped_through_as_it_ran(shop: Path) -> None:
    digest = hashlib.sha256((shop / "everlong.db").read_bytes()).hexdigest()
    code, shown = typed(
        shop,
        ["done", "flow.py"],
        ["p amount", "n", "p paid", "s", "s", "n", "p three", "b 26", "c", "p word", "c"],
    )
    assert code == 0, shown
    for part in (
        "— event 1: RunStarted",
        "flow.py(22)debugged()\n-> paid = await charge(amount)",
        "p amount\n1\n",
        "— event 4: ActivityCompleted",
        "p paid\n2\n",
        "--Call--\n",
        "flow.py(16)tripled()",
        "p three\n6\n",
        "Breakpoint 1 at ",
        "flow.py(26)debugged()",
        "p word\n'thanks'\n",
        "✓ replayed to event",
    ):
        assert part in shown, shown
    assert (shop / "charged").read_text() == "once " * 2, "as often as when it really ran"
    assert hashlib.sha256((shop / "everlong.db").read_bytes()).hexdigest() == digest


def test_show_with_the_code_tells_the_line_where_a_run_waits(shop: Path) -> None:
    done = everlong("show", "waiting", "flow.py", folder=shop)
    assert done.code == 0, done.err
    assert done.out.endswith(
        "  waits at\n    flow.py:25  debugged()  word = await go.receive()\n"
    ), done.out
    assert "waits at" not in everlong("show", "done", "flow.py", folder=shop).out
    assert "waits_at" not in everlong("show", "waiting", "--json", folder=shop).document
    several = FLOW.replace(
        "    word = await go.receive()",
        "    one = [go.receive() for _ in range(3)]\n"
        "    word = await asyncio.gather(\n        *(each(it) for it in one)\n    )",
    ).replace(
        "def tripled",
        "async def each(it):\n    print('hello')\n    return await it\n\n\ndef tripled",
    )
    (shop / "flow.py").write_text(several)
    shown = everlong("show", "waiting", "flow.py", "--json", folder=shop).document
    assert [(one["line"], one["tasks"], one["code"]) for one in shown["waits_at"]] == [
        (31, 1, "word = await asyncio.gather( *(each(it) for it in one) )"),
        (17, 3, "return await it"),
    ]
    (shop / "flow.py").write_text(FLOW.replace("paid = await charge(amount)", "paid = amount"))
    parted = everlong("show", "waiting", "flow.py", folder=shop)
    assert parted.code == 0
    assert "where it waits cannot be told: this code cannot replay it: At event 2" in parted.out
    (shop / "other.py").write_text("")
    foreign = everlong("show", "waiting", "other.py", folder=shop)
    assert "the code has no workflow 'debugged'" in foreign.err


def test_it_stops_behind_an_event_and_shows_how_the_run_stands(shop: Path) -> None:
    code, shown = typed(shop, ["waiting", "flow.py", "--at", "4"], ["p more", "n", "state", "q"])
    assert code == 0, shown
    for part in (
        "behind event 4 of 5  TimerStarted",
        "due 0.010 s later",
        "flow.py:24 in debugged()",
        "amount = 7",
        "more = 42",
        "p more\n42\n",
        "— event 5: TimerFired",
        "flow.py(25)debugged()",
    ):
        assert part in shown, shown
    code, shown = typed(shop, ["waiting", "flow.py", "--at", "2"], ["c"])
    assert "charge (number 1)" in shown
    assert "✓ replayed to event 5" in shown


def test_breakpoint_in_the_code_stops_it_and_quit_ends_it_whatever_the_code_catches(
    shop: Path,
) -> None:
    stubborn = FLOW.replace("    more = tripled(paid)", "    more = tripled(paid); breakpoint()")
    stubborn = stubborn.replace(
        "    word = await go.receive()",
        "    try:\n        word = await go.receive()\n    except BaseException:\n        raise",
    )
    (shop / "flow.py").write_text(stubborn)
    code, shown = typed(shop, ["done", "flow.py"], ["c", "p paid", "run", "q"])
    assert code == 0, shown
    assert "p paid\n2\n" in shown
    assert "leave with q" in shown
    assert "replayed to" not in shown


def test_code_that_does_not_fit_is_told_where_it_parts(shop: Path) -> None:
    (shop / "flow.py").write_text(FLOW.replace("await asyncio.sleep(0.01)", "await charge(9)"))
    code, shown = typed(shop, ["done", "flow.py"], ["c"])
    assert code == 1, shown
    assert "recorded  timer 2" in shown
    assert "made now  activity 'charge' (number 2) at flow.py:24" in shown


def test_exported_files_and_an_ides_debugger(shop: Path) -> None:
    (shop / "done.jsonl").write_text(everlong("export", "done", folder=shop).out)
    (shop / "everlong.db").unlink()
    done = everlong("debug", "done", "flow.py", "done.jsonl", "--no-prompt", folder=shop)
    assert done.code == 0, done.err
    assert "✓ replayed to event" in done.out
    assert everlong("debug", "other", "flow.py", "done.jsonl", folder=shop).code == 4
    assert everlong("debug", "done", "done.jsonl", folder=shop).code == 2, "no code"
    wrong = everlong("debug", "done", "flow.py", "done.jsonl", "--at", "99", folder=shop)
    assert wrong.code == 2
    assert "events" in wrong.err
