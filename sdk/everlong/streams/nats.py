"""`JetStream` and `JetStreamSink`: a stream of a NATS server. Extra `everlong[nats]`."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar, overload

import nats as library
from nats.errors import Error as NatsError, MaxPayloadError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy
from nats.js.errors import APIError

from everlong.exceptions import InvalidArguments, StreamRewound
from everlong.outboxes import OutboxMessage, Sink, Writer
from everlong.streams._polled import PARTITION, position_in
from everlong.streams._source import Cursor, Reader, Record, Source, require_same

__all__ = ["JetStream", "JetStreamSink"]

T = TypeVar("T")

_nats: Final[Any] = library  # Its options carry no types.

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WAIT_S: Final = 5.0
"""Of one request; behind it, it is looked whether the server still knows the stream."""
_MESSAGES_MAX: Final = 1_000
_ONCE: Final[Mapping[str, Any]] = {
    "allow_reconnect": False,
    "max_reconnect_attempts": 1,
    "reconnect_time_wait": 0.1,
}
"""Who connects asks again by itself, and shows meanwhile that it has to."""
_TOO_LARGE: Final = 10_054
"""What the server calls a message that is larger than its stream allows."""
_FORGOTTEN_S: Final = 300.0
"""So long without a request, and the server forgets who was reading."""


class JetStream(Source[T], Generic[T]):
    """The messages of a stream in NATS, in the order of their sequence numbers.

        orders = Stream("orders", JetStream("nats://localhost:4222", stream="ORDERS", value=Order))

    The server keeps no position for the flow: nothing is acknowledged, and nothing is delivered
    again but by what the flow asks for. A message's key is its subject. What people get wrong: a
    stream whose retention is `workqueue` or `interest` forgets what is acknowledged, so it is no
    log, and it is refused.

    Args:
        servers: "nats://host:port", or several with commas between them.
        stream: its name.
        value: the type of its messages' values, see `Source`.
        subject: only messages of this one, `*` and `>` as NATS has them; None for all.
        options: more for `nats.connect`, such as `user_credentials` or `tls`.
    """

    @overload
    def __init__(
        self: "JetStream[bytes]",
        servers: str,
        stream: str,
        *,
        subject: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        servers: str,
        stream: str,
        value: type[T],
        *,
        subject: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "JetStream[Any]",
        servers: str,
        stream: str,
        value: Any,
        *,
        subject: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        servers: str,
        stream: str,
        value: Any = bytes,
        *,
        subject: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(value)
        self.servers, self.stream, self.subject = servers, stream, subject
        self.options = dict(options or {})

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader behind the cursor, or from the oldest message on."""
        at = position_in(after, partitions, 0, self)
        client = await self._connect()
        try:
            info: Any = await client.jetstream().stream_info(self.stream)
            if info.config.retention not in (None, RetentionPolicy.LIMITS):
                raise InvalidArguments(
                    f"stream {self.stream!r} of NATS has the retention {info.config.retention}: it "
                    "forgets what is acknowledged. Give it retention='limits'"
                )
            identity = self._identity(info)
            require_same(identity, after, f"stream {self.stream} of NATS")
            if after is not None and PARTITION in after.after:
                self._require_next(at, info.state)
            reader = _JetStreamReader(self, client, identity, at)
            await reader.subscribe()
        except BaseException:
            await client.close()
            raise
        return reader

    async def before(self, at_us: int, partitions: Sequence[str] | None) -> Cursor:
        """Where a moment lies, by the times that the server has given."""
        position_in(None, partitions, 0, self)
        client = await self._connect()
        try:
            stream = client.jetstream()
            info: Any = await stream.stream_info(self.stream)
            asked = await stream.pull_subscribe(
                self.subject or "",
                stream=self.stream,
                config=ConsumerConfig(
                    ack_policy=AckPolicy.NONE,
                    deliver_policy=DeliverPolicy.BY_START_TIME,
                    # The server counts nanoseconds, and they may have been rounded up.
                    opt_start_time=_EPOCH + timedelta(microseconds=max(0, at_us - 1)),
                    inactive_threshold=_WAIT_S,
                    mem_storage=True,
                ),
            )
            at = info.state.last_seq
            if (await asked.consumer_info()).num_pending:
                (first,) = await asked.fetch(1, timeout=_WAIT_S)
                at = first.metadata.sequence.stream - 1
        finally:
            await client.close()
        return Cursor(self._identity(info), {PARTITION: at} if at else {})

    def _identity(self, info: Any) -> str:
        return f"nats {self.stream} {info.created.isoformat()}"

    async def _connect(self) -> Any:
        # No second connection under the same reader: what got lost with the first is read again.
        quiet: Any = {"allow_reconnect": False, "error_cb": _leave_it_to_the_reader}
        return await _nats.connect(self.servers.split(","), **quiet, **self.options)

    def _require_next(self, at: int, state: Any) -> None:
        """Raises StreamRewound: what comes next has gone. With a subject nobody can tell whether
        what has gone was of it."""
        if state.last_seq < at:
            raise StreamRewound(
                f"stream {self.stream!r} of NATS ends at {state.last_seq}, and it was read up to "
                f"{at}: the server has lost messages. Rewind the flow to where it is to go on"
            )
        if self.subject is None and state.first_seq > at + 1:
            raise StreamRewound(
                f"stream {self.stream!r} of NATS begins at {state.first_seq}, and the flow goes on "
                f"at {at + 1}: what comes next is not kept any more. Rewind the flow to where it "
                "is to go on"
            )

    def __repr__(self) -> str:
        return f"JetStream({self.servers!r}, {self.stream!r})"


async def _leave_it_to_the_reader(_: Exception) -> None:
    """Its next request fails with the same, and is told as that of an attempt."""


class _JetStreamReader(Reader):
    def __init__(self, source: JetStream[Any], client: Any, identity: str, at: int) -> None:
        self.identity = identity
        self._source = source
        self._client = client
        self._at = at
        self._asked: Any = None
        self._delivered = 0
        """By the server's count; one that is left out was lost on its way."""

    async def subscribe(self) -> None:
        self._asked = await self._client.jetstream().pull_subscribe(
            self._source.subject or "",
            stream=self._source.stream,
            config=ConsumerConfig(
                ack_policy=AckPolicy.NONE,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._at + 1,
                inactive_threshold=_FORGOTTEN_S,
                mem_storage=True,
            ),
        )

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        loop = asyncio.get_running_loop()
        until = None if wait_s is None else loop.time() + wait_s
        wanted = min(max_messages, _MESSAGES_MAX)
        while True:
            left_s = _WAIT_S if until is None else min(_WAIT_S, until - loop.time())
            if left_s <= 0:
                return []
            try:
                found = await self._asked.fetch(wanted, timeout=left_s)
            except TimeoutError:  # The library's own, or asyncio's, by where it comes from.
                if until is None:
                    await self._asked.consumer_info()  # Raises if the server knows nothing of it.
                continue
            return [self._record(one) for one in found]

    def _record(self, message: Any) -> Record:
        told = message.metadata
        self._delivered += 1
        if told.sequence.consumer != self._delivered:
            raise NatsError(
                f"message {self._delivered} of {self._source!r} was lost on its way: it is read "
                "again"
            )
        self._at = told.sequence.stream
        told_headers: dict[str, str] = message.headers or {}
        headers = {name: text.encode() for name, text in told_headers.items()}
        at_us = int(told.timestamp.timestamp() * 1_000_000)
        return Record(PARTITION, self._at, message.data, message.subject.encode(), at_us, headers)

    async def close(self) -> None:
        await asyncio.shield(self._client.close())


class JetStreamSink(Sink):
    """Publishes what is in an outbox to a subject that a stream of NATS keeps.

        paid = Outbox("paid", JetStreamSink("nats://localhost:4222", subject="orders.paid"))

    A message's id is its header `Nats-Msg-Id`, by which the server drops one that comes again
    within the stream's `duplicate_window`, two minutes unless it says otherwise; its key is the
    header `everlong-key`. Each message is sent when the one before is stored, so they keep their
    order. What people get wrong: beyond that window a message that comes again is there twice.

    Args:
        servers: "nats://host:port", or several with commas between them.
        subject: which a stream must keep: until there is one, nothing is published.
        options: more for `nats.connect`, such as `user_credentials` or `tls`.
    """

    def __init__(
        self, servers: str, subject: str, *, options: Mapping[str, Any] | None = None
    ) -> None:
        self.servers, self.subject = servers, subject
        self.options = dict(options or {})

    async def open(self) -> Writer:
        """A connection; whether there is a stream shows with the first message."""
        options = {**_ONCE, "error_cb": _say_nothing, **self.options}
        return _JetStreamWriter(self, await _nats.connect(self.servers.split(","), **options))

    def __repr__(self) -> str:
        return f"JetStreamSink({self.subject!r})"  # The URL may hold a password.


async def _say_nothing(_: Exception) -> None:
    """What fails is raised where it was asked for."""


class _JetStreamWriter(Writer):
    def __init__(self, sink: JetStreamSink, client: Any) -> None:
        self._sink = sink
        self._client = client
        self._stream = client.jetstream()

    async def write(self, messages: Sequence[OutboxMessage]) -> Mapping[str, str]:
        refused: dict[str, str] = {}
        for one in messages:
            if not self._client.is_connected:  # Else the answer is waited for.
                raise ConnectionError("the connection to the server has ended")
            headers = {"Nats-Msg-Id": one.id, **one.headers}
            if one.key is not None:
                headers["everlong-key"] = one.key.decode("utf-8", "backslashreplace")
            try:
                await self._stream.publish(
                    self._sink.subject, one.value, timeout=_WAIT_S, headers=headers
                )
            except MaxPayloadError as error:
                refused[one.id] = f"larger than the server takes: {error}"
            except APIError as error:
                if error.err_code != _TOO_LARGE:
                    raise
                refused[one.id] = f"larger than the stream takes: {error.description}"
        return refused

    async def close(self) -> None:
        await self._client.close()
