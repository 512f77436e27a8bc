"""What users wrote, on a connection of the engine's: it touches only what is theirs.

Their statements run inside the engine's own transaction, under a savepoint. An authorizer denies
them the engine's tables, and whatever reaches beyond the savepoint: the transaction itself, other
files, settings, temporary tables, which the connection would keep. It is installed once, for to
install one makes SQLite prepare every statement anew, and it looks only while they run. Their texts
begin with a comment, so that none of them is one that the engine has prepared.

A constraint with ON CONFLICT ROLLBACK, or a statement that is stopped because it takes too long,
ends the whole transaction, and with it the work of others: the group is then repeated one by one,
and only its author is refused.
"""

import sqlite3
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

from everlong_engine.model.failure import Failure
from everlong_engine.model.statements import STATEMENTS_S_MAX, Statement, refusal_of
from everlong_engine.store.interface import StatementsRefused

__all__ = ["UserConnection", "ask", "run_statements"]

_MARK: Final = "/* of a user */ "
_LOOK_EVERY: Final = 20_000
"""Instructions of SQLite's machine between two looks at the clock: well under a millisecond."""
_OURS: Final = "everlong_"

_ERRORS: Final = (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError)
_ALLOWED: Final = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_RECURSIVE,
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_VIEW,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_CREATE_VTABLE,
        sqlite3.SQLITE_DROP_TABLE,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_DROP_VIEW,
        sqlite3.SQLITE_DROP_TRIGGER,
        sqlite3.SQLITE_DROP_VTABLE,
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_REINDEX,
        sqlite3.SQLITE_ANALYZE,
    }
)
_WORDS: Final = {
    sqlite3.SQLITE_TRANSACTION: "BEGIN, COMMIT and ROLLBACK: the transaction is not its own",
    sqlite3.SQLITE_SAVEPOINT: "a savepoint: the transaction is not its own",
    sqlite3.SQLITE_ATTACH: "ATTACH: it commits with one file",
    sqlite3.SQLITE_DETACH: "DETACH: it commits with one file",
    sqlite3.SQLITE_PRAGMA: "a PRAGMA: the connection is not its own",
}


class UserConnection(sqlite3.Connection):
    """A connection on which statements of users may run, too."""

    _watching = False
    _reserved: Collection[str] = ()
    denied: str | None = None
    """What the last statement wanted and must not."""

    def reserve(self, tables: Collection[str]) -> None:
        """From now on these tables, in small letters, are the engine's."""
        self._reserved = frozenset(tables)
        self.set_authorizer(self._authorize)

    @contextmanager
    def watched(self) -> Generator[None]:
        """What runs within is a user's."""
        self._watching, self.denied = True, None
        over_at = monotonic() + STATEMENTS_S_MAX
        self.set_progress_handler(lambda: monotonic() > over_at, _LOOK_EVERY)
        try:
            yield
        finally:
            self.set_progress_handler(None, 0)
            self._watching = False

    def _authorize(
        self,
        action: int,
        first: str | None,
        second: str | None,
        database: str | None,
        _trigger: str | None,
    ) -> int:
        if not self._watching:
            return sqlite3.SQLITE_OK
        denied = self._what_is_wrong(action, first, second, database)
        if denied is None:
            return sqlite3.SQLITE_OK
        self.denied = denied
        return sqlite3.SQLITE_DENY

    def _what_is_wrong(
        self, action: int, first: str | None, second: str | None, database: str | None
    ) -> str | None:
        if action == sqlite3.SQLITE_FUNCTION:
            return "load_extension()" if (second or "").lower() == "load_extension" else None
        if action not in _ALLOWED or database == "temp":
            return _WORDS.get(action, "temporary tables and the like: the connection keeps them")
        for name in (first, second) if action != sqlite3.SQLITE_READ else (first,):
            lower = (name or "").lower()
            if lower in self._reserved or lower.startswith(_OURS):
                return f"the table {name!r}, which is Everlong's own: name yours otherwise"
        return None


def run_statements(tx: UserConnection, statements: Sequence[Statement]) -> Failure | None:
    """Run them all in the transaction that is open; what went wrong, and then none has run.

    Raises:
        StatementsRefused: the transaction is gone, and everything else in it.
    """
    for number, statement in enumerate(statements, 1):
        try:
            with tx.watched():
                _run(tx, statement)
        except _ERRORS as error:
            failure = _failure_of(error, statement, number, len(statements), tx.denied)
        else:
            if tx.in_transaction:
                continue
            failure = refusal_of("it has ended the transaction", statement, number, len(statements))
        if not tx.in_transaction:
            raise StatementsRefused(failure)
        return failure
    return None


def ask(connection: UserConnection, statement: Statement) -> list[Any] | Failure:
    """Run one outside of any transaction; the rows that it gives, or what went wrong."""
    try:
        with connection.watched():
            return connection.execute(_MARK + statement.sql, statement.rows[0]).fetchall()
    except _ERRORS as error:
        return _failure_of(error, statement, 1, 1, connection.denied)


def _run(tx: UserConnection, statement: Statement) -> None:
    text = _MARK + statement.sql
    if statement.many:
        tx.executemany(text, statement.rows)
        return
    cursor = tx.execute(text, statement.rows[0])
    if cursor.description is not None:
        cursor.close()
        raise sqlite3.ProgrammingError(
            "it returns rows, and there is nobody to read them: statements run when the activity "
            "has ended. Read with a connection of your own"
        )


def _failure_of(
    error: Exception, statement: Statement, number: int, of: int, denied: str | None
) -> Failure:
    """An error of SQLite's in words; none of the values that were bound."""
    if denied is not None:
        text = f"a transactional activity must not use {denied}"
        return refusal_of(text, statement, number, of, retryable=False)
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
        text = f"it took longer than {STATEMENTS_S_MAX:g} s, and everybody else waits meanwhile"
        return refusal_of(text, statement, number, of)
    return refusal_of(str(error), statement, number, of)
