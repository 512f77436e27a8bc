"""A process that was told to go: it leaves, whatever its flows and activities do."""

import signal
import subprocess
from pathlib import Path
from typing import IO, Final

from tests.support.command_line import begin, everlong

FLOWS: Final = """
import threading
from pathlib import Path
from everlong import activity, workflow

@activity
def never_ends() -> None:
    Path("begun").touch()
    threading.Event().wait()

@workflow
async def stuck() -> None:
    await never_ends()

@activity
def begins() -> None:
    Path("begun").touch()

@workflow
async def busy() -> None:
    await begins()
    while True:
        pass
"""


def test_a_thread_that_never_ends_does_not_keep_a_stopped_worker_alive(tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text(FLOWS, "utf-8")
    everlong("start", "stuck", "--id", "stuck", folder=tmp_path)
    process = begin("worker", "flows.py", "--stop-timeout", "0.2", folder=tmp_path)
    _until_begun(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=15)
    assert process.returncode == 0
    shown = everlong("show", "stuck", "--json", folder=tmp_path).document
    assert (shown["status"], shown["owner"]) == ("running", None)


def test_the_second_ctrl_c_ends_a_run_whose_flow_never_gives_way(tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text(FLOWS, "utf-8")
    process = begin("run", "flows.py:busy", folder=tmp_path, errors=subprocess.PIPE)
    _until_begun(tmp_path, process)
    assert process.stderr is not None
    _wait_for_silence(process.stderr)
    process.send_signal(signal.SIGINT)
    everlong("--version", folder=tmp_path)  # Takes its time.
    assert process.poll() is None, "nothing in order can happen any more"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert process.returncode == 130


def _until_begun(folder: Path, process: "subprocess.Popen[str]") -> None:
    while not (folder / "begun").exists():
        assert process.poll() is None
        everlong("--version", folder=folder)  # Takes its time.


def _wait_for_silence(lines: IO[str]) -> None:
    """The step has been told; the next thing is the loop without an end."""
    for line in lines:
        if "begins" in line or "starts" in line:
            return
