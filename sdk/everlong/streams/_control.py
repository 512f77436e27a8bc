"""What an operator does with a flow that reads a stream, from any process."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from everlong.exceptions import EverlongError, InvalidArguments, UndecodablePayload
from everlong.streams._names import activity_of, control_of, dead_letters_of
from everlong.streams._source import Cursor, Position, Source
from everlong_engine import seconds_us
from everlong_engine.model.payload import unpack

__all__ = ["DeadLetter", "Lag", "StreamControl"]

_COUNTED_MAX: Final = 10_000
_BYTES_AT_ONCE: Final = 1_000_000
_OPEN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that did not fit the declared type."""

    number: int
    """Among the dead letters of its execution, counted from 0."""
    partition: str
    position: Position
    value: bytes
    key: bytes | None
    error: str
    identity: str
    """Of what it was read from."""
    cut: bool
    """It was too large for a history: `value` is its beginning."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a flow is behind its source."""

    messages: int
    """That lie behind what it has read, or as many of them as were counted."""
    more: bool
    """Whether there were more than were counted."""
    seconds: float | None
    """Since the oldest of them was written; None if there is none, or the source does not say."""


def rewound(before: Any, to: Any) -> Any:
    """A cursor's wire form for a loop that is told to go on there; None if it stays where it is:
    there is no such place, or its source has forgotten what it would read again."""
    try:
        if before is not None and Cursor.from_wire(before).taken is not None:
            return None
        return Cursor.from_wire(to).to_wire()
    except ValueError:
        return None  # It is on record, and moves nothing.


class StreamControl:
    """A stream of one execution. `Stream.control(handle)` gives one.

    What is asked for is a signal: it is stored when the call returns, and the loop does it before
    it reads on, also if the execution is paused, or its worker is down.
    """

    def __init__(self, handle: Any, name: str, source: Source[Any] | None = None) -> None:
        self._handle = handle
        self._name = name
        self._source = source

    async def position(self) -> Cursor | None:
        """How far the execution has read; None before its first batch.

        Raises:
            UndecodablePayload: it is sealed, and this client has no key.
        """
        waiting = await self._handle.waiting_start()
        if waiting is not None:  # Between a checkpoint and the run behind it.
            stored = dict(waiting.cursors).get(self._name)
            return None if stored is None else self._cursor(unpack(stored))
        activity, cursor, reads = activity_of(self._name), None, set[int]()
        for event in await self._handle.history():
            fields = event.fields
            match event.kind:
                case "RunStarted":
                    cursor = dict(fields.get("cursors", ())).get(self._name)
                case "ActivityScheduled" if fields["activity"] == activity:
                    reads.add(fields["activity_id"])
                case "ActivityCompleted" if fields["activity_id"] in reads:
                    cursor = [*fields["result"][:2], *fields["result"][4:]]
                case "SignalReceived" if fields["signal"] == control_of(self._name):
                    match fields["payload"]:
                        case {"do": "rewind", "cursor": to}:
                            cursor = rewound(cursor, to) or cursor
                        case _:
                            pass
                case _:
                    pass
        return None if cursor is None else self._cursor(cursor)

    def _cursor(self, wire: Any) -> Cursor:
        try:
            return Cursor.from_wire(wire)
        except ValueError as error:  # A note stands where something is sealed.
            raise UndecodablePayload(
                f"how far {self._handle.workflow_id} has read {self._name!r} cannot be read here. "
                "Connect with the codecs that its workers have (`codecs=`, `--codecs`)",
                reason="it is sealed, or is no position",
            ) from error

    async def lag(
        self,
        *,
        at_most: int = _COUNTED_MAX,
        partitions: Sequence[str | int] | None = None,
        wait: float | timedelta = 1.0,
    ) -> Lag:
        """How many messages the execution has not read, and how old the first of them is.

        They are read and counted as a second flow would, and nothing is told to the broker; so any
        source can say it, and what is counted is what the execution will get.

        Args:
            at_most: stop counting there.
            partitions: those that the execution reads, if not all.
            wait: seconds (or timedelta) without a message that mean that there is none.

        Raises:
            InvalidArguments: made without the source, as `everlong stream` does without the code;
                or the source forgets, so that to count would be to take.
            StreamRewound: what the execution goes on at is not there any more.
            EverlongError: the source has not answered for ten seconds.
        """
        if self._source is None:
            raise InvalidArguments(
                f"stream {self._name!r}: only its declaration says what it reads. Ask it: "
                "stream.control(handle)"
            )
        if self._source.forgets:
            raise InvalidArguments(
                f"what is read from {self._source!r} is taken from it, so nobody but its broker "
                "can count what waits there: ask it, with its own tools"
            )
        if at_most < 1:
            raise InvalidArguments(f"at_most={at_most}: give 1 or more")
        wait_s = seconds_us(wait, "wait") / 1e6
        if wait_s <= 0:
            raise InvalidArguments(f"wait={wait}: give more than 0 seconds")
        chosen = None if partitions is None else tuple(map(str, partitions))
        cursor = await self.position()
        try:
            async with asyncio.timeout(_OPEN_S):
                reader = await self._source.open(cursor, chosen)
        except TimeoutError:
            raise EverlongError(f"{self._source!r} cannot be read: it is not there") from None
        count = 0
        written_us: list[int] = []
        try:
            while count <= at_most and (
                found := await reader.fetch(at_most + 1 - count, _BYTES_AT_ONCE, wait_s)
            ):
                count += len(found)
                written_us += [one.at_us for one in found if one.at_us is not None]
        finally:
            await reader.close()
        age_us = max(0, self._handle.now_us() - min(written_us)) if written_us else None
        age_s = None if age_us is None else age_us / 1e6
        return Lag(min(count, at_most), count > at_most, age_s)

    async def rewind(
        self,
        positions: Mapping[str, Position | None] | Mapping[int, Position | None],
        *,
        identity: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Go on behind other positions. The keys of messages stay what they were: sinks that know
        them drop what they have.

            await orders.control(handle).rewind({0: 41, 1: None})

        Args:
            positions: for each partition the position behind which to go on, or None to read it
                from its beginning; those that are not named stay where they are.
            identity: of what is to be read, where a topic was made anew; as it is unless given.
            request_id: the same id rewinds once, however often it is repeated.

        Raises:
            InvalidArguments: nothing was read so far, and no identity is given; or the source has
                forgotten what was read.
            WorkflowClosed, WorkflowNotFound: nobody is there to be told.
        """
        now = await self.position()
        if now is None and identity is None:
            raise InvalidArguments(
                f"stream {self._name!r} of {self._handle.workflow_id} was not read so far: there "
                "is nothing to rewind"
            )
        if now is not None and now.taken is not None:
            raise InvalidArguments(
                f"stream {self._name!r} cannot be rewound: its broker has forgotten what was read. "
                "Have it published again"
            )
        stays = dict(now.after) if now is not None and identity in (None, now.identity) else {}
        named = {str(partition): at for partition, at in positions.items()}
        after = {one: at for one, at in {**stays, **named}.items() if at is not None}
        chosen = identity if now is None or identity is not None else now.identity
        assert chosen is not None, "one of both is there"
        await self._tell({"do": "rewind", "cursor": [chosen, after]}, request_id)

    async def drain(self, *, request_id: str | None = None) -> None:
        """End the loop behind the batch in work; the workflow goes on behind the loop."""
        await self._tell({"do": "drain"}, request_id)

    async def dead_letters(self) -> list[DeadLetter]:
        """What could not be decoded so far, with `on_poison="dead_letter"`."""
        channel = dead_letters_of(self._name)
        items = self._handle.subscribe(channel, numbered=True, live=False)
        return [DeadLetter(number=item.number, **item.value) async for item in items]

    async def redrive(self, *numbers: int, request_id: str | None = None) -> int:
        """Give dead letters to the loop once more, as a batch of their own; how many.

        With code that takes them by now. Those that it does not take are dead letters again, with
        new numbers.

        Args:
            numbers: which; none means all.
            request_id: the same id does it once, however often it is repeated.

        Raises:
            InvalidArguments: there is no dead letter of such a number, or it was too large to keep:
                rewind to its position, with code that skips it or a source that sends it smaller.
        """
        letters = {one.number: one for one in await self.dead_letters()}
        if missing := [number for number in numbers if number not in letters]:
            raise InvalidArguments(
                f"{self._handle.workflow_id} has no dead letters {missing} of stream {self._name!r}"
            )
        chosen = [letters[number] for number in numbers or letters]
        if cut := [one.number for one in chosen if one.cut]:
            raise InvalidArguments(
                f"of the dead letters {cut} of stream {self._name!r} only the beginning is kept: "
                "name others to be given to the loop again"
            )
        for identity in sorted({one.identity for one in chosen}):
            records = [
                [one.partition, one.position, one.value, one.key]
                for one in chosen
                if one.identity == identity
            ]
            told = {"do": "redrive", "identity": identity, "records": records}
            await self._tell(told, None if request_id is None else f"{request_id}/{identity}")
        return len(chosen)

    async def _tell(self, what: dict[str, Any], request_id: str | None) -> None:
        await self._handle.signal(control_of(self._name), what, request_id=request_id)
