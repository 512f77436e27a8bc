"""What a process does until a fault ends it: client and worker in one, one operation at a time.

It starts flows and signals them, in an order that a seed decides, and logs each acknowledgement
outside of the store, synced, before it does the next thing. What the log says was acknowledged must
be there, whatever happened to the disk; the log also says when the store was let go. The process
ends by itself when everything has come to its end, or with the store's error.

Here are also the roles that look at a store that may be damaged.
"""

# tidy: this file sleeps because it tries again when a store refuses, which nothing tells the end of
import asyncio
import ctypes
import errno
import os
import random
import resource
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from everlong import Client, EverlongError, StoreError, Worker, WorkflowNotFound
from tests.chaos import flows
from tests.chaos.customer import lines

__all__ = ["ROLES", "Step", "steps"]

KINDS: Final = (
    flows.chain,
    flows.fan,
    flows.patient,
    flows.stubborn,
    flows.careful,
    flows.listener,
    flows.roller,
)
SIGNALLED: Final = ("chaos_listener", "chaos_roller")
PATIENCE_S: Final = 20.0


@dataclass(frozen=True)
class Step:
    """One operation; `key` is its request id."""

    key: str
    kind: str
    workflow_id: str
    first: int
    number: int | None = None
    """What to signal; None for a start."""


def steps(seed: int, count: int) -> Iterator[Step]:
    """The same each time, signals in order, other flows started in between."""
    chance = random.Random(seed)
    waiting: list[Step] = []
    for index in range(count):
        kind = KINDS[index % len(KINDS)].definition.name
        first = index * 100
        name = f"{kind.removeprefix('chaos_')}-{index}"
        yield Step(f"start-{index}", kind, name, first)
        if kind in SIGNALLED:
            waiting += [
                Step(f"signal-{index}-{number}", kind, name, first, first + number)
                for number in range(flows.LISTENED)
            ]
        while waiting and chance.random() < 0.5:
            yield waiting.pop(0)
    yield from waiting


async def live(
    db: str,
    log: str,
    seed: int,
    count: int,
    pause_s: float = 0.0,
    durability: Any = "full",
    die_with_the_store: bool = False,
    file_bytes_max: int | None = None,
    faults: Mapping[str, float] | None = None,
) -> None:
    """Until everything planned is done, or the store is let go."""
    if file_bytes_max is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, resource.RLIM_INFINITY))
    if faults:
        break_calls(faults, seed=os.getpid())
    async with Client.connect(db, durability=durability) as client, Worker(client):
        _note_failure(client, log, die=die_with_the_store)
        done = {line["key"] for line in lines(log) if line["what"] == "acknowledged"}
        for step in steps(seed, count):
            if step.key not in done:
                await _take(client, log, step)
                await asyncio.sleep(random.random() * 2 * pause_s)
        flows.append(log, what="finished", key="")
        for step in steps(seed, count):
            if step.number is None:
                await client.get_handle(step.workflow_id).result()
        flows.append(log, what="done", key="")


def break_calls(faults: Mapping[str, float], seed: int) -> None:
    """Let calls of the C library fail in this process with EIO, each kind by its own chance.

    The nursery must have been started by fiu-run. Points: see libfiu's posix modules.
    """
    library = ctypes.CDLL("libfiu.so.0")
    library.fiu_set_prng_seed(ctypes.c_uint(seed))
    for point, chance in faults.items():
        code = library.fiu_enable_random(
            point.encode(), 1, ctypes.c_void_p(errno.EIO), 0, ctypes.c_float(chance)
        )
        assert code == 0, point


def _note_failure(client: Client, log: str, *, die: bool) -> None:
    """In the log when the store is let go; what is acknowledged later stands behind it."""
    commits = client.engine.commits
    tell = commits.on_failed

    def failed(error: StoreError) -> None:
        flows.append(log, what="failed", key="", error=str(error))
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        if tell is not None:
            tell(error)

    commits.on_failed = failed


async def _take(client: Client, log: str, step: Step) -> None:
    """Until it is acknowledged; what was not is asked again under the same request id."""
    flows.append(log, what="tried", key=step.key)
    while True:
        try:
            await _ask(client, step)
            break
        except StoreError as error:
            if client.engine.commits.failed is not None:
                raise  # For good, in this process.
            flows.append(log, what="refused", key=step.key, error=type(error).__name__)
            await asyncio.sleep(0.01)
    flows.append(log, what="acknowledged", key=step.key)


async def _ask(client: Client, step: Step) -> None:
    if step.number is not None:
        handle = client.get_handle(step.workflow_id)
        await handle.signal(flows.numbers, step.number, request_id=step.key)
        return
    await client.start(
        step.kind,
        id=step.workflow_id,
        request_id=step.key,
        if_open="fail",
        if_closed="fail",
        first=step.first,
    )


# -------------------------------------------------------------------------- examining what is left


async def examine(db: str, report: str) -> None:
    """Open a store that may be damaged, say what `verify` thinks of it, and use it."""
    facts: dict[str, Any] = {"what": "examined", "problems": [], "acknowledged": False}
    try:
        async with asyncio.timeout(PATIENCE_S), Client.connect(db, create=False) as client:
            facts["problems"] = [problem.text for problem in await client.verify()]
            await client.start(flows.chain, 1, id="after", request_id="after")
            facts["acknowledged"] = True
    except EverlongError as error:
        facts["error"] = type(error).__name__
    flows.append(report, **facts)


async def look_again(db: str, report: str) -> None:
    """Whether what was acknowledged by `examine` is there."""
    facts: dict[str, Any] = {"what": "again", "found": True}
    try:
        async with asyncio.timeout(PATIENCE_S), Client.connect(db, create=False) as client:
            await client.get_handle("after").describe()
    except WorkflowNotFound:
        facts["found"] = False
    except EverlongError as error:
        facts["error"] = type(error).__name__
    flows.append(report, **facts)


ROLES: Final[dict[str, Callable[..., Coroutine[Any, Any, None]]]] = {
    "live": live,
    "examine": examine,
    "look_again": look_again,
}
