"""What users wrote, on a line of the engine's, in the transaction that stores their append.

Each append with statements stands under a savepoint, so that what fails takes back its own append
and nothing else. Parameters have names, as on every store; the server is given numbers. A server
has nobody who is asked about each table, as SQLite has: what a statement begins with is looked at,
and whether it names Everlong's schema. That keeps people from mistakes. Who must be kept from more
is given a role of less, and a database of their own.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from asyncpg import exceptions as pg

from everlong_engine.model.failure import Failure
from everlong_engine.model.statements import STATEMENTS_S_MAX, Statement, refusal_of
from everlong_engine.store.postgres.statements import Tx

__all__ = ["run_statements"]

_TOKENS: Final = re.compile(
    r"""
      (?P<text> \b[eE]'(?:[^'\\]|\\.|'')*' | '[^']*(?:''[^']*)*' | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<quoted> "[^"]*(?:""[^"]*)*" )
    | ::
    | : (?P<name> [A-Za-z_]\w*)
    | (?P<number> \$\d+)
    """,
    re.VERBOSE | re.DOTALL,
)
_ALLOWED: Final = frozenset(
    {
        "alter",
        "analyze",
        "comment",
        "create",
        "delete",
        "drop",
        "grant",
        "insert",
        "merge",
        "refresh",
        "reindex",
        "revoke",
        "truncate",
        "update",
        "with",
    }
)
_READING: Final = frozenset({"select", "values", "table", "show", "explain"})
_OURS: Final = re.compile(
    r"""\beverlong\s*\.|"everlong"\s*\.|\bschema\b.*\beverlong\b""", re.DOTALL
)
_TEMPORARY: Final = re.compile(r"\s*create\s+(?:(?:global|local)\s+)?(?:temp|temporary)\b")
_ROWS: Final = (
    "it returns rows, and there is nobody to read them: statements run when the activity has "
    "ended. Read with a connection of your own"
)
_MISFIT: Final = re.compile(r"invalid input for query argument \$(\d+)")
"""What the driver says of a value that it cannot send; which value, it says too."""
_WHY: Final = re.compile(
    r"\((expected [^()]*|value out of [^()]*|'\w+' object cannot be [^()]*)\)$"
)
_VALUES_IN_ERRORS: Final = "22"
"""The class of errors whose texts repeat what was given."""

_Parsed: TypeAlias = tuple[str, tuple[str, ...]]


class _Refused(Exception):
    """A statement that is not even tried."""


async def run_statements(tx: Tx, statements: Sequence[Statement]) -> Failure | None:
    """Run them all in the transaction that is open; what went wrong, and then the transaction is
    good for nothing until it is taken back to a savepoint.

    Raises:
        Exception: the server is away, or the way to it.
    """
    await tx.plain(f"SET LOCAL statement_timeout = {round(STATEMENTS_S_MAX * 1_000)}")
    for number, statement in enumerate(statements, 1):
        here = statement, number, len(statements)
        try:
            await _run(tx, statement)
        except _Refused as refused:
            return refusal_of(str(refused), *here, retryable=False)
        except KeyError as missing:
            return refusal_of(f"there is no value for :{missing.args[0]}", *here)
        except pg.QueryCanceledError:
            text = f"it took longer than {STATEMENTS_S_MAX:g} s, and everybody else waits meanwhile"
            return refusal_of(text, *here)
        except (pg.OperatorInterventionError, pg.PostgresConnectionError):
            raise
        except pg.PostgresError as error:
            return refusal_of(_told(statement, error), *here)
    await tx.plain("SET LOCAL statement_timeout TO DEFAULT")
    return None


async def _run(tx: Tx, statement: Statement) -> None:
    text, names = _parsed(statement.sql)
    rows = [tuple([row[name] for name in names]) for row in statement.rows]
    if statement.many:
        if rows:
            await tx.many(text, rows)
    elif await tx.text(text, rows[0]):
        raise _Refused(_ROWS)


@lru_cache(maxsize=256)
def _parsed(sql: str) -> _Parsed:
    """The statement with numbers for its parameters, and their names in that order.

    Raises:
        _Refused: it is none that a transactional activity may want.
    """
    names: dict[str, int] = {}

    def numbered(token: re.Match[str]) -> str:
        if token["number"]:
            raise _Refused(f"a parameter has a name, as :id; {token[0]} has none")
        if token["name"] is None:
            return token[0]
        return f"${names.setdefault(token['name'], len(names) + 1)}"

    def without(token: re.Match[str]) -> str:
        return " " if token["text"] or token["comment"] else token[0]

    text = _TOKENS.sub(numbered, sql)
    bare = _TOKENS.sub(without, sql).lower().split(None, 1)
    _judge(bare[0].strip("(;") if bare else "", " ".join(bare))
    return text, tuple(names)


def _judge(first: str, bare: str) -> None:
    if not first:
        raise _Refused("there is no statement in it")
    if first in _READING:
        raise _Refused(_ROWS)
    if first not in _ALLOWED:
        what = f"{first.upper()}: the transaction and the connection are not its own"
    elif _TEMPORARY.match(bare):
        what = "temporary tables: the connection keeps them"
    elif _OURS.search(bare):
        what = "the schema everlong, which is Everlong's own"
    else:
        return
    raise _Refused(f"a transactional activity must not use {what}")


def _told(statement: Statement, error: pg.PostgresError) -> str:
    """The server's words, which come with the values of a row only in their details."""
    text = str(error.args[0]) if error.args else type(error).__name__
    place = _MISFIT.match(text)
    if place is not None:
        return _misfit(_parsed(statement.sql)[1][int(place[1]) - 1], text)
    if (error.sqlstate or "").startswith(_VALUES_IN_ERRORS):
        return re.sub(r'"[^"]*"', "…", text)
    return text


def _misfit(name: str, text: str) -> str:
    why = _WHY.search(text)
    found = f"the value of :{name} does not fit what it is for"
    if why is not None:
        found += f": {why[1]}"
    return f"{found}. Say in the statement what it is to become, as cast(:{name} as text)::date"
