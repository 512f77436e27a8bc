"""`Stream`: a source that a workflow reads for ever, batch after batch.

A batch is the result of an activity of Everlong's own, `everlong.stream.NAME`. So it is on record
before the loop sees it, it is the same after any crash, and the cursor, which comes with it, is
stored in the same append. Fencing, takeover, back-off, pause, reset and replay are those of every
activity. The run keeps the cursor and hands it to its successor; the worker keeps the source open
between the batches, and reads one ahead.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from pydantic import StrictInt, StrictStr, TypeAdapter

from everlong._context import RunPort, activity_context, user_line
from everlong._definitions import ActivityDefinition, AtOnce
from everlong._failures import ExceptionRegistry
from everlong._texts import fault_of_name, shown
from everlong._values import Parameters, Value
from everlong.channels import Output
from everlong.exceptions import (
    DefinitionError,
    EverlongError,
    InvalidArguments,
    PoisonMessage,
    StreamRewound,
)
from everlong.streams._batch import Batch, records_of
from everlong.streams._control import StreamControl
from everlong.streams._loops import cursors_of, run_here
from everlong.streams._moves import (
    FreshKeys,
    freshened,
    gone_back,
    keys_from,
    moved,
    no_keys,
)
from everlong.streams._names import activity_of, control_of, dead_letters_of, keys_of
from everlong.streams._pump import Fetched, Pump, Sizes, weight
from everlong.streams._source import Cursor, Record, Source
from everlong_engine import Retry, limits, pack, seconds_us, unpack

__all__ = ["Batches", "OnPoison", "Stream"]

T = TypeVar("T")

OnPoison: TypeAlias = Literal["stop", "dead_letter", "skip"]
_LETTERS: Final = TypeAdapter(list[tuple[StrictStr, StrictInt | StrictStr, bytes, bytes | None]])
_POLICIES: Final = ("stop", "dead_letter", "skip")

_MESSAGES_MAX: Final = 10_000
_BYTES_MAX: Final = limits.PAYLOAD_BYTES_MAX // 2
"""Of the values of one batch. What they come with takes room beside them in one payload."""
_RECORD_BYTES_MAX: Final = limits.PAYLOAD_BYTES_MAX // 4
_TOO_LARGE: Final = f"it has more than {_RECORD_BYTES_MAX:,} bytes, and only its beginning is kept"
_RELAXED: Final = (
    "{source!r} forgets what is acknowledged, and this store may lose what it has committed last: "
    'connect with durability="full"'
)
_ERROR_CHARS_MAX: Final = 500
_RETRY: Final = Retry(
    delay=0.5, non_retryable=(StreamRewound, PoisonMessage, InvalidArguments), on_exhausted="pause"
)


class Stream(Generic[T]):
    """A source of messages that a workflow reads for ever. Declare it once, at module level.

        orders = Stream("orders", Kafka("localhost:9092", topic="orders", value=Order))

        @workflow
        async def consume(total: int = 0) -> None:
            async for batch in orders.batches(max_messages=500):
                await save(batch.values)
                total += len(batch)
                await checkpoint(total=total)

    How far an execution has read stands in its own history: a batch and the position behind it are
    stored together, once, and an acknowledgement to the broker follows. What is carried from batch
    to batch is a parameter of the workflow, and goes through `checkpoint`, which keeps the history
    short. What people get wrong: an effect outside of the store may happen twice, like that of any
    activity; `message.id` and `batch.id` are the keys that make it idempotent.

    Args:
        name: how histories and commands call it; keep it as long as there are executions.
        source: what is read, see `everlong.streams`.

    Raises:
        DefinitionError: the name is empty, longer than 200 characters or cannot be shown.
    """

    def __init__(self, name: str, source: Source[T]) -> None:
        if (fault := fault_of_name(name)) is not None:
            raise DefinitionError(
                f'a Stream needs a name: Stream("orders", source); {shown(name)} {fault}'
            )
        if not isinstance(source, Source):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"stream {name!r}: {source!r:.80} is no source to read from")
        self.name = name
        self.source = source
        self.dead_letters: Output[Any] = Output(dead_letters_of(name), keep=None)
        self.definition = _definition(name, self._read, self._read_at_once)

    def batches(
        self,
        *,
        max_messages: int = 500,
        max_bytes: int = _BYTES_MAX,
        linger: float | timedelta = 0.0,
        on_poison: OnPoison = "stop",
        partitions: Sequence[str | int] | None = None,
    ) -> AsyncIterator[Batch[T]]:
        """Batch after batch, for ever. In a workflow only; one loop at a time.

        Args:
            max_messages: of a batch, at most 10,000.
            max_bytes: of the values of a batch, roughly; at most 1 MB.
            linger: seconds (or timedelta) to wait for more once there is a message.
            on_poison: what becomes of a message that does not fit the declared type. "stop" pauses
                the execution, with the reason: resume it with code that takes the message.
                "dead_letter" publishes it to the output channel `stream.dead_letters`, in the
                very append that stores the position behind it. "skip" drops it.
            partitions: read only these; None for all. Of two executions that read the same
                partitions each gets every message.

        Raises:
            InvalidArguments: an option out of its range.
        """
        sizes = _sizes(max_messages, max_bytes, linger, on_poison, partitions)
        return Batches(self, sizes, on_poison)

    async def _read(self, after: Any, sizes: Any, on_poison: str) -> Any:
        context: Any = activity_context.get()
        if context is None:
            raise EverlongError(f"stream {self.name!r} is read by a worker")
        client, execution_id = context.own_client()
        if self.source.forgets and not client.is_durable:
            raise InvalidArguments(_RELAXED.format(source=self.source))
        cursor = None if after is None else Cursor.from_wire(after)
        wanted = _sizes_of(sizes)
        shelf, key = context.shelf(), (execution_id, self.name)
        pump: Pump | None = shelf.get(key)
        if pump is not None and pump.continues(cursor, wanted):
            if cursor is not None:
                await pump.acknowledge(cursor)
        else:
            if pump is not None:
                pump.close()
            pump = shelf[key] = Pump(self.source, cursor, wanted, lambda: shelf.pop(key, None))
        try:
            fetched = await pump.next(cursor)
            good, dead = self._sorted(fetched, on_poison)
        except asyncio.CancelledError:
            raise  # Nothing was taken: another loop of the flow may go on with it.
        except BaseException:
            pump.close()  # What comes next begins at the cursor that is stored.
            raise
        context.when_stored(lambda: pump.stored(fetched.cursor))
        return _recorded(fetched, good, dead)

    def _read_at_once(
        self, shelf: dict[Any, Any], execution_id: bytes, arguments: bytes
    ) -> tuple[bytes, Callable[[], None]] | None:
        """What was read ahead, for a loop that asks for it: nobody begins an attempt for that."""
        pump: Pump | None = shelf.get((execution_id, self.name))
        if pump is None:
            return None
        (after, sizes, on_poison), _ = self.definition.parameters.decode(arguments)
        cursor = None if after is None else Cursor.from_wire(after)
        if not pump.continues(cursor, _sizes_of(sizes)) or (fetched := pump.here(cursor)) is None:
            return None
        try:
            good, dead = self._sorted(fetched, on_poison)
            result = self.definition.result.encode(_recorded(fetched, good, dead))
        except EverlongError:
            return None  # An attempt meets it, too, and is there to fail.
        pump.take_here(cursor)
        return result, lambda: pump.stored(fetched.cursor)

    def _sorted(
        self, fetched: Fetched, on_poison: str
    ) -> tuple[Sequence[Record], list[tuple[Any, str]]]:
        """What can be decoded, and what cannot, with the reason."""
        good: list[Record] = []
        dead: list[tuple[Any, str]] = []
        may_be_large = fetched.size > _RECORD_BYTES_MAX
        if self.source.is_raw and not may_be_large:
            return fetched.records, dead
        for record in fetched.records:
            large = may_be_large and weight(record) > _RECORD_BYTES_MAX
            error = _TOO_LARGE if large else self.fault_of(record.value)
            if error is None:
                good.append(record)
            elif on_poison == "stop":
                raise PoisonMessage(
                    f"stream {self.name!r}: the message {record.position} of partition "
                    f"{record.partition} is not what was declared: {error}. Resume the flow with "
                    'code that takes it, or with on_poison="dead_letter" or "skip"'
                )
            elif on_poison == "dead_letter":
                kept = replace(record, value=record.value[:500], key=None, headers={})
                dead.append((*records_of([kept if large else record]), error))
        return good, dead

    def fault_of(self, value: bytes) -> str | None:
        """Not for flows: why a value does not fit; None if it does."""
        try:
            self.source.decode(value)
        except ValueError as error:
            return " ".join(str(error).split())[:_ERROR_CHARS_MAX]
        return None

    def control(self, handle: Any) -> StreamControl:
        """What an operator does with it in one execution, given a `WorkflowHandle` of it."""
        return StreamControl(handle, self.name, self.source)

    def __repr__(self) -> str:
        return f"Stream({self.name!r}, {self.source!r})"


class Batches(AsyncIterator[Batch[T]]):
    """Not for flows: a loop over a stream. It has no state: that is the run's."""

    def __init__(self, stream: Stream[T], sizes: Sizes, on_poison: OnPoison) -> None:
        self._stream = stream
        self._sizes = _wire_of(sizes)
        self._on_poison = on_poison

    async def __anext__(self) -> Batch[T]:
        run, where = run_here(f"stream {self._stream.name!r} is read"), user_line()
        savepoints = run.rolling.savepoints
        await savepoints.rest()
        while True:
            taken = await self.take(run, await self.look(run, where))
            if taken:
                savepoints.leave()
                return taken[0]

    @property
    def key(self) -> object:
        """Not for flows: what is read."""
        return Stream, self._stream.name

    async def look(self, run: RunPort, where: str) -> Any:
        """Not for flows: wait until there is something, and take nothing yet."""
        stream = self._stream
        control, definition = control_of(stream.name), stream.definition
        after = cursors_of(run).get(stream.name)
        values = (None if after is None else unpack(after), self._sizes, self._on_poison)
        arguments = definition.parameters.encode(values, {})
        if stream.name in run.reading:
            raise EverlongError(
                f"stream {stream.name!r} is read by another task of this workflow: an execution "
                "has one cursor for it"
            )
        run.reading |= {stream.name}
        try:
            reading: asyncio.Future[Any] = asyncio.ensure_future(
                run.call_activity(definition, definition.options, arguments, where)
            )
            if not await run.signals.before(control, reading, run.loop.create_future):
                reading.cancel()
                return None
        finally:
            run.reading -= {stream.name}
        return reading.result()

    async def take(self, run: RunPort, found: Any) -> tuple[Batch[T]] | tuple[()]:
        """Not for flows: the batch that was found, if it has messages. The cursor moves here.

        Raises:
            StopAsyncIteration: somebody has asked for the end.
        """
        if found is None:
            batch = await self._told(run, await run.receive_signal(control_of(self._stream.name)))
        else:
            identity, positions, records, dead, *taken = found
            cursors_of(run)[self._stream.name] = pack([identity, positions, *taken])
            batch = await self._batch(run, identity, records, dead)
        return (batch,) if len(batch) else ()

    async def _told(self, run: RunPort, told: Any) -> Batch[T]:
        """What somebody outside asks for."""
        savepoints = run.rolling.savepoints
        match told:
            case {"do": "drain"}:
                raise StopAsyncIteration
            case {"do": "rewind"}:
                self._rewind(run, told)
            case {"do": "return", "arguments": bytes(arguments), "cursors": saved}:
                suffix = _suffix(run) if told.get("keys") == "fresh" else None
                with suppress(ValueError):
                    back = gone_back(cursors_of(run), saved, suffix)
                    await savepoints.go_back(arguments, back)
            case {"do": "savepoint", "order": order}:
                await savepoints.ask(order)
            case {"do": "forget", "name": str(name), "request": str(request)}:
                savepoints.forget(name, request)
            case {"do": "redrive", "identity": str(identity), "records": records}:
                with suppress(ValueError):
                    return await self._redriven(run, identity, _LETTERS.validate_python(records))
            case _:
                pass  # Of a version that knows more; it is on record.
        return await self._batch(run, "", [], [])

    def _rewind(self, run: RunPort, told: Any) -> None:
        stream, cursors = self._stream, cursors_of(run)
        stored = cursors.get(stream.name)
        to = moved(told, None if stored is None else unpack(stored))
        if to is None:
            return
        cursors[stream.name] = pack(to)
        if told.get("keys") == "fresh":
            behind: Any = to[1]
            known = self._keys(run)
            fresh = freshened(known, _suffix(run), behind, stream.source.is_behind)
            cursors[keys_of(stream.name)] = pack(fresh)

    def _keys(self, run: RunPort) -> FreshKeys:
        stored = cursors_of(run).get(keys_of(self._stream.name))
        return no_keys if stored is None else keys_from(unpack(stored))

    async def _redriven(self, run: RunPort, identity: str, records: list[Any]) -> Batch[T]:
        """Dead letters that the code takes by now. Which ones is recorded, as it is for what an
        activity has read: tomorrow's code may take others."""
        fault_of = self._stream.fault_of
        faults = await run.side_effect(lambda: [fault_of(one[2]) for one in records], user_line())
        judged = list(zip(records, faults, strict=True))
        good = [record for record, fault in judged if fault is None]
        return await self._batch(run, identity, good, [one for one in judged if one[1] is not None])

    async def _batch(
        self, run: RunPort, identity: str, records: list[Any], dead: list[Any]
    ) -> Batch[T]:
        """What fits; the rest is published beside the position that is stored."""
        stream = self._stream
        for record, error in dead:
            await stream.dead_letters.publish(_dead_letter(identity, record, error))
        return Batch(stream.source, stream.name, identity, records, self._keys(run))


def _definition(name: str, read: Any, at_once: AtOnce) -> ActivityDefinition:
    own = activity_of(name)
    return ActivityDefinition(
        name=own,
        function=read,
        parameters=Parameters(read, owner=own),
        result=Value(Any, owner=f"a batch of stream {name}"),
        options=_RETRY.options,
        exceptions=ExceptionRegistry(),
        is_async=True,
        waits=True,
        at_once=at_once,
    )


def _recorded(fetched: Fetched, good: Sequence[Record], dead: list[tuple[Any, str]]) -> list[Any]:
    """A batch as the result of its activity."""
    identity, positions, *taken = fetched.cursor.to_wire()
    return [identity, positions, records_of(good), dead, *taken]


def _suffix(run: RunPort) -> str:
    """By the run's own chance, so that replay finds the same."""
    return f"{run.random.getrandbits(32):08x}"


def _dead_letter(identity: str, record: Sequence[Any], error: str) -> dict[str, Any]:
    partition, position, value, *more = record
    return {
        "partition": partition,
        "position": position,
        "value": value,
        "key": more[0] if more else None,
        "error": error,
        "identity": identity,
        "cut": error == _TOO_LARGE,
    }


def _sizes(
    max_messages: int,
    max_bytes: int,
    linger: float | timedelta,
    on_poison: str,
    partitions: Sequence[str | int] | None,
) -> Sizes:
    if not 1 <= max_messages <= _MESSAGES_MAX:
        raise InvalidArguments(f"max_messages={max_messages}: give 1 to {_MESSAGES_MAX:,}")
    if not 1 <= max_bytes <= _BYTES_MAX:
        raise InvalidArguments(f"max_bytes={max_bytes}: give 1 to {_BYTES_MAX:,}")
    if on_poison not in _POLICIES:
        raise InvalidArguments(f"on_poison={on_poison!r}: give one of {', '.join(_POLICIES)}")
    if isinstance(partitions, str) or (partitions is not None and not partitions):
        raise InvalidArguments(f"partitions={partitions!r}: give a list of at least one, or None")
    chosen = None if partitions is None else tuple(map(str, partitions))
    return Sizes(max_messages, max_bytes, seconds_us(linger, "linger") / 1e6, chosen)


def _wire_of(sizes: Sizes) -> list[Any]:
    return [sizes.max_messages, sizes.max_bytes, sizes.linger_s, sizes.partitions]


def _sizes_of(wire: Any) -> Sizes:
    max_messages, max_bytes, linger_s, partitions = wire
    return Sizes(
        max_messages, max_bytes, linger_s, None if partitions is None else tuple(partitions)
    )
