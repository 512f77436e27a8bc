"""What the columns of each table may hold, checked where a row is read.

SQLite keeps whatever it is given, whatever the schema calls a column: a text as a number, a status
that does not exist, an id of three bytes. What is read goes on into arithmetic and comparisons, so
a row that nobody of us has written is named here, and goes no further. Text that is no UTF-8 is
read with escapes instead: it then names nothing, and hides nobody else's row.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import KINDS
from everlong_engine.model.ids import id_text
from everlong_engine.model.keys import KeyKind
from everlong_engine.model.limits import INSTANT_US_MAX, ROW_BYTES_MAX
from everlong_engine.model.queues import AtLimit
from everlong_engine.model.runs import AttemptState, Probation, RunStatus
from everlong_engine.model.tags import TagKind
from everlong_engine.model.turns import TurnState

__all__ = [
    "APPROVAL",
    "COLUMNS",
    "ENTITY",
    "ITEM",
    "KEYS",
    "MAIL",
    "OUTBOX",
    "POSITION_MAX",
    "TAG",
    "Column",
    "NoUtf8",
    "as_id",
    "check",
    "fetch_one",
    "guard",
    "is_too_big",
    "named",
    "wrong",
]

_NONE: Final = type(None)
_NUMBER_MAX: Final = 1 << 53
_INT_MAX: Final = (1 << 63) - 1
_ID_BYTES: Final = 16
POSITION_MAX: Final = _INT_MAX
"""Behind it the inbox has no place left."""


class Column(Struct, frozen=True):
    """`least` and `most` bound a number, or the length of bytes and texts."""

    name: str
    types: tuple[type, ...]
    least: int = 0
    most: int = ROW_BYTES_MAX

    def or_null(self) -> "Column":
        return Column(self.name, (*self.types, _NONE), self.least, self.most)


def _number(name: str, least: int = 0, most: int = _NUMBER_MAX) -> Column:
    return Column(name, (int,), least, most)


def _any_int(name: str) -> Column:
    return Column(name, (int,), -_INT_MAX - 1, _INT_MAX)


def _instant(name: str) -> Column:
    return _number(name, 0, INSTANT_US_MAX)


def _id(name: str) -> Column:
    return Column(name, (bytes,), _ID_BYTES, _ID_BYTES)


def _text(name: str) -> Column:
    return Column(name, (str,))


def _bytes(name: str) -> Column:
    return Column(name, (bytes,))


_SHARD: Final = _number("shard", 0, 0)
_KIND: Final = _number("kind", min(KINDS), max(KINDS))

MAIL: Final = (
    _number("position", 1, _INT_MAX - 1),
    _id("execution_id"),
    _KIND,
    _bytes("body"),
    _any_int("checksum"),
)
"""As `mail_of` reads them."""

APPROVAL: Final = (
    _number("number"),
    _number("seq", 1),
    _bytes("answer").or_null(),
    _text("request").or_null(),
)
"""As `approval_at` reads them."""

ITEM: Final = (
    _text("channel"),
    _number("number"),
    _instant("at_us"),
    _bytes("payload"),
    _any_int("checksum"),
)
"""As `published_from` reads them."""

OUTBOX: Final = (
    _text("outbox"),
    _number("waiting"),
    _number("refused"),
    _instant("oldest_us").or_null(),
    _id("holder").or_null(),
    _number("failures"),
    _text("fault").or_null(),
    _instant("fault_us").or_null(),
)
"""As `outboxes` reads them, which counts some."""
ENTITY: Final = (
    _text("key"),
    _instant("due_us").or_null(),
    _bytes("payload"),
    _any_int("checksum"),
)
"""As `entities_by_key` reads them."""

TAG: Final = (
    Column("name", (str,), 1, 64),
    _number("kind", min(TagKind), max(TagKind)),
    Column("value", (str, int, float), -_INT_MAX - 1, _INT_MAX),
)
"""As `tags_of` reads them."""

COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "runs": (
        _SHARD,
        _id("run_id"),
        _id("execution_id"),
        _text("namespace"),
        _text("workflow_id"),
        _text("type"),
        _text("queue"),
        _number("status", min(RunStatus), max(RunStatus)),
        _number("next_seq", 1),
        _number("lease_token"),
        _id("owner").or_null(),
        _instant("wake_us").or_null(),
        _instant("started_us"),
        _instant("closed_us").or_null(),
        _number("losses"),
        _number("strikes"),
        _number("probation", min(Probation), max(Probation)),
        _text("reason").or_null(),
        _text("request_id").or_null(),
        _text("version").or_null(),
    ),
    "history": (
        _SHARD,
        _id("run_id"),
        _number("seq", 1),
        _KIND,
        _instant("at_us"),
        _bytes("body"),
        _any_int("checksum"),
        _any_int("append_id").or_null(),
    ),
    "inbox": (MAIL[0], _SHARD, *MAIL[1:]),
    "requests": (_SHARD, _id("execution_id"), _text("request_id"), _bytes("result")),
    "attempts": (
        _SHARD,
        _id("run_id"),
        _number("activity_id"),
        _number("attempt", 1),
        _number("state", min(AttemptState), max(AttemptState)),
        _instant("started_us"),
        _instant("ended_us").or_null(),
        _instant("retry_us").or_null(),
        _text("error_type"),
        _text("error"),
        _text("traceback"),
        _text("worker"),
        _bytes("details").or_null(),
    ),
    "tasks": (
        _SHARD,
        _id("run_id"),
        _number("activity_id"),
        _id("execution_id"),
        _number("attempt", 1),
        _text("queue"),
        _text("activity"),
        _instant("due_us"),
        _number("seq", 1),
        _text("origin"),
        _number("behind"),
        _number("token"),
        _number("asked", 0, 1),
        _id("worker_id").or_null(),
        _any_int("rank"),
        _text("key"),
    ),
    "queue_limits": (
        _text("queue"),
        _number("origin", 0, 1),
        _number("concurrency").or_null(),
        _number("rate", 1).or_null(),
        Column("rate_us", (int,), 1, INSTANT_US_MAX).or_null(),
        _number("key_concurrency").or_null(),
        _number("key_rate", 1).or_null(),
        Column("key_rate_us", (int,), 1, INSTANT_US_MAX).or_null(),
        _instant("set_us"),
        _text("set_by"),
        _number("at_limit", min(AtLimit), max(AtLimit)),
    ),
    "queue_starts": (
        _text("queue"),
        _text("key"),
        _any_int("until_us"),
        Column("marks", (bytes,)),
    ),
    "turns": (
        _SHARD,
        _id("execution_id"),
        _text("namespace"),
        _text("workflow_id"),
        _text("pool"),
        _text("key"),
        _any_int("rank"),
        _instant("asked_us"),
        _instant("until_us").or_null(),
        _number("state", min(TurnState), max(TurnState)),
    ),
    "start_keys": (
        _text("namespace"),
        _text("type"),
        _number("kind", min(KeyKind), max(KeyKind)),
        _text("key"),
        _SHARD,
        _id("execution_id"),
        _instant("first_us"),
        _instant("until_us").or_null(),
        _number("starts", 1),
    ),
    "published": (_SHARD, _id("execution_id"), *ITEM),
    "outgoing_letters": (
        _number("position", 1, _INT_MAX - 1),
        _SHARD,
        _text("outbox"),
        _id("execution_id"),
        _id("run_id"),
        _number("seq", 1),
        _number("number"),
        _instant("at_us"),
        _bytes("payload"),
        _any_int("checksum"),
        _text("refused").or_null(),
    ),
    "outgoing_boxes": (OUTBOX[0], *OUTBOX[4:]),
    "entity_states": (_SHARD, _id("execution_id"), *ENTITY),
    "approvals": (_SHARD, _id("run_id"), *APPROVAL),
    "tags": (_SHARD, _id("run_id"), TAG[0], _text("namespace"), *TAG[1:]),
    "pauses": (
        _SHARD,
        _id("execution_id"),
        _text("namespace"),
        _text("workflow_id"),
        _instant("since_us"),
        _text("by"),
        _text("reason"),
    ),
    "pauses_of_types": (
        _text("namespace"),
        _text("type"),
        _instant("since_us"),
        _text("by"),
        _text("reason"),
    ),
    "requests_of_types": (
        _text("namespace"),
        _text("request_id"),
        _instant("at_us"),
        _bytes("result"),
    ),
    "blobs": (_SHARD, Column("digest", (bytes,), 32, 32), _bytes("data")),
    "blob_uses": (_SHARD, _id("owner_id"), Column("digest", (bytes,), 32, 32)),
    "workers": (
        _id("worker_id"),
        _text("name"),
        _number("pid", 1, 1 << 31),
        _text("host"),
        _instant("started_us"),
        _instant("beat_us"),
        _number("dead", 0, 1),
        _text("queue"),
        _text("types"),
        _text("versions"),
        _number("slots"),
        _number("busy"),
    ),
    "questions": (
        _id("question_id"),
        _SHARD,
        _text("namespace"),
        _text("workflow_id"),
        _text("query"),
        _bytes("arguments"),
        _instant("asked_us"),
        _number("answered", 0, 1).or_null(),
        _bytes("answer").or_null(),
    ),
    "links": (
        _SHARD,
        _id("execution_id"),
        _id("waiter_run"),
        _number("number", 1),
        _id("waiter_id"),
        _text("namespace"),
        _text("workflow_id"),
        _text("waiter"),
        Column("on_parent_close", (str,), 0, len("terminate")),
    ),
}
"""Every table, with its columns in their order."""

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "runs": ("shard", "run_id"),
    "history": ("shard", "run_id", "seq"),
    "inbox": ("position",),
    "requests": ("shard", "execution_id", "request_id"),
    "attempts": ("shard", "run_id", "activity_id", "attempt"),
    "tasks": ("shard", "run_id", "activity_id"),
    "queue_limits": ("queue", "origin"),
    "queue_starts": ("queue", "key"),
    "turns": ("shard", "execution_id"),
    "start_keys": ("namespace", "type", "kind", "key"),
    "published": ("shard", "execution_id", "channel", "number"),
    "outgoing_letters": ("position",),
    "outgoing_boxes": ("outbox",),
    "entity_states": ("shard", "execution_id", "key"),
    "approvals": ("shard", "run_id", "number"),
    "tags": ("shard", "run_id", "name"),
    "pauses": ("shard", "execution_id"),
    "pauses_of_types": ("namespace", "type"),
    "requests_of_types": ("namespace", "request_id"),
    "blobs": ("shard", "digest"),
    "blob_uses": ("shard", "owner_id", "digest"),
    "workers": ("worker_id",),
    "questions": ("question_id",),
    "links": ("shard", "execution_id", "waiter_run", "number"),
}
"""What names a row of each table."""

_REMEDY: Final = (
    "`everlong verify` lists what else is damaged; put back a copy of the file from before that"
)


class NoUtf8(str):
    """What `verify` reads in place of a text that is none."""

    __slots__ = ()


def guard(connection: sqlite3.Connection) -> None:
    """Bounds for whatever this connection reads, before memory is spent on it."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, ROW_BYTES_MAX)
    connection.text_factory = _lenient


def _lenient(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def wrong(columns: Sequence[Column], values: Sequence[Any]) -> str | None:
    """What is wrong with a row: the first column that holds what it must not. None: nothing."""
    for column, value in zip(columns, values, strict=True):
        kind: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
        if kind not in column.types:
            return f"{column.name} holds a {_KINDS.get(kind, kind.__name__)}"
        if kind is int:
            if not column.least <= value <= column.most:
                return f"{column.name} holds {value}"
        elif kind not in (_NONE, float) and not column.least <= len(value) <= column.most:
            return f"{column.name} has {len(value)} bytes"
    return None


_KINDS: Final[Mapping[type, str]] = {
    int: "number",
    float: "fraction",
    str: "text",
    bytes: "blob",
    _NONE: "null",
    NoUtf8: "text that is no UTF-8",
}


def check(table: str, columns: Sequence[Column], values: Sequence[Any], name: str) -> None:
    """Refuse a row that nobody of us has written.

    Raises:
        UndecodablePayload: it names the row, its column, and what to do.
    """
    fault = wrong(columns, values)
    if fault is not None:
        raise UndecodablePayload(f"{name}: its row in {table} cannot be read: {fault}. {_REMEDY}")


def fetch_one(tx: sqlite3.Connection, sql: str, key: Sequence[Any], name: str) -> Any:
    """The first row that a statement gives, or None.

    Raises:
        UndecodablePayload: the row is larger than any that is ever written.
    """
    try:
        return tx.execute(sql, key).fetchone()
    except sqlite3.DataError as error:
        if not is_too_big(error):
            raise
        text = f"{name}: its row is larger than {ROW_BYTES_MAX} bytes. {_REMEDY}"
        raise UndecodablePayload(text) from error


def is_too_big(error: BaseException) -> bool:
    """Whether SQLite refused to read, or to write, more than `guard` allows."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_TOOBIG


def as_id(value: object) -> bytes | None:
    """An id that can be shown as one; None for whatever else a row holds in its place."""
    return value if isinstance(value, bytes) and len(value) == _ID_BYTES else None


def named(value: object) -> str:
    """An id as people see it, or what stands in its place."""
    identifier = as_id(value)
    return f"{value!r:.60}" if identifier is None else id_text(identifier)
