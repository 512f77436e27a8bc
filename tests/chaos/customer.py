"""What a client does while everything around it is killed, itself included.

It works through a plan. Each operation has a request id; before it is sent a line is written and
synced, and behind its answer another one, with the answer. A client that was killed is started
again and repeats what it did not see answered, under the same request id; and now and then it
repeats what was answered, which must give the same answer. Beside that it looks at results and
writes down what it has seen.
"""

# tidy: this file sleeps because clients here send at random moments of real time
import asyncio
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from everlong import (
    Client,
    StoreError,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowTerminated,
)
from tests.chaos import flows

REPEATED: Final = 0.1
"""How often an answered operation is sent once more."""

LOOK_S: Final = 0.2


@dataclass(frozen=True)
class Operation:
    """One thing that a client does. `key` is its request id."""

    key: str
    verb: str
    kind: str
    workflow_id: str
    first: int
    number: int = 0
    """What to signal."""


def plan(seed: int, count: int) -> Iterator[Operation]:
    """The same operations each time, those of one flow in order, other flows started in between."""
    chance = random.Random(seed)
    waiting: list[Operation] = []
    for index in range(count):
        kind = flows.MIX[index % len(flows.MIX)].definition.name
        verbs = flows.MESSAGES.get(kind, ())
        first = index * 100
        name = f"{kind.removeprefix('chaos_')}-{index}"
        yield Operation(f"start-{index}", "start", kind, name, first)
        waiting += [
            Operation(f"{verb}-{index}-{number}", verb, kind, name, first, first + number)
            for number, verb in enumerate(verbs)
        ]
        while waiting and chance.random() < 0.5:
            yield waiting.pop(0)
    yield from waiting


class Customer:
    """One life of a client."""

    def __init__(self, client: Client, log: str, seed: int, count: int, pause_s: float) -> None:
        self._client = client
        self._log = log
        self._plan = list(plan(seed, count))
        self._pause_s = pause_s
        before = lines(log)
        self._tried = {line["key"] for line in before if line["what"] == "tried"}
        self._done = {line["key"] for line in before if line["what"] == "acknowledged"}
        self._seen = {line["key"] for line in before if line["what"] == "seen"}

    async def work(self) -> None:
        """Do what is planned and not acknowledged yet."""
        watching = asyncio.create_task(self._watch())
        for one in self._plan:
            if one.key in self._done or (one.verb == "shout" and one.key in self._tried):
                continue  # A shout has no request id: nobody may repeat it.
            await self._do(one)
            if one.verb != "shout" and random.random() < REPEATED:
                await self._do(one)
            self._done.add(one.key)
            await asyncio.sleep(random.random() * 2 * self._pause_s)
        watching.cancel()
        flows.append(self._log, what="finished", key="")

    async def _do(self, one: Operation) -> None:
        flows.append(self._log, what="tried", key=one.key)
        answer = await self._answer(one)
        now_ns = time.monotonic_ns()
        flows.append(self._log, what="acknowledged", key=one.key, answer=answer, at_ns=now_ns)

    async def _answer(self, one: Operation) -> str | None:
        """Sent until it is answered."""
        while True:
            try:
                return await self._send(one)
            except StoreError:  # The owner was killed with the lock, say: not acknowledged.
                await asyncio.sleep(0.01)

    async def _send(self, one: Operation) -> str | None:
        handle = self._client.get_handle(one.workflow_id)
        match one.verb:
            case "start":
                return await self._start(one, if_open="fail", if_closed="fail")
            case "use":
                return await self._start(one, if_open="use", if_closed="fail")
            case "replace":
                return await self._start(one, if_open="terminate", if_closed="allow")
            case "signal":
                await handle.signal(flows.numbers, one.number, request_id=one.key)
            case "shout":
                await handle.signal(flows.numbers, one.number)
            case "enough":
                await handle.signal(flows.numbers, flows.LAST, request_id=one.key)
            case "cancel":
                await handle.cancel(one.key, request_id=one.key)
            case "terminate":
                try:
                    await handle.terminate(one.key)
                except WorkflowClosed as closed:
                    if closed.status != "terminated":
                        raise
                    # By a request that went unanswered.
            case verb:
                raise ValueError(verb)
        return None

    async def _start(self, one: Operation, **policies: Any) -> str | None:
        kind = "chaos_chain" if one.verb == "replace" else one.kind
        try:
            handle = await self._client.start(
                kind, id=one.workflow_id, request_id=one.key, first=one.first, **policies
            )
        except WorkflowAlreadyStarted:
            return "refused"
        return handle.run_id

    # ----------------------------------------------------------------------------------- results

    async def _watch(self) -> None:
        """Wait for results, one flow at a time, and never for long."""
        while True:
            for name in self._to_be_seen():
                try:
                    async with asyncio.timeout(LOOK_S):
                        answer = await outcome(self._client, name)
                except (TimeoutError, StoreError):
                    continue
                flows.append(self._log, what="seen", key=name, answer=answer)
                self._seen.add(name)
            await asyncio.sleep(LOOK_S)

    def _to_be_seen(self) -> list[str]:
        """Whose result cannot change any more once it is there."""
        begun = {one.workflow_id for one in self._plan if one.key in self._done}
        to_be_replaced = {
            one.workflow_id
            for one in self._plan
            if one.verb == "replace" and one.key not in self._done
        }
        return sorted(begun - to_be_replaced - self._seen)


async def outcome(client: Client, workflow_id: str) -> Any:
    """How an execution ended, as JSON has it."""
    try:
        return await client.get_handle(workflow_id).result()
    except (WorkflowCancelled, WorkflowTerminated) as error:
        return f"{type(error).__name__}: {error.reason}"


def lines(path: str | Path) -> list[dict[str, Any]]:
    """A file of JSON lines; none if it is not there yet."""
    if not Path(path).exists():
        return []
    return parsed(Path(path).read_bytes())


def parsed(data: bytes) -> list[dict[str, Any]]:
    """The whole lines. One that its writer was killed in ends before the next one begins, and
    counts for nothing: it was not synced."""
    found: list[dict[str, Any]] = []
    for line in data[: data.rfind(b"\n") + 1].split(b"\n"):
        try:
            if line:
                found.append(json.loads(line))
        except ValueError:
            continue
    return found
