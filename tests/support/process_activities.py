"""Activities for a pool of processes: those must be importable by name in a fresh interpreter."""

import os
import signal
import time
from pathlib import Path

from everlong import ActivityInfo, ApplicationError, activity, complete_later, heartbeat, info


@activity(process=True)
def pid_of_pool() -> int:
    return os.getpid()


@activity(process=True)
def unstorable_in_pool() -> object:
    return object()


@activity(process=True)
def declined_in_pool(reason: str) -> None:
    raise ApplicationError(reason, details={"pid": os.getpid()}, retryable=False)


@activity(process=True)
def counts_in_pool() -> list[object]:
    """Leaves a detail behind and fails once."""
    attempt = info(ActivityInfo)
    heartbeat("reached 7")
    if attempt.attempt == 1:
        time.sleep(0.1)  # tidy: waits because the beat must arrive before the failure
        raise RuntimeError("first attempt")
    return [attempt.attempt, attempt.heartbeat_details, attempt.idempotency_key]


@activity(process=True)
def held_in_pool(folder: str, name: str) -> int:
    """Says which process it is in, and goes on until it may end. Which attempt it was."""
    attempt = info(ActivityInfo).attempt
    Path(folder, f"{name}-{attempt}").write_text(f"{os.getpid()}\n")
    while not Path(folder, f"{name}-may-end").exists():
        time.sleep(0.005)  # tidy: waits because a file is all that reaches another process
    return attempt


@activity(process=True)
def dies_in_pool(folder: str) -> None:
    """As code does that the system kills."""
    attempt = info(ActivityInfo).attempt
    Path(folder, f"death-{attempt}").touch()
    os.kill(os.getpid(), signal.SIGKILL)


@activity(process=True)
def hand_out(file: str) -> int:
    """Leaves its token in a file, and goes."""
    whole = Path(f"{file}.part")
    whole.write_text(info(ActivityInfo).token)
    whole.rename(file)
    complete_later()
