"""`Kafka` and `KafkaSink`: a topic of any broker that speaks Kafka's protocol. Extra
`everlong[kafka]`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, overload

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # pyright: ignore[reportMissingTypeStubs]
from aiokafka.errors import (  # pyright: ignore[reportMissingTypeStubs]
    InvalidMessageError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition  # pyright: ignore[reportMissingTypeStubs]

from everlong.exceptions import InvalidArguments, StreamRewound
from everlong.outboxes import OutboxMessage, Sink, Writer
from everlong.streams._source import (
    Cursor,
    Position,
    Reader,
    Record,
    Source,
    number_in,
    require_same,
)

__all__ = ["Kafka", "KafkaSink"]

T = TypeVar("T")

_FOREVER_S: Final = 3600.0
_consumer: Final[Any] = AIOKafkaConsumer  # Its options are the user's.
_producer: Final[Any] = AIOKafkaProducer
_REFUSALS: Final = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidMessageError)
"""What no repetition changes."""


class Kafka(Source[T], Generic[T]):
    """The messages of a topic, each partition in its order.

        orders = Stream("orders", Kafka("localhost:9092", topic="orders", value=Order))

    Partitions are assigned by the flow, without a consumer group, so no broker rebalances: to
    spread a topic over workers, start a family of flows with `Stream.spread`. A new flow begins at
    the oldest message that is kept. Values without content (tombstones) are empty bytes.
    Transactions that were aborted are not read.

    What people get wrong: the flow's position stands in its history and not in the broker, so
    resetting the offsets of a group changes nothing; with `group` they are written there only for
    others to look at.

    Args:
        servers: "host:port", or several with commas between them.
        topic: its name.
        value: the type of its messages' values, see `Source`.
        group: the consumer group under which positions are told to the broker; None tells nothing.
        options: more for `aiokafka.AIOKafkaConsumer`, such as `security_protocol`.
    """

    @overload
    def __init__(
        self: "Kafka[bytes]",
        servers: str,
        topic: str,
        *,
        group: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        servers: str,
        topic: str,
        value: type[T],
        *,
        group: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Kafka[Any]",
        servers: str,
        topic: str,
        value: Any,
        *,
        group: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        servers: str,
        topic: str,
        value: Any = bytes,
        *,
        group: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(value)
        self.servers, self.topic, self.group = servers, topic, group
        self.options = {"isolation_level": "read_committed", **(options or {})}

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader behind the cursor, or from the oldest messages on."""
        consumer = self._consumer()
        try:
            await consumer.start()
            chosen = await self._partitions(consumer, partitions)
            reader = _KafkaReader(self, consumer, chosen, self._identity)
            require_same(reader.identity, after, f"topic {self.topic}")
            await reader.seek(after)
        except BaseException:
            await consumer.stop()
            raise
        return reader

    async def partitions(self) -> Sequence[str]:
        """Those that the topic has by now."""
        consumer = self._consumer()
        try:
            await consumer.start()
            return [str(one.partition) for one in await self._partitions(consumer, None)]
        finally:
            await consumer.stop()

    async def before(self, at_us: int, partitions: Sequence[str] | None) -> Cursor:
        """Where a moment lies, by the timestamps that the broker has indexed."""
        consumer = self._consumer()
        try:
            await consumer.start()
            chosen = await self._partitions(consumer, partitions)
            # What was written within the same millisecond is behind it, too.
            found = await consumer.offsets_for_times(dict.fromkeys(chosen, at_us // 1000))
            ends = await consumer.end_offsets(chosen)
        finally:
            await consumer.stop()
        begins = {
            str(one.partition): ends[one] if found[one] is None else found[one].offset
            for one in chosen
        }
        return Cursor(self._identity, {name: at - 1 for name, at in begins.items() if at > 0})

    @property
    def _identity(self) -> str:
        return f"kafka {self.topic}"

    def _consumer(self) -> Any:
        return _consumer(
            bootstrap_servers=self.servers,
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            **self.options,
        )

    async def _partitions(
        self, consumer: Any, partitions: Sequence[str] | None
    ) -> list[TopicPartition]:
        await consumer._client.add_topic(self.topic)  # Its metadata, read without a subscription.
        there: set[int] | None = consumer.partitions_for_topic(self.topic)
        if not there:
            raise KafkaError(f"there is no topic {self.topic!r} at {self.servers}")
        names = {str(one): one for one in sorted(there)}
        wanted = names.keys() if partitions is None else set(partitions)
        if missing := wanted - names.keys():
            raise InvalidArguments(
                f"topic {self.topic!r} has the partitions {sorted(there)}, not {sorted(missing)}"
            )
        return [TopicPartition(self.topic, one) for name, one in names.items() if name in wanted]

    def __repr__(self) -> str:
        return f"Kafka({self.servers!r}, {self.topic!r})"


class _KafkaReader(Reader):
    def __init__(
        self, source: Kafka[Any], consumer: Any, partitions: list[TopicPartition], identity: str
    ) -> None:
        self._source = source
        self._consumer = consumer
        self._partitions = partitions
        self.identity = identity

    async def seek(self, after: Cursor | None) -> None:
        """Where the flow goes on. Raises StreamRewound, and InvalidArguments: it is no offset."""
        consumer, partitions = self._consumer, self._partitions
        consumer.assign(partitions)
        first = await consumer.beginning_offsets(partitions)
        last = await consumer.end_offsets(partitions)
        read: Mapping[str, Position] = {} if after is None else after.after
        for one in partitions:
            at = read.get(str(one.partition))
            to = first[one] if at is None else number_in(at, self._source) + 1
            if not first[one] <= to <= last[one]:
                raise StreamRewound(
                    f"partition {one.partition} of topic {one.topic!r} holds the offsets "
                    f"{first[one]} to {last[one]}, and the flow goes on at {to}: the topic was "
                    "made anew, or what comes next is not kept any more. Rewind the flow to where "
                    "it is to go on"
                )
            consumer.seek(one, to)

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        wait_ms = int(1000 * (_FOREVER_S if wait_s is None else wait_s))
        while True:
            found = await self._consumer.getmany(timeout_ms=wait_ms, max_records=max_messages)
            if found or wait_s is not None:
                return [
                    _record(str(partition.partition), one)
                    for partition, lot in found.items()
                    for one in lot
                ]

    async def acknowledge(self, cursor: Cursor) -> None:
        if self._source.group is None:
            return
        offsets = {
            one: OffsetAndMetadata(int(at) + 1, "")
            for one in self._partitions
            if (at := cursor.after.get(str(one.partition))) is not None
        }
        if offsets:
            await self._consumer.commit(offsets)

    async def close(self) -> None:
        await asyncio.shield(self._consumer.stop())


def _record(partition: str, one: Any) -> Record:
    value = b"" if one.value is None else one.value
    record = Record(partition, one.offset, value, one.key, one.timestamp * 1000)
    if one.headers:
        record.headers = dict(one.headers)
    return record


class KafkaSink(Sink):
    """Publishes what is in an outbox to a topic.

        paid = Outbox("paid", KafkaSink("localhost:9092", topic="paid"))

    A message's id is its header `everlong-id`. The producer is idempotent, so what the network
    repeats is there once; what is published again behind a crash is there twice, with one id. The
    broker keeps the order of each partition, and messages of one key are in one. What people get
    wrong: without a key a message is in any partition, before or behind the others.

    Args:
        servers: "host:port", or several with commas between them.
        topic: its name.
        options: more for `aiokafka.AIOKafkaProducer`, such as `security_protocol` or
            `max_request_size`, beyond which a message is set aside.
    """

    def __init__(
        self, servers: str, topic: str, *, options: Mapping[str, Any] | None = None
    ) -> None:
        self.servers, self.topic = servers, topic
        self.options = {"enable_idempotence": True, **(options or {})}

    async def open(self) -> Writer:
        """A producer that has found the brokers."""
        return _KafkaWriter(self, await self.producer())

    async def producer(self) -> Any:
        """Not for flows."""
        producer = _producer(bootstrap_servers=self.servers, **self.options)
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    def __repr__(self) -> str:
        return f"KafkaSink({self.servers!r}, topic={self.topic!r})"


class _KafkaWriter(Writer):
    def __init__(self, sink: KafkaSink, producer: Any) -> None:
        self._sink = sink
        self._producer = producer

    async def write(self, messages: Sequence[OutboxMessage]) -> Mapping[str, str]:
        refused: dict[str, str] = {}
        sent: list[tuple[OutboxMessage, asyncio.Future[Any]]] = []
        for one in messages:
            try:
                sent.append((one, await self._send(one)))
            except _REFUSALS as error:
                refused[one.id] = _refusal(error)
        told = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        doubtful: list[OutboxMessage] = []
        for (one, _), answer in zip(sent, told, strict=True):
            if isinstance(answer, _REFUSALS):
                doubtful.append(one)
            elif isinstance(answer, BaseException):
                raise answer
        return refused | await self._alone(doubtful)

    async def _send(self, one: OutboxMessage) -> "asyncio.Future[Any]":
        texts = {"everlong-id": one.id, **one.headers}
        headers = [(name, text.encode()) for name, text in texts.items()]
        at_ms = round(one.at.timestamp() * 1000)
        sent: asyncio.Future[Any] = await self._producer.send(
            self._sink.topic, one.value, one.key, headers=headers, timestamp_ms=at_ms
        )
        return sent

    async def _alone(self, doubtful: Sequence[OutboxMessage]) -> dict[str, str]:
        """A broker refuses a batch as a whole, whichever of it is too large."""
        refused: dict[str, str] = {}
        for one in doubtful:
            # The numbers of the one before have a gap by now.
            await self._producer.stop()
            self._producer = await self._sink.producer()
            try:
                await (await self._send(one))
            except _REFUSALS as error:
                refused[one.id] = _refusal(error)
        return refused

    async def close(self) -> None:
        await self._producer.stop()


def _refusal(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
