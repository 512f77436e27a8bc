"""`RabbitQueue`, `RabbitStream` and `RabbitSink`: a RabbitMQ server. Extra `everlong[rabbitmq]`.

A queue forgets what is acknowledged, and keeps no positions: see `_forgetful`. A stream (a queue
declared with `x-queue-type: stream`) is a log with offsets, like a topic.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar, cast, overload

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import ChannelPreconditionFailed

from everlong.exceptions import EverlongError, InvalidArguments, StreamRewound
from everlong.outboxes import OutboxMessage, Sink, Writer
from everlong.streams._forgetful import ForgetfulReader, check_prefetch, require_whole
from everlong.streams._polled import PARTITION, position_in
from everlong.streams._source import Cursor, Position, Reader, Record, Source, require_same

__all__ = ["RabbitQueue", "RabbitSink", "RabbitStream"]

T = TypeVar("T")

_connect: Final[Any] = aio_pika.connect  # Its options are the user's.
_CONNECT_S: Final = 10.0
_OPEN_S: Final = 15.0
"""For all of it: a server that is just starting takes connections, and answers nothing on them."""
_CLOSE_S: Final = 2.0
_OFFSET: Final = "x-stream-offset"
_NOTHING: Final = -1
_LOOK_S: Final = 1.0
"""Nothing comes for so long from where a flow goes on: it is looked whether that is there."""
_PROBE_S: Final = 0.5
"""Of such a look: for the first message, and then for what is sent with it."""


class RabbitQueue(Source[T], Generic[T]):
    """The messages of a queue, classic or quorum, in the order in which it gives them out.

        orders = Stream("orders", RabbitQueue("amqp://localhost", "orders", Order))

    The server forgets what is acknowledged, and that is what the flow has stored. A message that is
    sent again, since its acknowledgement was lost, is known by its property `message_id`, and
    dropped. A message's key is its routing key.

    What people get wrong: messages without a `message_id` may come twice after a crash, for nothing
    tells a second delivery from a second message; and an id that two messages share makes the
    second one a repetition. One flow reads a queue at a time; to spread the work, use several
    queues.

    Args:
        url: "amqp://user:password@host/vhost".
        queue: its name; it must be there.
        value: the type of its messages' values, see `Source`.
        prefetch: so many messages may be on their way to the flow, or in its batches, before they
            are stored, 1 to 10,000. Marks of twice as many are part of every position: 16 bytes
            for each.
        options: more for `aio_pika.connect`, such as `ssl_options`.
    """

    forgets = True

    @overload
    def __init__(
        self: "RabbitQueue[bytes]",
        url: str,
        queue: str,
        *,
        prefetch: int = 500,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        url: str,
        queue: str,
        value: type[T],
        *,
        prefetch: int = 500,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "RabbitQueue[Any]",
        url: str,
        queue: str,
        value: Any,
        *,
        prefetch: int = 500,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        url: str,
        queue: str,
        value: Any = bytes,
        *,
        prefetch: int = 500,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(value)
        self.url, self.queue, self.prefetch = url, queue, check_prefetch(prefetch)
        self.options = {"timeout": _CONNECT_S, **(options or {})}

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader of what nobody has acknowledged."""
        require_whole(partitions, self)
        identity = f"rabbitmq queue {self.queue}"
        require_same(identity, after, f"queue {self.queue} of RabbitMQ")
        async with asyncio.timeout(_OPEN_S):
            deliveries = await _Deliveries.connect(self)
            try:
                reader = _QueueReader(self, deliveries, identity, after)
                await self._consume_alone(deliveries)
            except BaseException:
                await deliveries.close()
                raise
        return reader

    async def _consume_alone(self, deliveries: "_Deliveries") -> None:
        """Raises EverlongError: somebody else reads it. Asked before, so that nothing is taken from
        them, and behind, as two may have asked at the same moment: one of them sees both."""
        if await deliveries.readers(self.queue):
            raise self._is_taken()
        # A stream knows no priorities, and would begin with whatever comes next.
        await deliveries.consume(self.queue, {"x-priority": 0}, "RabbitStream")
        if await deliveries.readers(self.queue) > 1:
            raise self._is_taken()

    def _is_taken(self) -> EverlongError:
        return EverlongError(
            f"queue {self.queue!r} of RabbitMQ is read by somebody else, and one flow reads a "
            "queue at a time: what one gets is gone for all others. It is tried again"
        )

    def __repr__(self) -> str:
        return f"RabbitQueue({self.queue!r})"  # The URL may hold a password.


class RabbitStream(Source[T], Generic[T]):
    """The messages of a stream (`x-queue-type: stream`), in the order of their offsets.

        orders = Stream("orders", RabbitStream("amqp://localhost", "orders", Order))

    A new flow begins at the oldest message that is kept. The server keeps no position for the flow.
    A message's key is its routing key. What people get wrong: offsets have gaps, and those of a
    stream that was deleted, made anew and filled beyond the cursor tell nothing of that; give one
    that is made anew another name.

    Args:
        url: "amqp://user:password@host/vhost".
        stream: its name; it must be there.
        value: the type of its messages' values, see `Source`.
        prefetch: so many messages may be on their way to the flow, 1 to 10,000.
        options: more for `aio_pika.connect`, such as `ssl_options`.
    """

    @overload
    def __init__(
        self: "RabbitStream[bytes]",
        url: str,
        stream: str,
        *,
        prefetch: int = 1_000,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        url: str,
        stream: str,
        value: type[T],
        *,
        prefetch: int = 1_000,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "RabbitStream[Any]",
        url: str,
        stream: str,
        value: Any,
        *,
        prefetch: int = 1_000,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        url: str,
        stream: str,
        value: Any = bytes,
        *,
        prefetch: int = 1_000,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(value)
        self.url, self.stream, self.prefetch = url, stream, check_prefetch(prefetch)
        self.options = {"timeout": _CONNECT_S, **(options or {})}

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader behind the cursor, or from the oldest message on."""
        at = position_in(after, partitions, _NOTHING, self)
        identity = f"rabbitmq stream {self.stream}"
        require_same(identity, after, f"stream {self.stream} of RabbitMQ")
        async with asyncio.timeout(_OPEN_S):
            deliveries = await _Deliveries.connect(self)
            try:
                await deliveries.readers(self.stream)  # Raises: there is none.
                # With the last one that was read, so that it shows whether it still is there.
                begin = "first" if at == _NOTHING else at
                await deliveries.consume(self.stream, {_OFFSET: begin}, "RabbitQueue")
            except BaseException:
                await deliveries.close()
                raise
        return _StreamReader(self, deliveries, identity, at)

    async def before(self, at_us: int, partitions: Sequence[str] | None) -> Cursor:
        """Where a moment lies, by what publishers say in the property `timestamp`."""
        # That has no more than seconds: what was written within the same one is behind it, too.
        return await super().before(at_us - at_us % 1_000_000, partitions)

    def __repr__(self) -> str:
        return f"RabbitStream({self.stream!r})"  # The URL may hold a password.


class _Deliveries:
    """A connection with one consumer: what came, and was not taken yet."""

    def __init__(self, source: RabbitQueue[Any] | RabbitStream[Any], connection: Any) -> None:
        self._source = source
        self._connection = connection
        self._channel: Any = None
        self._more = asyncio.Event()
        self._fault: str | None = None
        self.came: deque[AbstractIncomingMessage] = deque()

    @classmethod
    async def connect(cls, source: RabbitQueue[Any] | RabbitStream[Any]) -> "_Deliveries":
        """No second connection under the same reader: what got lost with the first comes again."""
        made = cls(source, await _connect(source.url, **source.options))
        try:
            await made._open_channel()
        except BaseException:
            await made.close()
            raise
        return made

    async def _open_channel(self) -> None:
        self._channel = await self._connection.channel(publisher_confirms=False)
        await self._channel.set_qos(prefetch_count=self._source.prefetch)
        self._channel.close_callbacks.add(self._has_closed)
        self._connection.close_callbacks.add(self._has_closed)
        below = await self._channel.get_underlay_channel()
        below.on_consumer_cancel_callbacks.add(self._has_been_cancelled)

    def _has_been_cancelled(self, _: object) -> None:
        self._end("the server has ended the reading, as it was deleted, or its node has gone")

    def _has_closed(self, _: object, error: BaseException | None = None) -> None:
        self._end(f"the connection is closed: {error or 'by the server'}")

    def _end(self, fault: str) -> None:
        self._fault = self._fault or fault
        self._more.set()

    async def readers(self, name: str) -> int:
        """How many read it. Raises the library's error: there is none of that name."""
        queue = await self._channel.declare_queue(name, passive=True)
        return int(queue.declaration_result.consumer_count)

    async def consume(self, name: str, arguments: dict[str, Any], otherwise: str) -> None:
        """Raises InvalidArguments: it is one of the other kind."""
        queue = await self._channel.get_queue(name, ensure=False)
        try:
            await queue.consume(self._take, arguments=arguments)
        except ChannelPreconditionFailed as error:
            raise InvalidArguments(
                f"{self._source!r} is none ({error}): read it with {otherwise}"
            ) from error

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self.came.append(message)
        self._more.set()

    async def some(self, until: float | None) -> bool:
        """Whether something came, by that moment. Raises ConnectionError."""
        try:
            async with asyncio.timeout_at(until):
                while not self.came:
                    if self._fault is not None:
                        raise ConnectionError(f"{self._source!r}: {self._fault}")
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            return bool(self.came)
        return True

    async def acknowledge(self, delivery: int, *, multiple: bool) -> None:
        below = await self._channel.get_underlay_channel()
        await below.basic_ack(delivery, multiple=multiple)

    async def close(self) -> None:
        await asyncio.shield(self._close())

    async def _close(self) -> None:
        """In order, if the server still answers; else its socket goes with the connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._connection.close()


class _QueueReader(ForgetfulReader):
    def __init__(
        self,
        source: RabbitQueue[Any],
        deliveries: _Deliveries,
        identity: str,
        after: Cursor | None,
    ) -> None:
        super().__init__(identity, after, source.prefetch, source)
        self._deliveries = deliveries

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        until = None if wait_s is None else asyncio.get_running_loop().time() + wait_s
        came, found, size = self._deliveries.came, list[Record](), 0
        while not found and await self._deliveries.some(until):
            while came and len(found) < max_messages and size < max_bytes:
                message = came.popleft()
                delivery = _delivery_of(message)
                position = self.position_of(message.message_id, delivery)
                if position is None:
                    await self._deliveries.acknowledge(delivery, multiple=False)
                else:
                    found.append(_record(message, position))
                    size += len(message.body)
        return found

    async def acknowledge(self, cursor: Cursor) -> None:
        if deliveries := self.to_acknowledge(cursor):
            await self._deliveries.acknowledge(deliveries[-1], multiple=True)

    async def close(self) -> None:
        await self._deliveries.close()


class _StreamReader(Reader):
    def __init__(
        self, source: RabbitStream[Any], deliveries: _Deliveries, identity: str, at: int
    ) -> None:
        self.identity = identity
        self._source = source
        self._deliveries = deliveries
        self._at = at
        self._is_sure = at == _NOTHING
        """What comes is what follows: the place where the flow goes on is there."""

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        until = None if wait_s is None else asyncio.get_running_loop().time() + wait_s
        came, found, size = self._deliveries.came, list[Record](), 0
        while not found and await self._make_sure(until) and await self._deliveries.some(until):
            last = came[0]
            while came and len(found) < max_messages and size < max_bytes:
                last = came.popleft()
                offset = _offset_of(last)
                if offset > self._at:  # The last one that was read was asked for, too.
                    self._at = offset
                    found.append(_record(last, offset))
                    size += len(last.body)
            # Nothing is forgotten by it: the server sends more.
            await self._deliveries.acknowledge(_delivery_of(last), multiple=True)
        return found

    async def _make_sure(self, until: float | None) -> bool:
        """False: nothing came by that moment. Raises StreamRewound: the stream ends before what was
        read, or begins behind it."""
        loop, deliveries = asyncio.get_running_loop(), self._deliveries
        while not self._is_sure:
            look = loop.time() + _LOOK_S
            if await deliveries.some(look if until is None else min(look, until)):
                await self._require_kept(_offset_of(deliveries.came[0]))
                self._is_sure = True
                break
            await self._require_end()
            if until is not None and loop.time() >= until:
                return False
        return True

    async def _require_end(self) -> None:
        """The server sends nothing, and says nothing, to who asks for what is yet to come."""
        last = await self._offsets_from("last")
        if last and not self._deliveries.came:
            raise StreamRewound(
                f"stream {self._source.stream!r} of RabbitMQ ends at {last[-1]}, and it was read "
                f"up to {self._at}: it was made anew, or the server has lost messages. Rewind the "
                "flow to where it is to go on"
            )

    async def _require_kept(self, first: int) -> None:
        """Offsets have gaps: something is missing only if there is nothing before them."""
        if first > self._at + 1 and (await self._offsets_from("first"))[:1] == [first]:
            raise StreamRewound(
                f"stream {self._source.stream!r} of RabbitMQ begins at {first}, and the flow goes "
                f"on at {self._at + 1}: what comes next is not kept any more. Rewind the flow to "
                "where it is to go on"
            )

    async def _offsets_from(self, begin: str) -> list[int]:
        """Of messages at an end of the stream, if there are any; over a connection of its own."""
        deliveries = await _Deliveries.connect(self._source)
        try:
            await deliveries.consume(self._source.stream, {_OFFSET: begin}, "RabbitQueue")
            if await deliveries.some(asyncio.get_running_loop().time() + _PROBE_S):
                await asyncio.sleep(_PROBE_S)  # "last" is a whole chunk of them.
            return [_offset_of(one) for one in deliveries.came]
        finally:
            await deliveries.close()

    async def close(self) -> None:
        await self._deliveries.close()


def _record(message: AbstractIncomingMessage, position: Position) -> Record:
    at = message.timestamp
    at_us = None if at is None else round(at.timestamp() * 1_000_000)
    headers = {name: _as_bytes(value) for name, value in message.headers.items() if name != _OFFSET}
    key = None if message.routing_key is None else message.routing_key.encode()
    return Record(PARTITION, position, message.body, key, at_us, headers)


def _as_bytes(value: object) -> bytes:
    """Numbers, times and tables as Python writes them."""
    return value if isinstance(value, bytes) else str(value).encode()


def _offset_of(message: AbstractIncomingMessage) -> int:
    return cast("int", message.headers[_OFFSET])


def _delivery_of(message: AbstractIncomingMessage) -> int:
    delivery = message.delivery_tag
    assert delivery is not None, "it was not asked for without acknowledging"
    return delivery


class RabbitSink(Sink):
    """Publishes what is in an outbox to an exchange, or to a queue by its name.

        paid = Outbox("paid", RabbitSink("amqp://localhost", routing_key="paid"))

    A message's id is its property `message_id`, by which `RabbitQueue` drops one that comes again;
    its key is the header `everlong-key`. Messages are persistent, and each is sent when the server
    has confirmed the one before, so they keep their order. What no queue takes is no success: until
    something is bound to the exchange, nothing is published. What people get wrong: a queue that is
    not durable forgets what it has confirmed when the server stops.

    Args:
        url: "amqp://user:password@host/vhost".
        routing_key: with which they are published; of the default exchange, a queue's name.
        exchange: its name; it must be there.
        options: more for `aio_pika.connect`, such as `ssl_options`.
    """

    def __init__(
        self,
        url: str,
        routing_key: str,
        *,
        exchange: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.url, self.routing_key, self.exchange = url, routing_key, exchange
        self.options = {"timeout": _CONNECT_S, **(options or {})}

    async def open(self) -> Writer:
        """A channel that confirms what is published."""
        async with asyncio.timeout(_OPEN_S):
            connection = await _connect(self.url, **self.options)
            try:
                channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                exchange = channel.default_exchange
                if self.exchange:
                    exchange = await channel.get_exchange(self.exchange, ensure=True)
            except BaseException:
                await connection.close()
                raise
        return _RabbitWriter(self, connection, exchange)

    def __repr__(self) -> str:
        return f"RabbitSink({self.routing_key!r})"  # The URL may hold a password.


class _RabbitWriter(Writer):
    def __init__(self, sink: RabbitSink, connection: Any, exchange: Any) -> None:
        self._sink = sink
        self._connection = connection
        self._exchange = exchange

    async def write(self, messages: Sequence[OutboxMessage]) -> Mapping[str, str]:
        for one in messages:
            headers: dict[str, Any] = dict(one.headers)
            if one.key is not None:
                headers["everlong-key"] = one.key.decode("utf-8", "backslashreplace")
            message = aio_pika.Message(
                one.value,
                headers=headers,
                message_id=one.id,
                timestamp=one.at,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await self._exchange.publish(message, self._sink.routing_key, mandatory=True)
        return {}

    async def close(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._connection.close()
