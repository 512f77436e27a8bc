"""Which workers are really there.

A worker that was killed says nothing; its row stands until the next one takes over. So a process of
this machine is looked up as well.
"""

import os
import socket
from collections.abc import Sequence

from everlong_engine import WorkerRow

__all__ = ["hosting", "is_there"]


def is_there(worker: WorkerRow) -> bool:
    """Whether it is not known to be dead. A worker on another machine is believed."""
    if worker.dead:
        return False
    if worker.host != socket.gethostname():
        return True
    try:
        os.kill(worker.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def hosting(workers: Sequence[WorkerRow], kind: str) -> list[str]:
    """The names of those that are there and host a type of workflow."""
    return [one.name for one in workers if kind in one.types and is_there(one)]
