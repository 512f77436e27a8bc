"""`everlong migrate`: bring a store's schema up to date."""

import asyncio

from everlong.cli._documents import document
from everlong.cli._exits import ExitCode
from everlong.cli._options import DEFAULT_STORE, Db, Json, connect, shown
from everlong.cli._screen import out, write
from everlong_engine import Engine

__all__ = ["migrate"]


def migrate(db: Db = DEFAULT_STORE, as_json: Json = False) -> int:
    """Set up a store, or bring its schema up to date.

    A file does that by itself when it is opened. On a server somebody has to say so, with a user
    that may create a schema, while no older worker is at work.
    """
    before, now = asyncio.run(Engine.migrate(connect(db, "default", None, create=True).path))
    if as_json:
        write(document({"store": shown(db), "from": before, "to": now}))
    elif before == now:
        out().say(("✓ ", "green"), f"{shown(db)} has the newest schema, version {now}")
    elif before == 0:
        out().say(("✓ ", "green"), f"{shown(db)} is set up, with the schema of version {now}")
    else:
        out().say(("✓ ", "green"), f"{shown(db)} went from schema version {before} to {now}")
    return ExitCode.OK
