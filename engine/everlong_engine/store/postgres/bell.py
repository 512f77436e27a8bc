"""A hint that something was left for other processes: NOTIFY, over a connection of its own.

Nothing rests on it: whoever hears looks a little sooner, and whoever does not looks by the clock.
It is rung behind a commit, never in it (a commit with a NOTIFY takes a lock that all of the server
share), and however much is left, no more than twenty times a second.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from asyncpg import exceptions as pg

from everlong_engine.model.errors import StoreError
from everlong_engine.store.postgres.address import Address
from everlong_engine.store.postgres.connection import AWAY, CONNECT_S, connect
from everlong_engine.store.postgres.statements import Connection

__all__ = ["Bell"]

logger = logging.getLogger("everlong")

_CHANNEL: Final = "everlong"
_LEAST_S: Final = 0.05
_AGAIN_S: Final = 5.0
_LAST_S: Final = 1.0
"""How long a process that ends waits for what it has left to be told."""


class Bell:
    """Rings for others, and hears them. Not at all, where there is no direct way to the server."""

    def __init__(self, address: Address) -> None:
        self._address = None if address.listen_dsn is None else address.direct
        self._heard: Callable[[], None] | None = None
        self._listens = False
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._stir = asyncio.Event()
        self._rings = False
        self._told = asyncio.Event()
        self._told.set()

    def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` whenever another process has rung."""
        self._heard = heard
        self._serve()

    def ring(self) -> None:
        """Something was committed that others should look at."""
        if self._address is not None:
            self._rings = True
            self._told.clear()
            self._serve()

    async def close(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await self._told.wait()
        self._address = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._connection is not None:
            self._connection.terminate()

    def _serve(self) -> None:
        self._stir.set()
        if self._address is not None and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run(self._address))

    async def _run(self, address: Address) -> None:
        while True:
            try:
                await self._once(await self._open(address))
            except (*AWAY, pg.PostgresError, StoreError) as error:
                # Those who would hear it look by the clock.
                logger.debug("no hints for now: %s", error)
                self._told.set()
                await asyncio.sleep(_AGAIN_S)

    async def _open(self, address: Address) -> Connection:
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = self._connection = await connect(address)
            self._listens = False
            connection.add_termination_listener(lambda _: self._stir.set())
        if self._heard is not None and not self._listens:
            await connection.add_listener(_CHANNEL, self._hear)
            self._listens = True
            self._heard()  # What came before there was anybody to hear it.
        return connection

    async def _once(self, connection: Connection) -> None:
        """Ring, if that is wanted, and wait until there is something to do."""
        self._stir.clear()
        if self._rings:
            self._rings = False
            await connection.execute(f"NOTIFY {_CHANNEL}", timeout=CONNECT_S)
            if not self._rings:
                self._told.set()
            await asyncio.sleep(_LEAST_S)
        elif not connection.is_closed():
            await self._stir.wait()

    def _hear(self, connection: Any, pid: int, _channel: str, _payload: Any) -> None:
        if self._heard is not None and pid != connection.get_server_pid():
            self._heard()
