"""The schema and its versions: numbered files, applied in order, never undone.

A database without our tables is set up by whoever comes first and may create them. One with older
tables is not touched in passing: `everlong migrate` does that, when its owner says so. Whoever
migrates holds a lock, so that two never do it at once.
"""

from importlib.resources import files
from types import MappingProxyType
from typing import Final

from asyncpg import exceptions as pg
from msgspec import Struct

from everlong_engine.model.errors import NewerSchema, StoreError
from everlong_engine.model.limits import SHARDS
from everlong_engine.store.postgres.address import Address
from everlong_engine.store.postgres.statements import Connection

__all__ = ["GUARDS", "NEWEST", "Settled", "migrate", "prepare"]

_FOLDER: Final = files("everlong_engine.store.postgres")
_NAMES: Final = sorted(one.name for one in _FOLDER.iterdir() if one.name.startswith("schema_"))
NEWEST: Final = len(_NAMES)
_LOCK: Final = 0x65766572  # "ever"
_IS_THERE: Final = """
    SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n
    ON n.oid = c.relnamespace WHERE n.nspname = 'everlong' AND c.relname = 'store'
"""
"""Not `to_regclass`: a session that has found nothing once remembers that, behind a lock too."""
_FIRST: Final = "INSERT INTO everlong.store (version, shards) VALUES ($1, $2)"
_SETTLED: Final = "SELECT shards, distributed FROM everlong.store"
_DISTRIBUTE: Final = "UPDATE everlong.store SET distributed = $1"
"""At any time: whoever has the store open goes on as it was, and is right as well."""
_GUARD: Final = """
DO $$ BEGIN
    EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET {name} = %L',
                   current_database(), '{value}');
END $$
"""
GUARDS: Final = MappingProxyType(
    {
        "idle_in_transaction_session_timeout": "10s",
        "lock_timeout": "5s",
        "statement_timeout": "60s",
    }
)
"""Of a role, in this database: without them a process that was stopped in the midst of a
transaction keeps its locks until somebody ends it."""


class Settled(Struct, frozen=True):
    """What a store says of itself, whoever connects."""

    shards: int
    distributed: bool


async def prepare(connection: Connection, address: Address, *, create: bool) -> Settled:
    """Make sure that the schema is the one that this code knows; what the store says of itself.

    Raises:
        NewerSchema: it belongs to a later Everlong.
        StoreError: it is older, or is not there and must not or cannot be made; or it is not what
            the URL says.
    """
    async with connection.transaction():  # One server process for all of it, behind a pooler too.
        found = await _version(connection)
    if found is None:
        if not create:
            raise StoreError(
                f"{address.shown} holds no Everlong store: look at the database's name in the URL, "
                "or set it up with `everlong migrate`",
                path=address.shown,
            )
        await migrate(connection, address)
        async with connection.transaction():
            found = await _version(connection)
    assert found is not None, "it has just been made"
    version = found
    if version > NEWEST:
        raise NewerSchema(path=address.shown, found=version, known=NEWEST)
    if version < NEWEST:
        raise StoreError(
            f"{address.shown} has the schema of version {version}; this Everlong needs version "
            f"{NEWEST}: run `everlong migrate` while no older worker is at work",
            path=address.shown,
        )
    async with connection.transaction():
        row = await connection.fetchrow(_SETTLED)
    assert row is not None, "it has just been there"
    settled = Settled(row["shards"], row["distributed"])
    _check(settled, address)
    return settled


def _check(settled: Settled, address: Address) -> None:
    """Raises StoreError: the URL says of the store what it is not."""
    if address.distributed in (None, settled.distributed):
        return
    said = "true" if address.distributed else "false"
    raise StoreError(
        f"the URL says distributed={said}, and {address.shown} is "
        f"{'' if settled.distributed else 'not '}distributed. Leave the option out, for the store "
        f"says itself which it is; or change that, with `everlong migrate` and this URL",
        path=address.shown,
    )


async def migrate(
    connection: Connection, address: Address, *, shards: int = SHARDS
) -> tuple[int, int]:
    """Bring the schema to the newest version; from which to which.

    Raises:
        StoreError: this user may not.
        NewerSchema: it is newer already.
    """
    try:
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
            found = await _version(connection)
            version = found or 0
            if version > NEWEST:
                raise NewerSchema(path=address.shown, found=version, known=NEWEST)
            for name in _NAMES[version:]:
                await connection.execute(_FOLDER.joinpath(name).read_text("utf-8"))
            if found is None:
                values = (NEWEST, shards)
                await connection.execute(_FIRST, *values)
            else:
                await connection.execute("UPDATE everlong.store SET version = $1", NEWEST)
            if address.distributed is not None:
                await connection.execute(_DISTRIBUTE, address.distributed)
            await _guard(connection)
    except pg.InsufficientPrivilegeError as error:
        raise StoreError(
            f"{address.shown}: this user may not set up the store ({error}). Run "
            "`everlong migrate` once with a user that may create a schema in this database",
            path=address.shown,
        ) from error
    return version, NEWEST


async def _guard(connection: Connection) -> None:
    """Bound how long a process of this role may hold up the others in this database, where nobody
    has. It is said to the role, because a pooler hands no setting of a session on."""
    look = "SELECT setting FROM pg_settings WHERE name = $1"
    for name, value in GUARDS.items():
        if await connection.fetchval(look, name) == "0":
            await connection.execute(_GUARD.format(name=name, value=value))


async def _version(connection: Connection) -> int | None:
    """None where there is no store."""
    try:
        if await connection.fetchval(_IS_THERE) is None:
            return None
        version: int | None = await connection.fetchval("SELECT version FROM everlong.store")
    except pg.InsufficientPrivilegeError as error:
        raise StoreError(
            f"this user may not use the store: {error}. Grant it USAGE on the schema `everlong`, "
            "and SELECT, INSERT, UPDATE and DELETE on its tables"
        ) from error
    return version
