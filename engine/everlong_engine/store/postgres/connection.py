"""Lines to the server: one connection each, opened when it is needed, and again after it was lost.

A line runs one piece of work at a time, in the order in which it was asked: claims behind writes,
as the engine expects. What fails because the server is away is told as that, and the next piece of
work connects anew; nobody has to mend anything by hand.
"""

import asyncio
from collections.abc import Awaitable, Callable
from ssl import SSLCertVerificationError, SSLError
from typing import Any, Final, TypeVar

import asyncpg
from asyncpg import exceptions as pg

from everlong_engine.model.errors import StoreError, StoreFailed, StoreFull
from everlong_engine.store.interface import Trouble
from everlong_engine.store.postgres.address import Address
from everlong_engine.store.postgres.statements import Connection, Tx

__all__ = ["AWAY", "CONNECT_S", "Line", "classify", "connect", "store_error"]

T = TypeVar("T")

CONNECT_S: Final = 10.0
COMMAND_S: Final = 60.0
"""An answer that takes longer never comes: the line is dropped, and the work repeated."""

AWAY: Final = (
    OSError,
    TimeoutError,
    pg.PostgresConnectionError,
    pg.InterfaceError,
    pg.InternalClientError,  # The driver's word, where a server ends a connection as it is used.
    pg.OperatorInterventionError,
    pg.TooManyConnectionsError,
    pg.IdleInTransactionSessionTimeoutError,
    pg.ReadOnlySQLTransactionError,
)
_LOCKED: Final = (pg.LockNotAvailableError, pg.QueryCanceledError)


async def connect(address: Address) -> Connection:
    """A new connection.

    Raises:
        StoreError: it cannot be had, with what to do.
    """
    try:
        # Behind a pooler a transaction is all that is sure to see one server process, so there
        # nothing is prepared for later.
        return await asyncpg.connect(
            address.dsn,
            timeout=CONNECT_S,
            command_timeout=COMMAND_S,
            statement_cache_size=0 if address.pooled else 512,
            max_cached_statement_lifetime=0,
        )
    except (*AWAY, pg.PostgresError, ValueError) as error:
        raise refused(address, error) from error


def refused(address: Address, error: BaseException) -> StoreError:
    """Why there is no connection, and what to do."""
    shown = address.shown
    match error:
        case pg.InvalidPasswordError() | pg.InvalidAuthorizationSpecificationError():
            text = (
                f"{shown} refuses this user: {error}. Look at the name and the password in the URL"
            )
        case pg.InvalidCatalogNameError():
            text = f"{shown}: {error}. Make it with `createdb`, or name another one in the URL"
        case SSLCertVerificationError():  # A ValueError as well, and an OSError.
            text = (
                f"{shown} does not prove who it is: {error.verify_message or error}. Its "
                "certificate must be signed by an authority in the file that sslrootcert names in "
                f"the URL, and with sslmode=verify-full be made out to {address.host}"
            )
        case FileNotFoundError() | PermissionError() | SSLError() if address.tls_files:
            files = ", ".join(f"{name}={path}" for name, path in address.tls_files)
            text = f"{shown}: a file for TLS in the URL cannot be used ({error}): look at {files}"
        case ValueError():
            text = f"{shown} is no address of a PostgreSQL server: {error}"
        case ConnectionError() if "SSL upgrade" in str(error):
            text = (
                f"{shown} does not speak TLS, and sslmode in the URL asks for it. Switch it on "
                "there (ssl=on), or say another sslmode where nobody listens on the way"
            )
        case _:
            reason = str(error) or type(error).__name__
            text = f"{shown} cannot be reached: {reason}. Is the server running?"
            return StoreFailed(text, path=shown, reason=reason)
    return StoreError(text, path=shown)


class Line:
    """One connection, and whose turn it is."""

    def __init__(self, address: Address, shards: int) -> None:
        self._address = address
        self._shards = shards
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    def adopt(self, connection: Connection) -> None:
        """Go on with a connection that is there already."""
        self._connection = connection

    async def write(self, work: Callable[[Tx], Awaitable[T]], spans: str = "") -> T:
        """Run `work` in one transaction, READ COMMITTED: each statement sees what was committed
        before it, which is what locks are good for. On a distributed store one that may write to
        several shards says why (`spread.Spans`), for whoever looks on."""
        begin = f"BEGIN; SET LOCAL everlong.spans = '{spans}'" if spans else "BEGIN"
        return await self._run(begin, work, writes=True)

    async def read(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Several reads that see one state."""
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        return await self._run(begin, work, writes=False)

    async def at_once(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """`work` is one statement, which is a transaction by itself."""
        return await self._run(self._begin_at_once, work, writes=True)

    @property
    def _begin_at_once(self) -> str | None:
        """Behind a pooler, what is prepared and what is run must meet the same server process."""
        return "BEGIN" if self._address.pooled else None

    async def in_turn(
        self,
        at_once: Callable[[Tx], Awaitable[bool]],
        behind: Callable[[Tx], Awaitable[None]],
    ) -> None:
        """`at_once`, one statement; and if it says that something is left, `behind`, a transaction,
        before it is anybody else's turn."""
        async with self._turn:
            if await self._go(self._begin_at_once, at_once, writes=True):
                await self._go("BEGIN", behind, writes=True)

    async def _run(
        self, begin: str | None, work: Callable[[Tx], Awaitable[T]], *, writes: bool
    ) -> T:
        async with self._turn:
            return await self._go(begin, work, writes=writes)

    async def _go(
        self, begin: str | None, work: Callable[[Tx], Awaitable[T]], *, writes: bool
    ) -> T:
        connection = await self._open()
        try:
            if begin is not None:
                await connection.execute(begin)
            result = await work(Tx(connection, self._shards, writes=writes))
            if begin is not None:
                await connection.execute("COMMIT")
        except BaseException as error:
            await self._end(connection, error)
            raise
        return result

    async def _open(self) -> Connection:
        if self._closed:
            raise StoreError(f"{self._address.shown} is closed", path=self._address.shown)
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._address)
        return self._connection

    async def _end(self, connection: Connection, error: BaseException) -> None:
        """Nothing of a failed transaction stays; neither does a line that cannot say so."""
        if isinstance(error, AWAY) or not isinstance(error, Exception):
            connection.terminate()  # Cut off in the middle: what it still says belongs to nobody.
            return
        try:
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
        except (*AWAY, pg.PostgresError):
            connection.terminate()

    async def close(self) -> None:
        """After everything asked before."""
        self._closed = True
        async with self._turn:
            if self._connection is not None and not self._connection.is_closed():
                try:
                    await self._connection.close(timeout=CONNECT_S)
                except (*AWAY, pg.PostgresError):
                    self._connection.terminate()


def store_error(error: BaseException, address: Address) -> StoreError:
    return classify(error, address)[1]


def classify(error: BaseException, address: Address) -> tuple[Trouble, StoreError]:
    """What an error of the server, or of the way to it, means."""
    shown = address.shown
    if isinstance(error, StoreFailed):  # No connection was to be had.
        return Trouble.BUSY, error
    if isinstance(error, StoreError):
        return Trouble.REPEAT, error
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, (pg.DiskFullError, pg.ProgramLimitExceededError)):
        return Trouble.FULL, StoreFull(path=shown)
    if isinstance(error, AWAY):
        text = f"{shown} went away ({reason}). What was not answered is tried again; is it running?"
        return Trouble.BUSY, StoreFailed(text, path=shown, reason=reason)
    if isinstance(error, _LOCKED):
        text = f"{shown}: somebody else holds locks for too long ({reason})"
        return Trouble.BUSY, StoreFailed(text, path=shown, reason=reason)
    return Trouble.REPEAT, StoreFailed(path=shown, reason=reason)


def is_away(error: Any) -> bool:
    """Whether the server, or the way to it, is gone for now."""
    return isinstance(error, (*AWAY, StoreFailed))
