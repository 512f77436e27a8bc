"""A process that hosts, asks and verifies a store, and tells what that took.

    python -m tests.hostile.child STORE

Says as JSON how much memory it held at most, and which modules and processes it began meanwhile.
"""

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

from everlong import Client
from everlong.exceptions import EverlongError
from tests.hostile import specimen

_BEGINS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")


async def _ask(client: Client) -> None:
    for name in ("victim", "retrying"):
        handle = client.get_handle(name)
        for ask in (handle.describe, handle.history):
            try:
                await ask()
            except EverlongError:
                continue


async def _all(path: Path) -> int:
    await specimen.everything_goes_on(path, _ask, workers=2)
    async with Client.connect(path) as client:
        return len(await client.verify())


def _most_mib() -> int:
    """What this process held at most. `getrusage` would count what its parent held when it began
    it, which hides everything below."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024


def main() -> None:
    path = Path(sys.argv[1])
    if len(sys.argv) > 2:  # A store of its own first: then everything is imported.
        asyncio.run(_all(Path(sys.argv[2])))
    begun: list[str] = []

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import":
            begun.append(f"import {arguments[0]}")
        elif event in _BEGINS:
            begun.append(f"{event} {arguments!r:.100}")

    sys.addaudithook(audit)
    problems = asyncio.run(_all(path))
    seen = list(begun)
    print(json.dumps({"problems": problems, "mib": _most_mib(), "begun": seen}))


if __name__ == "__main__":
    main()
