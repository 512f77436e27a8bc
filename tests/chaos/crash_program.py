"""A short program with one of everything, which is cut off at each write and sync in turn.

It starts flows, hosts them, signals, cancels, terminates and waits for results, and writes down
each answer. Run again on the same store, it repeats what it did not write down, with the same
request ids: so it also is what a client does after a crash.

What it writes down goes through `O_DSYNC`: durable when `write` returns, and with none of the
system calls that SQLite uses, so that a count of those is a count of SQLite's own.

    python -m tests.chaos.crash_program STORE LEDGER
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from everlong import (
    Client,
    Retry,
    Signal,
    Worker,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowTerminated,
    activity,
    continue_as_new,
    info,
    workflow,
)

word = Signal("crash_word", str)


def note(**facts: Any) -> None:
    """Where `CRASH_LEDGER` says."""
    file = os.open(
        os.environ["CRASH_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_DSYNC, 0o644
    )
    try:
        os.write(file, json.dumps(facts).encode() + b"\n")
    finally:
        os.close(file)


def noted(path: str | Path, what: str) -> list[dict[str, Any]]:
    if not Path(path).exists():
        return []
    found = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return [line for line in found if line["what"] == what]


# ------------------------------------------------------------------------------------- the flows


@activity(name="crash_effect", retry=Retry(delay=0.001))
async def effect(value: str) -> str:
    me = info()
    note(what="begin", run=me.run_id, activity=me.activity_id, attempt=me.attempt)
    return value


@workflow(name="crash_everything")
async def everything(got: tuple[str, ...] = ()) -> list[str]:
    """An activity, a timer, a signal and another activity; then once more in a new run."""
    got = (*got, await effect(f"step {len(got)}"))
    await asyncio.sleep(0.005)
    got = (*got, await effect(await word.receive()))
    if len(got) < 4:
        continue_as_new(got=got)
    return list(got)


@workflow(name="crash_waits")
async def waits() -> None:
    """Waits until it is cancelled, and tidies up."""
    try:
        await word.receive()
    finally:
        await effect("tidied up")


WORKFLOWS = (everything, waits)
EXPECTED: dict[str, Any] = {
    "everything": ["step 0", "one", "step 2", "two"],
    "cancelled": "WorkflowCancelled: enough",
    "terminated": "WorkflowTerminated: at once",
}

# ------------------------------------------------------------------------------------ the client


async def do_all(client: Client, answers: str) -> None:
    """Everything that is not answered yet, in order."""
    done = {line["key"] for line in noted(answers, "answer")}
    everything_ = client.get_handle("everything", everything)
    cancelled, terminated = client.get_handle("cancelled"), client.get_handle("terminated")

    async def terminate() -> str:
        try:
            await terminated.terminate("at once")
        except WorkflowClosed:  # By the request that went unanswered.
            return "closed"
        return "terminated"

    plan: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
        ("start-everything", lambda: _start(client, "crash_everything", "everything")),
        ("signal-1", lambda: everything_.signal(word, "one", request_id="signal-1")),
        ("start-cancelled", lambda: _start(client, "crash_waits", "cancelled")),
        ("cancel", lambda: cancelled.cancel("enough", request_id="cancel")),
        ("start-terminated", lambda: _start(client, "crash_waits", "terminated")),
        ("terminate", terminate),
        ("signal-2", lambda: everything_.signal(word, "two", request_id="signal-2")),
        ("see-everything", lambda: outcome(client, "everything")),
        ("see-cancelled", lambda: outcome(client, "cancelled")),
        ("see-terminated", lambda: outcome(client, "terminated")),
    ]
    for key, operation in plan:
        if key not in done:
            note(what="answer", key=key, answer=await operation())


async def _start(client: Client, kind: str, name: str) -> str | None:
    handle = await client.start(
        kind, id=name, request_id=f"start-{name}", if_open="fail", if_closed="fail"
    )
    return handle.run_id


async def outcome(client: Client, name: str) -> Any:
    try:
        return await client.get_handle(name).result()
    except (WorkflowCancelled, WorkflowTerminated) as error:
        return f"{type(error).__name__}: {error.reason}"


async def play(store: str | Path, path: str | Path) -> None:
    os.environ["CRASH_LEDGER"] = str(path)
    async with Client.connect(store) as client, Worker(client, workflows=WORKFLOWS):
        await do_all(client, str(path))


if __name__ == "__main__":
    asyncio.run(play(sys.argv[1], sys.argv[2]))
