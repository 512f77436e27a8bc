"""Where a measurement keeps its store: a file in its folder, or a database on a server.

With `--url` each measurement has a database of its own, made and dropped on that server; its URL
lies in the folder, where every process of the measurement finds it, and the peer's too.
"""

import asyncio
import os
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")

_NOTE = "store.url"
_numbers = count(1)


def store(folder: Path) -> str:
    """What a client connects to."""
    note = folder / _NOTE
    return note.read_text("utf-8") if note.exists() else str(folder / "everlong.db")


@contextmanager
def database(folder: Path, server: str | None) -> Generator[str | None]:
    """A database for what is measured in `folder`, gone at the end; None: a file will do."""
    if server is None:
        yield None
        return
    name = f"everlong_bench_{os.getpid()}_{next(_numbers)}"
    url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    _execute(server, f"CREATE DATABASE {name}")
    try:
        (folder / _NOTE).write_text(url, "utf-8")
        yield url
    finally:
        _execute(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def server_version(server: str) -> str:
    return str(_run(_ask(server, "SHOW server_version")))


def _execute(server: str, text: str) -> None:
    _run(_ask(server, text))


async def _ask(server: str, text: str) -> object:
    import asyncpg

    connection = await asyncpg.connect(server)
    try:
        return await connection.fetchval(text)
    finally:
        await connection.close()


def _run(work: Awaitable[T]) -> T:
    async def wait() -> T:
        return await work

    return asyncio.run(wait())
