"""`Transaction`: what an activity wants stored with its own completion, or not at all: SQL, and
messages for brokers."""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Final, TypeAlias, TypeVar, cast

from everlong._texts import storable
from everlong.exceptions import EverlongError, InvalidArguments
from everlong.outboxes import Draft, Outbox, draft_of
from everlong_engine import SqlValue, Statement

__all__ = ["Effect", "Transaction"]

T = TypeVar("T")

Effect: TypeAlias = Statement | Draft
"""What is stored with a completion."""

_BYTES_MAX: Final = 32_000_000
_INT_BITS: Final = 64
_INTS: Final = 1 << _INT_BITS - 1
_PLAIN: Final = frozenset({bytes, str, int, float, bool, type(None)})


class Transaction:
    """What the first parameter of a transactional activity is: SQL for the store's own database.

        @activity(transactional=True)
        async def save(tx: Transaction, order: Order) -> None:
            tx.execute(
                "insert into orders (id, amount) values (:id, :amount)",
                {"id": order.id, "amount": order.amount},
            )

    Statements are kept until the activity has returned. Then they run, in order, in the very
    transaction that records its completion: either both are stored, or neither is, whatever crashes
    when. If one fails, none has run, and the attempt has failed with `StatementFailed`: it is tried
    again as its `retry` says.

    What people get wrong: nothing runs at the call, so nothing can be read here. Read with a
    connection of your own, before or behind.
    """

    def __init__(self) -> None:
        self._statements: list[Statement] = []
        self._drafts: list[Draft] = []
        self._bytes = 0
        self._over = False

    @property
    def statements(self) -> tuple[Statement, ...]:
        """What was asked for so far, in order; for tests that call the function themselves."""
        return tuple(self._statements)

    @property
    def messages(self) -> tuple[Draft, ...]:
        """What was published so far, in order; likewise."""
        return tuple(self._drafts)

    def execute(self, sql: str, values: Mapping[str, SqlValue] | None = None) -> None:
        """One statement, once.

        Args:
            sql: one statement, its parameters by name, as `:name`; tables may be made, too.
            values: one for each name: None, bool, int, float, str or bytes.

        Raises:
            InvalidArguments: a value that no column holds, no text, or more than 32 MB in all.
        """
        self._add(Statement(self._text(sql), (self._row({} if values is None else values),)))

    def executemany(self, sql: str, rows: Iterable[Mapping[str, SqlValue]]) -> None:
        """One statement, once for each row of values. No rows: nothing is done.

        Raises:
            InvalidArguments: as `execute`.
        """
        text, listed = self._text(sql), list(rows)
        kept: tuple[Mapping[str, SqlValue], ...] = self._plain(listed)
        if not kept:
            kept = tuple(self._row(row) for row in listed)
        self._add(Statement(text, kept, many=True))

    def publish(
        self,
        outbox: Outbox[T] | str,
        value: T,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Put a message into an outbox, in the same commit. See `Outbox`.

        Args:
            outbox: a declared one, or its name.
            value: of its type.
            key: what keeps its order, where the broker has partitions.
            headers: more that goes along, up to 100 texts.

        Raises:
            InvalidArguments: it does not fit the type or cannot be sent, or is more than 32 MB with
                all else.
            PayloadTooLarge: it has more than 2 MB.
        """
        draft = draft_of(outbox, value, key, headers)
        self._bytes += len(draft.payload)
        self._require_room()
        self._drafts.append(draft)

    def end(self) -> tuple[Effect, ...]:
        """Not public: what it has come to. The attempt is over."""
        self._over = True
        return (*self._statements, *self._drafts)

    def _add(self, statement: Statement) -> None:
        self._require_room()
        self._statements.append(statement)

    def _require_room(self) -> None:
        if self._over:
            raise EverlongError(
                "this transaction is over: its activity has returned, and what it asked for is on "
                "its way. Await what you start before you return"
            )
        if self._bytes > _BYTES_MAX:
            raise InvalidArguments(
                f"a transactional activity may store {_BYTES_MAX // 1_000_000} MB: everybody else "
                "waits meanwhile. Split the work into several calls"
            )

    def _text(self, sql: Any) -> str:
        if not isinstance(sql, str) or not sql.strip():
            raise InvalidArguments(f"sql={sql!r:.60}: give one SQL statement as text")
        if "\0" in sql:
            raise InvalidArguments("sql: a statement holds no NUL character")
        self._bytes += len(sql)
        return storable(sql, "sql")

    def _plain(self, rows: list[Any]) -> tuple[dict[str, SqlValue], ...]:
        """Copies of rows of which each is a dict of plain values, seen together and not one by one;
        nothing if there is more to look at."""
        if set(map(type, rows)) != {dict}:
            return ()
        values = list(chain.from_iterable(map(dict[Any, Any].values, rows)))
        kinds = set(map(type, values))
        if not (kinds <= _PLAIN and set(map(type, chain.from_iterable(rows))) <= {str}):
            return ()
        size = 0
        if bytes in kinds:
            size += sum(len(one) for one in values if type(one) is bytes)
        if str in kinds:
            texts = [one for one in values if type(one) is str]
            if not all(map(str.isascii, texts)):
                return ()
            size += sum(map(len, texts))
        if int in kinds:
            numbers = [one for one in values if type(one) is int]
            if not (min(numbers) >= -_INTS and max(numbers) < _INTS):
                return ()
            size += 8 * len(numbers)
        if float in kinds:
            floats = [one for one in values if type(one) is float]
            if any(map(math.isnan, floats)):
                return ()
            size += 8 * len(floats)
        self._bytes += size
        return tuple(map(dict[str, SqlValue].copy, rows))

    def _row(self, values: Any) -> Mapping[str, SqlValue]:
        if type(values) is not dict and not isinstance(values, Mapping):
            raise InvalidArguments(
                f'values={values!r:.60}: name them, as {{"id": 17}} for a statement with :id'
            )
        row: dict[str, SqlValue] = {}
        for name, value in cast("Mapping[str, Any]", values).items():
            kind = cast("type[object]", type(value))
            if type(name) is not str:
                row[str(name)] = self._value(name, value)
            elif kind is bytes or (kind is str and value.isascii()):
                self._bytes += len(value)
                row[name] = value
            elif value is None or kind is bool:
                row[name] = value
            else:
                row[name] = self._value(name, value)
        return row

    def _value(self, name: object, value: Any) -> SqlValue:
        if not isinstance(name, str):
            raise InvalidArguments(f"{name!r:.60} is no parameter's name: give a text")
        match value:
            case None | bool():
                return value
            case str():
                self._bytes += len(value)
                return storable(value, name)
            case bytes():
                self._bytes += len(value)
                return value
            case int() if -_INTS <= value < _INTS:
                self._bytes += 8
                return value
            case int():
                raise InvalidArguments(
                    f"{name}: {value:.3e} is over the {_INT_BITS} bits of a column: pass it as text"
                )
            case float() if not math.isnan(value):
                self._bytes += 8
                return value
            case float():
                raise InvalidArguments(f"{name} is NaN, which a column keeps as NULL: pass None")
            case _:
                raise InvalidArguments(
                    f"{name} is a {type(value).__name__}: pass None, bool, int, float, str or "
                    "bytes, such as str(…) or .isoformat() of it"
                )
