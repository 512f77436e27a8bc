"""`Stream`: a source that a workflow reads for ever, batch after batch.

A batch is the result of an activity of Everlong's own, `everlong.stream.NAME`. So it is on record
before the loop sees it, it is the same after any crash, and the cursor, which comes with it, is
stored in the same append. Fencing, takeover, back-off, pause, reset and replay are those of every
activity. The run keeps the cursor and hands it to its successor; the worker keeps the source open
between the batches, and reads one ahead.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace as dataclass_replace
from datetime import timedelta
from typing import Any, Final, Generic, Literal, TypeVar

from msgspec.structs import replace

from everlong._context import activity_context
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
from everlong.streams._batches import Batches, Declared
from everlong.streams._control import StreamControl
from everlong.streams._letters import ERROR_CHARS_MAX, RECORD_BYTES_MAX, TOO_LARGE
from everlong.streams._names import activity_of, dead_letters_of, hold_of, parked_of
from everlong.streams._parts import part_from
from everlong.streams._poison import AS_IT_IS, OnPoison, Poison, poison_of, stop
from everlong.streams._pump import Fetched, Pump, Sizes, weight
from everlong.streams._source import Cursor, Record, Source
from everlong.streams._spread import Carry, Family, Spread
from everlong.workflow import Workflow
from everlong_engine import Retry, limits, seconds_us

__all__ = ["Stream", "sizes_from", "sizes_of", "sizes_wire"]

T = TypeVar("T")

_MESSAGES_MAX: Final = 10_000
_BYTES_MAX: Final = limits.PAYLOAD_BYTES_MAX // 2
"""Of the values of one batch. What they come with takes room beside them in one payload."""
_RELAXED: Final = (
    "{source!r} forgets what is acknowledged, and this store may lose what it has committed last: "
    'connect with durability="full"'
)
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
        self._declared = Declared(
            name,
            source,
            self.definition,
            _holding(name),
            self.dead_letters,
            Output(parked_of(name), keep=None),
            self.fault_of,
        )

    def batches(
        self,
        *,
        max_messages: int = 500,
        max_bytes: int = _BYTES_MAX,
        linger: float | timedelta = 0.0,
        on_poison: OnPoison = stop,
        partitions: Sequence[str | int] | None = None,
    ) -> AsyncIterator[Batch[T]]:
        """Batch after batch, for ever. In a workflow only; one loop at a time.

        Args:
            max_messages: of a batch, at most 10,000.
            max_bytes: of the values of a batch, roughly; at most 1 MB.
            linger: seconds (or timedelta) to wait for more once there is a message.
            on_poison: what becomes of a message that does not fit the declared type, or on which
                the body of the loop fails: `stop`, `dead_letter(after=5)`, `park_key(after=5)` or
                `skip(after=5)`; see there. The texts "dead_letter" and so on are the same.
            partitions: read only these; None for all, or in a flow of `spread` for those of its
                part. Of two executions that read the same partitions each gets every message.

        Raises:
            InvalidArguments: an option out of its range; keys are to be parked, and the source has
                none.
        """
        sizes = sizes_of(max_messages, max_bytes, linger, partitions)
        return Batches(self._declared, sizes, poison_of(on_poison, self.source))

    def read_by(self, sizes: Sizes, poison: Poison, *, keeps_states: bool) -> Batches[T]:
        """Not for flows: the same for a loop of Everlong's own."""
        return Batches(self._declared, sizes, poison, keeps_states=keeps_states)

    async def _read(self, after: Any, sizes: Any, on_poison: str) -> Any:
        context: Any = activity_context.get()
        if context is None:
            raise EverlongError(f"stream {self.name!r} is read by a worker")
        client, execution_id = context.own_client()
        if self.source.forgets and not client.is_durable:
            raise InvalidArguments(_RELAXED.format(source=self.source))
        cursor = None if after is None else Cursor.from_wire(after)
        wanted = sizes_from(sizes)
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
        if not pump.continues(cursor, sizes_from(sizes)) or (fetched := pump.here(cursor)) is None:
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
    ) -> tuple[Sequence[Record], list[tuple[Any, str, int]]]:
        """What can be decoded, and what cannot, with the reason, and behind how many."""
        good: list[Record] = []
        dead: list[tuple[Any, str, int]] = []
        may_be_large = fetched.size > RECORD_BYTES_MAX
        as_it_is = on_poison == AS_IT_IS.policy
        if not may_be_large and (self.source.is_raw or as_it_is):
            return fetched.records, dead
        for record in fetched.records:
            large = may_be_large and weight(record) > RECORD_BYTES_MAX
            error = TOO_LARGE if large else None
            if not (large or as_it_is):
                error = self.fault_of(record.value)
            if error is None:
                good.append(record)
            elif on_poison == "stop":
                raise PoisonMessage(
                    f"stream {self.name!r}: the message {record.position} of partition "
                    f"{record.partition} is not what was declared: {error}. Resume the flow with "
                    "code whose type takes it; or with another on_poison, and a rewind to where it "
                    "stands, for this read goes on with the one that it was asked for with"
                )
            elif on_poison != "skip":
                kept = dataclass_replace(record, value=record.value[:500], key=None, headers={})
                dead.append((*records_of([kept if large else record]), error, len(good)))
        return good, dead

    def fault_of(self, value: bytes) -> str | None:
        """Not for flows: why a value does not fit; None if it does."""
        try:
            self.source.decode(value)
        except ValueError as error:
            return " ".join(str(error).split())[:ERROR_CHARS_MAX]
        return None

    def control(self, handle: Any) -> StreamControl:
        """What an operator does with it in one execution, given a `WorkflowHandle` of it."""
        return StreamControl(handle, self.name, self.source)

    async def spread(
        self,
        client: Any,
        workflow: Workflow[..., Any],
        /,
        *args: Any,
        id: str,
        parts: int,
        carry: Carry | Literal["forget"] | None = None,
        wait: float | timedelta = 30.0,
        **kwargs: Any,
    ) -> Spread:
        """Start a family of flows which read this stream together, each partition by exactly one.

            family = await orders.spread(client, consume, id="orders", parts=8)

        Flow number 3 is the execution `orders/1/3`. In it, `orders.batches()` reads the partitions
        that are its part: those whose number, divided by `parts`, leaves 3. New ones are found by
        whoever they belong to. With several workers on a server, the flows spread over them.

        Repeated, the call starts what is missing, and changes nothing else. With another number of
        parts it stops all flows, each with a savepoint behind the batch in work, and when all have
        ended starts `orders/2/0` and so on where they were: nothing is lost or read twice. If it is
        interrupted there, nothing is read until it is repeated.

        What people get wrong: a flow's state is that of its partitions. With another number of
        parts these lie otherwise, so say by `carry` what the new flows begin with.

        Args:
            client: where they are started.
            workflow, args, kwargs: what each of them is.
            id: of the family.
            parts: how many flows, 1 to 1,000. More than there are partitions leaves some waiting.
            carry: for another number of parts: a function of what the flows before carried (by
                their numbers) and the number of a new flow, which returns the parameters that it
                begins with; or "forget", to begin with the arguments of this call.
            wait: seconds (or timedelta) for each flow to come to a checkpoint, when it is stopped.

        Raises:
            InvalidArguments: the source has no partitions to share; or these flows cannot go on as
                another number of flows.
            EverlongError: a flow has failed or was ended by somebody; or it came to no checkpoint
                in time, and repeating the call goes on with it.
        """
        arguments = workflow.definition.parameters.encode(args, kwargs)
        family = Family(client, self.name, self.source, id, workflow, arguments, carry, wait)
        return await family.spread(parts)

    def __repr__(self) -> str:
        return f"Stream({self.name!r}, {self.source!r})"


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
        terms=("sizes", "on_poison"),
        at_once=at_once,
    )


def _recorded(
    fetched: Fetched, good: Sequence[Record], dead: list[tuple[Any, str, int]]
) -> list[Any]:
    """A batch as the result of its activity."""
    identity, positions, *taken = fetched.cursor.to_wire()
    return [identity, positions, records_of(good), dead, *taken]


async def _hold(why: str) -> None:
    context: Any = activity_context.get()
    if context is not None and context.info().attempt == 1:
        raise PoisonMessage(why)


def _holding(name: str) -> ActivityDefinition:
    """What pauses an execution for as long as nobody resumes it. One whose worker died has perhaps
    not done so, and is begun anew."""
    own = hold_of(name)
    return ActivityDefinition(
        name=own,
        function=_hold,
        parameters=Parameters(_hold, owner=own),
        result=Value(Any, owner=f"a pause of stream {name}"),
        options=replace(_RETRY.options, at_most_once=True),
        exceptions=ExceptionRegistry(),
        is_async=True,
        waits=True,
    )


def sizes_of(
    max_messages: int,
    max_bytes: int,
    linger: float | timedelta,
    partitions: Sequence[str | int] | None,
) -> Sizes:
    if not 1 <= max_messages <= _MESSAGES_MAX:
        raise InvalidArguments(f"max_messages={max_messages}: give 1 to {_MESSAGES_MAX:,}")
    if not 1 <= max_bytes <= _BYTES_MAX:
        raise InvalidArguments(f"max_bytes={max_bytes}: give 1 to {_BYTES_MAX:,}")
    if isinstance(partitions, str) or (partitions is not None and not partitions):
        raise InvalidArguments(f"partitions={partitions!r}: give a list of at least one, or None")
    chosen = None if partitions is None else tuple(map(str, partitions))
    return Sizes(max_messages, max_bytes, seconds_us(linger, "linger") / 1e6, chosen)


def sizes_wire(sizes: Sizes) -> list[Any]:
    return [sizes.max_messages, sizes.max_bytes, sizes.linger_s, sizes.partitions]


def sizes_from(wire: Any) -> Sizes:
    max_messages, max_bytes, linger_s, partitions, *part = wire
    chosen = None if partitions is None else tuple(partitions)
    return Sizes(max_messages, max_bytes, linger_s, chosen, part_from(part[0]) if part else None)
