"""A broker of the tests' own: a folder, a port, a process group."""

# tidy: this file sleeps because it waits for another process, which offers nothing but a port
import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from tests.support.orphans import die_with_parent

__all__ = ["BrokerProcess", "broker_process"]

_PATIENCE_S: Final = 30.0


class BrokerProcess:
    def __init__(self, command: Callable[[int, Path], list[str]], folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._command = command(self.port, folder)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Returns once it takes connections."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - in the child: one call into the kernel
            )
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    def end(self) -> None:
        """As an operator does, so that nothing is lost that it holds in memory."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE_S)
            self.kill()

    def kill(self) -> None:
        """With -9, and whatever it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@asynccontextmanager
async def broker_process(
    command: Callable[[int, Path], list[str]], folder: Path
) -> AsyncGenerator[BrokerProcess, None]:
    """`command` is given the port and the folder for its data."""
    process = BrokerProcess(command, folder)
    try:
        await process.start()
        yield process
    finally:
        process.kill()
