"""Fresh processes: each measurement has one, so that none inherits another's heap or caches.

The protocol is the same for Everlong and for peers: a command is given a folder and a size, and
prints its figures as a JSON object on its last line. The harness starts it as the leader of a
process group and kills what is left of that group, and nothing else, when it is done.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path

from benchmarks._catalogue import Figures

TIMEOUT_S = 600.0

_TAIL_LINES = 25


class MeasurementFailed(Exception):
    """A measuring process failed; what it said last is in the message."""


def role_command(role: str, folder: Path, size: int) -> list[str]:
    """The command that plays `role`: "recovery.work" is `work` in benchmarks/recovery.py."""
    return [sys.executable, "-m", "benchmarks._child", role, str(folder), str(size)]


def measure_alone(command: Sequence[str], folder: Path) -> Figures:
    """Run a command to its end as the leader of its own process group, and take its figures."""
    log = folder / "stderr.log"
    with log.open("wb") as errors:
        leader = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    late = threading.Timer(TIMEOUT_S, os.killpg, (leader.pid, signal.SIGKILL))
    late.start()
    try:
        output = _read_to_the_end(leader)
    finally:
        late.cancel()
        _end_group(leader)
    if leader.returncode != 0:
        raise MeasurementFailed(_story(command, leader.returncode, log))
    return figures_of(output)


async def start_role(role: str, folder: Path, size: int) -> Process:
    """Start a further process of the same measurement, in the same process group."""
    return await asyncio.create_subprocess_exec(
        *role_command(role, folder, size), stdout=asyncio.subprocess.PIPE
    )


async def finish(process: Process) -> Figures:
    """Wait for the end of such a process and take its figures."""
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise MeasurementFailed(f"a child ended with exit status {process.returncode}")
    return figures_of(output)


def print_figures(figures: Figures) -> None:
    print(json.dumps(figures), flush=True)


def figures_of(output: bytes) -> Figures:
    found: Figures = json.loads(output.splitlines()[-1])
    return found


def _read_to_the_end(leader: subprocess.Popen[bytes]) -> bytes:
    """Wait for the exit without reaping, so that the number of the group stays ours."""
    assert leader.stdout is not None
    output = leader.stdout.read()
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    return output


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # only the zombie is left
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
    if leader.stdout is not None:
        leader.stdout.close()


def _story(command: Sequence[str], status: int, log: Path) -> str:
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join([f"exit status {status}: {' '.join(command)}", *tail])
