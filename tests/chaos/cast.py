"""The programs that play in the arena: worker and client, and the nursery that forks them.

Importing costs a third of a second, and a test kills dozens of workers. So one process imports
everything and then forks a child for each role, which is a process as any other from then on. It is
told what to do by lines on its standard input; when that ends, it kills what it started.

    python -m tests.chaos.cast
"""

# tidy: this file sleeps because clients here send at random moments of real time
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlong import Client, StoreError, Worker
from tests.chaos import flows

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


# ------------------------------------------------------------------------------------ the client


@dataclass(frozen=True)
class Operation:
    """One thing that a client does. `key` is its request id."""

    key: str
    kind: str
    workflow_id: str
    first: int
    number: int | None = None
    """What to signal; None for a start."""


def plan(seed: int, count: int) -> Iterator[Operation]:
    """The same operations each time, signals in order, other flows started in between."""
    chance = random.Random(seed)
    waiting: list[Operation] = []
    for index in range(count):
        kind = flows.MIX[index % len(flows.MIX)].definition.name
        first = index * 100
        name = f"{kind.removeprefix('chaos_')}-{index}"
        yield Operation(f"start-{index}", kind, name, first)
        if kind in ("chaos_listener", "chaos_roller"):
            waiting += [
                Operation(f"signal-{index}-{number}", kind, name, first, first + number)
                for number in range(flows.LISTENED)
            ]
        while waiting and chance.random() < 0.5:
            yield waiting.pop(0)
    yield from waiting


async def send(db: str, log: str, seed: int, count: int, pause_s: float) -> None:
    """Do what is planned and not acknowledged yet, and log each acknowledgement behind it.

    A client that was killed is started again and repeats what it does not know to be done, with the
    same request ids.
    """
    done = {line["key"] for line in lines(log) if line["what"] == "acknowledged"}
    async with Client.connect(db) as client:
        for one in plan(seed, count):
            if one.key in done:
                continue
            flows.append(log, what="tried", key=one.key)
            while True:
                try:
                    await _do(client, one)
                    break
                except StoreError:  # The owner was killed with the lock, say: not acknowledged.
                    await asyncio.sleep(0.01)
            flows.append(log, what="acknowledged", key=one.key)
            await asyncio.sleep(random.random() * 2 * pause_s)
    flows.append(log, what="finished", key="")


async def _do(client: Client, one: Operation) -> None:
    if one.number is None:
        await client.start(
            one.kind,
            id=one.workflow_id,
            request_id=one.key,
            if_open="fail",
            if_closed="fail",
            first=one.first,
        )
    else:
        handle = client.get_handle(one.workflow_id)
        await handle.signal(flows.numbers, one.number, request_id=one.key)


def lines(path: str | Path) -> list[dict[str, Any]]:
    """A file of JSON lines; none if it is not there yet."""
    if not Path(path).exists():
        return []
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


# ----------------------------------------------------------------------------------- the nursery

ROLES: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "work": work,
    "work_until_told": work_until_told,
    "send": send,
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
