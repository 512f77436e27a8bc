"""`RedisStream` and `RedisStreamSink`: a stream of a Redis or Valkey server. Extra
`everlong[redis]`.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, cast, overload

from redis import asyncio as server
from redis.exceptions import ResponseError

from everlong.exceptions import InvalidArguments, StreamRewound
from everlong.outboxes import OutboxMessage, Sink, Writer
from everlong.streams._polled import PARTITION
from everlong.streams._source import (
    Cursor,
    Position,
    Reader,
    Record,
    Source,
    require_same,
)

__all__ = ["RedisStream", "RedisStreamSink"]

T = TypeVar("T")

_BEGINNING: Final = "0-0"
_WAIT_S: Final = 5.0
"""Of one request; behind it, it is looked whether the stream is still what was read."""
_MESSAGES_MAX: Final = 1_000
_NUMBER_MAX: Final = (1 << 64) - 1
"""Of the entries of one millisecond."""


class RedisStream(Source[T], Generic[T]):
    """The entries of a stream in Redis, in the order of their ids.

        orders = Stream("orders", RedisStream("redis://localhost:6379", "orders", Order))

    An entry's fields are the message, as a JSON object of texts, or one of its fields is. The
    stream may come into being later. What people get wrong: entries that are trimmed (MAXLEN,
    MINID) before they are read are gone without a trace; and a server that stores in the background
    may lose its last moments, which come again under other ids or not at all.

    Args:
        url: of the server, with its database.
        key: of the stream.
        value: the type of its messages' values, see `Source`.
        field: the one that is the message; None for all of them.
        group: a consumer group to whose last delivered id positions are written, for others to
            look at (XINFO GROUPS); it is made if it is not there. None tells nothing.
        options: more for `redis.asyncio.from_url`, such as `ssl_ca_certs`.
    """

    keyed = False

    @overload
    def __init__(
        self: "RedisStream[bytes]",
        url: str,
        key: str,
        *,
        field: str | None = None,
        group: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        url: str,
        key: str,
        value: type[T],
        *,
        field: str | None = None,
        group: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "RedisStream[Any]",
        url: str,
        key: str,
        value: Any,
        *,
        field: str | None = None,
        group: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        url: str,
        key: str,
        value: Any = bytes,
        *,
        field: str | None = None,
        group: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(value)
        self.url, self.key, self.field, self.group = url, key, field, group
        self.options = dict(options or {})

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader behind the cursor, or from the oldest entry on."""
        if partitions is not None and tuple(partitions) != (PARTITION,):
            raise InvalidArguments(f"{self!r} has one partition, {PARTITION!r}, not {partitions}")
        identity = f"redis {self.key}"
        require_same(identity, after, f"stream {self.key} of Redis")
        at = _BEGINNING if after is None else str(after.after.get(PARTITION, _BEGINNING))
        _numbers(at)
        connect: Any = server.from_url
        client: Any = connect(self.url, **{"protocol": 2, **self.options})
        reader = _RedisReader(self, client, identity, at)
        try:
            await reader.require_same()
        except BaseException:
            await client.aclose()
            raise
        return reader

    async def before(self, at_us: int, partitions: Sequence[str] | None) -> Cursor:
        """Where a moment lies: the ids that the server gives are times, in milliseconds."""
        reader = cast("_RedisReader", await self.open(None, partitions))
        try:
            last = await reader.last()
        finally:
            await reader.close()
        at_ms = at_us // 1000
        if _numbers(last) < (at_ms, 0):
            at = last
        else:
            at = f"{at_ms - 1}-{_NUMBER_MAX}" if at_ms > 0 else _BEGINNING
        return Cursor(reader.identity, {} if at == _BEGINNING else {PARTITION: at})

    def is_behind(self, position: Position, other: Position) -> bool:
        """By their milliseconds, and the numbers within them."""
        try:
            return _numbers(str(position)) > _numbers(str(other))
        except InvalidArguments:  # Of a rewind to what is none: nothing is read from there.
            return False

    def __repr__(self) -> str:
        return f"RedisStream({self.key!r})"  # The URL may hold a password.


class _RedisReader(Reader):
    def __init__(self, source: RedisStream[Any], client: Any, identity: str, at: str) -> None:
        self.identity = identity
        self._source = source
        self._client = client
        self._at = at

    async def require_same(self) -> None:
        """Raises StreamRewound: the stream ends before what was read."""
        last = await self.last()
        if _numbers(last) < _numbers(self._at):
            raise StreamRewound(
                f"stream {self._source.key!r} of Redis ends at {last}, and it was read up to "
                f"{self._at}: it was made anew, or the server has lost entries. Rewind the flow to "
                "where it is to go on"
            )

    async def last(self) -> str:
        """The id that was given last."""
        try:
            info = await self._client.xinfo_stream(self._source.key)
        except ResponseError as error:
            if "no such key" not in str(error):
                raise
            return _BEGINNING
        name: str = info["last-generated-id"].decode()
        return name

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        loop = asyncio.get_running_loop()
        until = None if wait_s is None else loop.time() + wait_s
        source, wanted = self._source, min(max_messages, _MESSAGES_MAX)
        while True:
            left_s = _WAIT_S if until is None else min(_WAIT_S, until - loop.time())
            if left_s <= 0:
                return []
            block_ms = max(1, int(left_s * 1000))  # 0 would wait for ever.
            found = await self._client.xread({source.key: self._at}, wanted, block_ms)
            if found:
                ((_, entries),) = found
                return [self._record(name.decode(), fields) for name, fields in entries]
            await self.require_same()

    def _record(self, name: str, fields: dict[bytes, bytes]) -> Record:
        self._at = name
        field = self._source.field
        value = _as_json(fields) if field is None else fields.get(field.encode(), b"")
        return Record(PARTITION, name, value, at_us=_numbers(name)[0] * 1000)

    async def acknowledge(self, cursor: Cursor) -> None:
        source, at = self._source, cursor.after.get(PARTITION)
        if source.group is None or at is None:
            return
        try:
            await self._client.xgroup_setid(source.key, source.group, at)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self._client.xgroup_create(source.key, source.group, at)

    async def close(self) -> None:
        await asyncio.shield(self._client.aclose())


def _numbers(name: str) -> tuple[int, int]:
    """An id in its order: milliseconds, and a number within them. Raises InvalidArguments."""
    ms, dash, number = name.partition("-")
    if not (dash and ms.isdecimal() and number.isdecimal()):
        raise InvalidArguments(f"{name!r} is no position in a stream of Redis, such as '1700-0'")
    return int(ms), int(number)


def _as_json(fields: dict[bytes, bytes]) -> bytes:
    """Texts by their names; what is no text is hexadecimal."""
    return json.dumps({_text(name): _text(value) for name, value in fields.items()}).encode()


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.hex()


class RedisStreamSink(Sink):
    """Publishes what is in an outbox as entries of a stream.

        paid = Outbox("paid", RedisStreamSink("redis://localhost:6379", "paid"))

    An entry has the message in one field, its id in the field `everlong-id`, its key in
    `everlong-key`, and its headers beside them. A batch is one transaction of Redis, in order. What
    people get wrong: Redis knows no ids, so what comes again is there twice; and a server that
    stores in the background may lose what it has acknowledged.

    Args:
        url: of the server, with its database.
        key: of the stream; it is made if it is not there.
        field: the one that is the message.
        max_entries: how many the stream keeps at least, the newest (MAXLEN ~); None keeps all.
        options: more for `redis.asyncio.from_url`, such as `ssl_ca_certs`.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        field: str = "value",
        max_entries: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if max_entries is not None and max_entries < 1:
            raise InvalidArguments(f"max_entries={max_entries}: give 1 or more, or None")
        self.url, self.key, self.field, self.max_entries = url, key, field, max_entries
        self.options = dict(options or {})

    async def open(self) -> Writer:
        """A connection that has been answered."""
        connect: Any = server.from_url
        client: Any = connect(self.url, **{"protocol": 2, **self.options})
        try:
            await client.ping()
        except BaseException:
            await client.aclose()
            raise
        return _RedisWriter(self, client)

    def __repr__(self) -> str:
        return f"RedisStreamSink({self.key!r})"  # The URL may hold a password.


class _RedisWriter(Writer):
    def __init__(self, sink: RedisStreamSink, client: Any) -> None:
        self._sink = sink
        self._client = client

    async def write(self, messages: Sequence[OutboxMessage]) -> Mapping[str, str]:
        sink = self._sink
        together = self._client.pipeline(transaction=True)
        for one in messages:
            fields: dict[str, Any] = {**one.headers, "everlong-id": one.id, sink.field: one.value}
            if one.key is not None:
                fields["everlong-key"] = one.key
            together.xadd(sink.key, fields, maxlen=sink.max_entries, approximate=True)
        await together.execute()
        return {}

    async def close(self) -> None:
        await self._client.aclose()
