"""A TLS front for a PostgreSQL server, and a way that swallows what is sent through it.

The servers that tests start may be built without TLS, so what a server does for it is done in front
of one: it answers the driver's SSLRequest, shows its certificate, and hands the bytes on. To the
driver, who asks and checks, that is a server with TLS.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["Way", "way_to"]

_SSL_REQUEST: Final = bytes((0, 0, 0, 8, 4, 210, 22, 47))
_CHUNK: Final = 65536


class Way:
    """A port of its own that leads to a server's."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self._to = port
        self._context = context
        self._passes = asyncio.Event()
        self._passes.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.secured = 0
        """Connections that were encrypted."""
        self.plain = 0

    def swallow(self) -> None:
        """From here on nothing arrives, and nobody is told: as behind a cable that was pulled."""
        self._passes.clear()

    def pass_on(self) -> None:
        """What was held back goes on its way, and everything behind it."""
        self._passes.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        except asyncio.CancelledError:
            return
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passes.wait()
        first = await reader.readexactly(8)
        if first == _SSL_REQUEST and self._context is not None:
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(self._context)
            self.secured += 1
            first = b""
        else:
            self.plain += 1
        server, to_server = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            to_server.write(first)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._hand_on(reader, to_server))
                both.create_task(self._hand_on(server, writer))
        except* OSError:
            pass  # One of both has gone.
        finally:
            to_server.close()

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._passes.wait()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))


@asynccontextmanager
async def way_to(
    port: int, *, certificate: Path | None = None, key: Path | None = None
) -> AsyncGenerator[Way]:
    """A way to a server of this machine; with a certificate one that speaks TLS."""
    context: ssl.SSLContext | None = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    way = Way(port, context)
    server = await asyncio.start_server(way.serve, "127.0.0.1", 0)
    way.port = server.sockets[0].getsockname()[1]
    try:
        yield way
    finally:
        server.close()
        await way.close()
