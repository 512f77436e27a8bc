"""The programs that play in the arena: worker and client, and the nursery that forks them.

Importing costs a third of a second, and a test kills dozens of workers. So one process imports
everything and then forks a child for each role, which is a process as any other from then on. It is
told what to do by lines on its standard input; when that ends, it kills what it started.

    python -m tests.chaos.cast
"""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from everlong import Client, Worker
from tests.chaos import burst, flows
from tests.chaos.customer import Customer

# ------------------------------------------------------------------------------------ the worker


async def work(db: str, variant: str = "first", **options: Any) -> None:
    """Host every flow until the end."""
    flows.variant = variant
    async with Client.connect(db) as client, Worker(client, **options):
        flows.note(what="ready", pid=os.getpid())
        await asyncio.Event().wait()


async def work_until_told(db: str, **options: Any) -> None:
    """Host every flow, and stop in order at SIGTERM."""
    async with Client.connect(db) as client:
        await Worker(client, **options).run()


async def hold_the_lock(db: str) -> None:
    """Any process that stands in the middle of a transaction."""
    async with Client.connect(db):
        pass
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        flows.note(what="locked", pid=os.getpid())
        await asyncio.Event().wait()


# ------------------------------------------------------------------------------------ the client


async def send(db: str, log: str, seed: int, count: int, pause_s: float) -> None:
    """A client without a worker: all that it does goes through the file."""
    async with Client.connect(db) as client:
        await Customer(client, log, seed, count, pause_s).work()


async def host_and_send(db: str, log: str, seed: int, count: int, pause_s: float) -> None:
    """Client and worker in one process, as in a program that embeds both."""
    async with Client.connect(db) as client, Worker(client):
        flows.note(what="ready", pid=os.getpid())
        await Customer(client, log, seed, count, pause_s).work()
        await asyncio.Event().wait()


# ----------------------------------------------------------------------------------- the nursery

ROLES: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "work": work,
    "work_until_told": work_until_told,
    "hold_the_lock": hold_the_lock,
    "send": send,
    "host_and_send": host_and_send,
    **burst.ROLES,
}


def nurse() -> None:
    """Fork a child for every line of input; answer with its process id."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The dead need no burial.
    children: list[int] = []
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            play(**json.loads(line))
        children.append(child)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)


def play(role: str, output: str, **options: Any) -> None:
    """Be that process, in a group of its own, and never return."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for number in (1, 2):
            os.dup2(file, number)
        os.close(0)
        asyncio.run(ROLES[role](**options))
        code = 0
    except BaseException as error:
        flows.append(output, error=type(error).__name__, text=str(error))
    finally:
        os._exit(code)


if __name__ == "__main__":
    nurse()
