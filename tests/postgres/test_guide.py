"""The guide from one file to many machines does what it says, on a real server."""

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Final

from tests.docs.test_docs_run import ROOT, blocks, commands, shell, shows
from tests.support.command_line import begin, worker_ready
from tests.support.postgres_server import fresh_database

PAGE: Final = ROOT / "docs" / "guides" / "many-machines.md"
WORKER: Final = "everlong worker trips.py"
SHOWN_PID: Final = "4711"
LOOKS_MAX: Final = 200


async def test_two_workers_share_a_server_and_one_ends_what_the_killed_one_had(
    tmp_path: Path,
) -> None:
    url = await fresh_database()
    page = blocks(PAGE)
    (code,) = [one for one in page if one.says == "trips.py"]
    (tmp_path / code.says).write_text(code.text)
    shown = [two for one in page[1:] if one.language == "console" for two in commands(one.text)]
    begun: dict[str, subprocess.Popen[str]] = {}
    try:
        for command, expected in shown:
            if command.startswith(WORKER):
                name = command.rpartition(" ")[2]
                line = [*command.split()[1:], "--json", "--db", url]
                begun[name] = begin(*line, folder=tmp_path)
                assert worker_ready(begun[name])["name"] == name
                continue
            pid = str(begun["one"].pid)
            printed = ""
            real = command.replace(SHOWN_PID, pid)
            for _ in range(LOOKS_MAX):  # What is shown is so a moment later.
                printed = await asyncio.to_thread(_typed, real, tmp_path, url)
                if shows(printed, expected.replace(SHOWN_PID, pid)):
                    break
            else:
                raise AssertionError(f"$ {command}\n{printed}")
            if command.startswith("kill"):
                begun["one"].wait()
    finally:
        for process in begun.values():
            process.kill()
            process.communicate()
    assert set(begun) == {"one", "two"}


def _typed(command: str, folder: Path, url: str) -> str:
    if command.startswith("kill"):  # One of the shell's own.
        os.kill(int(command.split()[-1]), 9)
        return ""
    return shell(f"{command} --db {url}", folder)
