"""What reads a store and changes nothing in it: a file without an engine, a server with one."""

import asyncio
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from everlong.client import Client
from everlong_engine import Engine, LoadedRun, Onlooker, RunFilter, RunRow

__all__ = ["Look", "looking"]

_PAGE: Final = 1_000


class Look(Protocol):
    def runs(self, wanted: RunFilter) -> Iterator[RunRow]:
        """Those that are wanted, the newest first."""
        ...

    def load(self, row: RunRow) -> LoadedRun | None:
        """A run as it stands now; None when it went meanwhile."""
        ...


@contextmanager
def looking(client: Client) -> Generator[Look]:
    """At the store of a client, which is not open. Between its calls no event loop runs, so that
    workflows' code can be driven."""
    if isinstance(client.path, Path):
        with Onlooker(client.path) as store:
            yield store
        return
    with asyncio.Runner() as runner:
        runner.run(client.__aenter__())
        try:
            yield _Server(runner, client.engine)
        finally:
            runner.run(client.__aexit__(None, None, None))


class _Server:
    def __init__(self, runner: asyncio.Runner, engine: Engine) -> None:
        self._run = runner.run
        self._store = engine.store

    def runs(self, wanted: RunFilter) -> Iterator[RunRow]:
        after: bytes | None = None
        while True:
            rows = self._run(self._store.list_runs(wanted, _PAGE, after))
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1].run_id

    def load(self, row: RunRow) -> LoadedRun | None:
        return self._run(self._store.load(row.shard, row.run_id))
