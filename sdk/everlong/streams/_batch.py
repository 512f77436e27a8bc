"""What a loop over a stream gets: messages that are on record, with keys that stay."""

from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar

from everlong._context import current_run
from everlong.exceptions import UndecodablePayload, WorkflowFault
from everlong.streams._lanes import LANES, in_lanes
from everlong.streams._moves import FreshKeys, no_keys, suffix_of
from everlong.streams._source import Position, Source

__all__ = ["Batch", "Message", "moment_of", "records_of"]

T = TypeVar("T")
R = TypeVar("R")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)  # Not frozen: making one takes less than half of the time.
class Message(Generic[T]):
    """One message of a stream."""

    id: str
    """The same for ever, in every run and after every crash: an idempotency key for effects. Only
    behind a rewind with `keys="fresh"` it is another one."""
    value: T
    partition: str
    position: Position
    key: bytes | None
    at: datetime | None
    """When it was written, if its source knows."""
    headers: dict[str, bytes]


class Batch(Generic[T]):
    """Messages in the order of their partitions. The same after a crash: they are on record.

    async for batch in orders.batches():
        await save(batch.values)
        for message in batch:
            await notify(message.value, message.id)
    """

    def __init__(
        self,
        source: Source[T],
        stream: str,
        identity: str,
        records: list[Any],
        keys: FreshKeys = no_keys,
        *,
        asked: bool = False,
    ) -> None:
        self._source = source
        self._keys = keys
        self._asked = asked
        self._stream, self._identity = stream, identity
        self._name = f"{stream}/{identity}"
        self._records = records

    @cached_property
    def values(self) -> list[T]:
        """What the messages say, in order."""
        if self._source.is_raw:
            return [record[2] for record in self._records]
        decode = self._source.decode
        try:
            return [decode(record[2]) for record in self._records]
        except ValueError as error:
            # They did when they were recorded: it is today's code that does not take them.
            text = f"a recorded message of {self._name} does not fit its declared type now: {error}"
            if (run := current_run()) is not None:
                run.stop_with(WorkflowFault(text))
            raise UndecodablePayload(text, reason=str(error)) from error

    @cached_property
    def messages(self) -> list[Message[T]]:
        """The messages with all that their source tells of them."""
        return [
            self._message(value, *record)
            for value, record in zip(self.values, self._records, strict=True)
        ]

    @cached_property
    def id(self) -> str:
        """Of these messages together: the same as long as they come in one batch."""
        places = "\n".join(self._place(record[0], record[1]) for record in self._records)
        return f"{self._name}/{sha256(places.encode()).hexdigest()[:32]}"

    async def by_key(
        self,
        work: Callable[[Message[T]], Awaitable[R]],
        *,
        key: Callable[[Message[T]], Hashable] | None = None,
        lanes: int = LANES,
    ) -> list[R]:
        """Work on several keys at the same time, and on the messages of each in their order.

            async def book(message: Message[Order]) -> None:
                await charge(message.id, message.value)

            async for batch in orders.batches():
                await batch.by_key(book, lanes=16)
                await checkpoint()

        Returns when all are done, with what `work` has returned for each message. A key that takes
        long holds up no other of its batch; the next batch waits for it, so a message waits for at
        most one batch of others. What was done before a crash is not done again, also behind a
        message that was not.

        What people get wrong: each activity is two events of the history, so keep `max_messages`
        in the hundreds, and call `checkpoint` behind the batch.

        Args:
            work: an async function of the workflow's code, which calls activities.
            key: of a message, such as `lambda message: message.value.customer`; unless given, the
                key that its source says, and the partition for those that have none.
            lanes: how many keys at most are at work at once, 1 to 1,000.

        Raises:
            Exception: what `work` has raised. The other messages of that key are not begun, all
                other keys are finished first. Of several keys: an ExceptionGroup of them.
        """
        return await in_lanes(self.messages, key or _key_of, work, lanes)

    async def in_any_order(
        self, work: Callable[[Message[T]], Awaitable[R]], *, lanes: int = LANES
    ) -> list[R]:
        """The same for messages that have nothing to do with each other: each by itself, so many at
        once."""
        return await in_lanes(self.messages, id, work, lanes)

    def to_wire(self) -> dict[str, Any]:
        """Not for flows: all that it is made of, for an activity to make it again."""
        keys = [[name, dict(behind)] for name, behind in self._keys]
        told = {"identity": self._identity, "records": self._records, "keys": keys}
        return {**told, "asked": self._asked}

    def parts(self, messages_max: int, bytes_max: int) -> Iterator["Batch[T]"]:
        """Not for flows: the same in its order, in batches of at most so much."""
        begin, size = 0, 0
        for at, record in enumerate(self._records):
            weight = sum(len(one) for one in record[2:4] if one is not None)
            if at > begin and (at - begin >= messages_max or size + weight > bytes_max):
                yield self._part(begin, at)
                begin, size = at, 0
            size += weight
        yield self if begin == 0 else self._part(begin, len(self._records))

    def _part(self, begin: int, end: int) -> "Batch[T]":
        records = self._records[begin:end]
        own = (self._source, self._stream, self._identity)
        return Batch(*own, records, self._keys, asked=self._asked)

    def message(self, at: int) -> Message[T]:
        """Not for flows: one of them alone. Raises ValueError: it does not fit its type."""
        record = self._records[at]
        return self._message(self._source.decode(record[2]), *record)

    def name_of(self, at: int) -> str:
        """Not for flows: the id of one of them, whether it fits its type or not."""
        partition, position = self._records[at][:2]
        return f"{self._name}/{self._place(partition, position)}"

    def record(self, at: int) -> tuple[str, Sequence[Any]]:
        """Not for flows: what one message was read from, and its record."""
        return self._identity, self._records[at]

    def _message(
        self,
        value: T,
        partition: str,
        position: Position,
        _: bytes,
        key: bytes | None = None,
        at_us: int | None = None,
        headers: dict[str, bytes] | None = None,
    ) -> Message[T]:
        at = moment_of(at_us)
        name = f"{self._name}/{self._place(partition, position)}"
        return Message(name, value, partition, position, key, at, headers or {})

    def _place(self, partition: str, position: Position) -> str:
        place = f"{partition}/{position}"
        if self._keys:
            place += suffix_of(self._keys, partition, position, self._source.is_behind)
        return place

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Message[T]]:
        return iter(self.messages)

    def __repr__(self) -> str:
        return f"<batch of {len(self)} from {self._name}>"


def moment_of(at_us: int | None) -> datetime | None:
    return None if at_us is None else _EPOCH + timedelta(microseconds=at_us)


def _key_of(message: Message[Any]) -> Hashable:
    return message.partition if message.key is None else message.key


def records_of(records: Sequence[Any]) -> list[Any]:
    """Records as a history keeps them: arrays without what is not there at their end."""
    kept: list[Any] = []
    for one in records:
        if one.headers:
            kept.append(
                [one.partition, one.position, one.value, one.key, one.at_us, dict(one.headers)]
            )
        elif one.at_us is not None:
            kept.append([one.partition, one.position, one.value, one.key, one.at_us])
        elif one.key is not None:
            kept.append([one.partition, one.position, one.value, one.key])
        else:
            kept.append([one.partition, one.position, one.value])
    return kept
