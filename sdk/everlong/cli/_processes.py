"""`everlong worker --processes N`: workers in processes of their own, for all cores of a machine.

One that dies is followed by another one, and the runs that it had go on wherever there is room. The
parent hosts nothing itself. Its children end in order when it is told to stop, and also when it is
killed: each holds the end of a pipe, and hears it close.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from typing import Any, Final

from everlong.cli._exits import ExitCode

__all__ = ["Processes", "end_with_parent"]

SUPERVISED: Final = "EVERLONG_SUPERVISED"
_COMMAND: Final = "import sys; from everlong.cli import main; sys.exit(main())"
_AGAIN_S: Final = 1.0
_AGAIN_S_MAX: Final = 30.0
_KILL_S: Final = 20.0
"""What a child gets beyond its own time to stop, before it is killed."""


def end_with_parent() -> None:
    """In a child: stop in order when the parent is not there any more. Nothing in other workers."""
    if os.environ.pop(SUPERVISED, None) is None:
        return

    def wait() -> None:
        # Not by `sys.stdin`, whose lock would be held when the process ends.
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="everlong-parent", daemon=True).start()


class Processes:
    """The children of one parent.

    Args:
        arguments: of each, behind the command and its name.
        environment: what they are told beside it: a password is not for a list of processes.
        say: tells people what happens.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        *,
        name: str | None,
        stop_timeout_s: float,
        say: Callable[[str], None],
        quiet: bool,
    ) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, **environment, SUPERVISED: "1"}
        self._name = name
        self._patience_s = stop_timeout_s + _KILL_S
        self._say = say
        self._quiet = quiet
        self._children: dict[int, Process] = {}
        self._stop = asyncio.Event()
        self._code = int(ExitCode.OK)

    async def serve(self, count: int, ready: Callable[[list[str]], None]) -> int:
        """Until SIGTERM or SIGINT. `ready` gets what each says of itself, once all have begun.

        Returns:
            The exit code: that of a child that could not begin at all, or did not end in order.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        begun: list[asyncio.Future[str]] = [loop.create_future() for _ in range(count)]
        keepers = [loop.create_task(self._keep(n, one)) for n, one in enumerate(begun, 1)]
        all_begun = asyncio.gather(*begun, return_exceptions=True)
        all_ended = asyncio.gather(*keepers)
        either: list[asyncio.Future[Any]] = [all_begun, all_ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if all_begun.done() and not self._stop.is_set():
            ready([one.result() for one in begun])
        await all_ended
        for one in begun:
            one.cancel()
        return self._code

    def _end(self) -> None:
        """The first signal asks them to end in order, the second at once."""
        self._stop.set()
        for child in self._children.values():
            if child.returncode is None:
                child.terminate()

    async def _keep(self, number: int, begun: "asyncio.Future[str]") -> None:
        """One child after the other, until all are to end."""
        again_s = _AGAIN_S
        while not self._stop.is_set():
            child = await self._begin(number)
            said = await _document(child)
            if said is not None and "error" not in json.loads(said):
                again_s = _AGAIN_S
                if not begun.done():
                    begun.set_result(said)
            code = await self._ended(child)
            if self._stop.is_set():
                self._code = self._code or code
                return
            if not begun.done():  # Another one would fare no better.
                self._code = code or ExitCode.PROBLEM
                self._end()
                return
            self._say(f"process {child.pid} ended with {code}; another one begins")
            await self._rest(again_s)
            again_s = min(again_s * 2, _AGAIN_S_MAX)

    async def _begin(self, number: int) -> Process:
        names = [] if self._name is None else ["--name", f"{self._name}-{number}"]
        # A session of its own: Ctrl-C at a terminal reaches the parent, which tells them once.
        child = self._children[number] = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _COMMAND,
            "worker",
            "--json",
            *names,
            *self._arguments,
            env=self._environment,
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,
        )
        if self._stop.is_set():
            child.terminate()
        return child

    async def _ended(self, child: Process) -> int:
        """How it ended; what it prints until then is handed on."""
        stopping = asyncio.ensure_future(self._stop.wait())
        passing = asyncio.ensure_future(self._pass_on(child))
        waiting = asyncio.ensure_future(child.wait())
        await asyncio.wait([stopping, waiting], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([waiting], timeout=self._patience_s)
        if not waiting.done():
            self._say(f"process {child.pid} does not stop; it is killed")
            child.kill()
        code = await waiting
        stopping.cancel()
        passing.cancel()
        await asyncio.wait([stopping, passing])
        return code if code >= 0 else 128 - code

    async def _pass_on(self, child: Process) -> None:
        """What user code prints; a pipe that nobody reads would stop it."""
        assert child.stdout is not None
        stream = sys.stderr if self._quiet else sys.stdout
        while piece := await child.stdout.read(65_536):
            stream.buffer.write(piece)
            stream.buffer.flush()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return


async def _document(child: Process) -> str | None:
    """What it says when it is ready, a document; None if it ended before."""
    assert child.stdout is not None
    lines: list[bytes] = []
    while line := await child.stdout.readline():
        lines.append(line)
        if line == b"}\n":
            return b"".join(lines).decode()
    return None
