"""A client in a process of its own, which does what it is told: one line of JSON in, one out.

    async with other_process(path) as other:
        await other.do("signal", id="order-1", name="approve", value=True)

`serve` starts a worker there, which makes that process the owner of the file. Run as a module, this
file is that process.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from everlong import (
    Client,
    EverlongError,
    Signal,
    Worker,
    WorkflowHandle,
    approval,
    publish,
    workflow,
)

__all__ = [
    "OtherProcess",
    "OtherProcessError",
    "asks_elsewhere",
    "hosted_elsewhere",
    "other_process",
    "publishes_elsewhere",
]

ROOT: Final = Path(__file__).parents[2]

release: Signal[str] = Signal("release", str)


@workflow
async def hosted_elsewhere(name: str) -> str:
    """A workflow that the other process can serve."""
    return f"{name} {await release.receive()}"


@workflow
async def asks_elsewhere() -> str:
    """Asks whether to go on; who answered."""
    return (await approval("Go on?")).by


@workflow
async def publishes_elsewhere() -> int:
    """Publishes what it is told, until it is told to end."""
    while (word := await release.receive()) != "end":
        await publish("words", word)
    return 1


class OtherProcessError(Exception):
    """An error over there: its class and its text."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class OtherProcess:
    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid

    async def do(self, what: str, **arguments: Any) -> Any:
        """Have it done over there; its value, or OtherProcessError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, arguments]).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise OtherProcessError("Died", "the other process has ended")
        ok, value = json.loads(line)
        if not ok:
            raise OtherProcessError(*value)
        return value

    def kill(self) -> None:
        self._process.kill()

    async def ended(self) -> None:
        await self._process.wait()


@asynccontextmanager
async def other_process(path: Path) -> AsyncGenerator[OtherProcess, None]:
    command = [sys.executable, "-m", "tests.support.other_process", str(path)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    try:
        yield OtherProcess(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


# --------------------------------------------------------------------------------- over there


class _Servant:
    def __init__(self, client: Client, stack: AsyncExitStack) -> None:
        self._client = client
        self._stack = stack

    async def pid(self) -> int:
        return os.getpid()

    async def serve(self) -> None:
        await self._stack.enter_async_context(
            Worker(self._client, workflows=[hosted_elsewhere, publishes_elsewhere, asks_elsewhere])
        )

    async def start(self, workflow: str, id: str, **arguments: Any) -> str | None:
        handle: WorkflowHandle[Any] = await self._client.start(workflow, id=id, **arguments)
        return handle.run_id

    async def result(self, id: str) -> Any:
        handle: WorkflowHandle[Any] = self._client.get_handle(id)
        return await handle.result()

    async def signal(self, id: str, name: str, value: Any, request_id: str | None = None) -> None:
        await self._client.get_handle(id).signal(name, value, request_id=request_id)

    async def approve(self, id: str, by: str) -> None:
        await self._client.approve(id, by=by)

    async def query(self, id: str, name: str, timeout: float = 10.0) -> Any:
        return await self._client.get_handle(id).query(name, timeout=timeout)

    async def complete(self, token: str, result: Any) -> None:
        await self._client.complete(token, result)

    async def update(self, id: str, update: str, value: Any) -> Any:
        return await self._client.get_handle(id).update(update, value)

    async def cancel(self, id: str, reason: str) -> None:
        await self._client.get_handle(id).cancel(reason)

    async def terminate(self, id: str, reason: str) -> None:
        await self._client.get_handle(id).terminate(reason)

    async def pause(self, id: str, reason: str) -> None:
        await self._client.get_handle(id).pause(reason=reason)

    async def pause_type(self, type: str) -> int:
        return await self._client.pause(type=type)

    async def resume(self, id: str) -> None:
        await self._client.get_handle(id).resume()

    async def status(self, id: str) -> str:
        return (await self._client.get_handle(id).describe()).status


async def _main(path: str) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client.connect(path))
        servant = _Servant(client, stack)
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, arguments = json.loads(line)
            action: Callable[..., Awaitable[Any]] = getattr(servant, what)
            try:
                reply: Any = [True, await action(**arguments)]
            except EverlongError as error:
                reply = [False, [type(error).__name__, str(error)]]
            print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
