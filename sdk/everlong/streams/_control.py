"""What an operator does with a flow that reads a stream, from any process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from everlong._savepoints import Savepoint, forgetful
from everlong.exceptions import EverlongError, InvalidArguments, UndecodablePayload
from everlong.streams._lag import COUNTED_MAX, Lag, lag_behind
from everlong.streams._letters import DeadLetter, ParkedKey, dead_letter_of, record_of
from everlong.streams._names import control_of, dead_letters_of, parked_of, part_of
from everlong.streams._parts import Part, part_from
from everlong.streams._progress import cursors_in, part_in
from everlong.streams._saving import Saving
from everlong.streams._source import Cursor, Position, Source
from everlong_engine import instant_us, seconds_us
from everlong_engine.model.payload import unpack

__all__ = ["Keys", "Lag", "StreamControl"]

_SEEK_S: Final = 60.0

Keys: TypeAlias = Literal["same", "fresh"]
"""Of messages that are read again."""


def _named(part: Part | None) -> str:
    return "all partitions" if part is None else f"part {part.number} of {part.parts}"


def _rewind(now: Cursor | None, to: Cursor, named: Mapping[str, Position | None]) -> dict[str, Any]:
    """What the loop is told: where it goes on if nothing moves meanwhile, and what is named."""
    stays: Mapping[str, Position] = {}
    if now is not None and now.identity == to.identity:
        stays = now.after
    after = {one: at for one, at in {**stays, **named}.items() if at is not None}
    return {"do": "rewind", "cursor": [to.identity, after], "named": dict(named)}


class StreamControl(Saving):
    """A stream of one execution. `Stream.control(handle)` gives one.

    What is asked for is a signal: it is stored when the call returns, and the loop does it before
    it reads on, also if the execution is paused, or its worker is down.
    """

    def __init__(self, handle: Any, name: str, source: Source[Any] | None = None) -> None:
        super().__init__(handle, name, source)

    async def position(self) -> Cursor | None:
        """How far the execution has read; None before its first batch.

        Raises:
            UndecodablePayload: it is sealed, and this client has no key.
        """
        wire = (await cursors_in(self.handle)).get(self._name)
        return None if wire is None else self._cursor(wire)

    def _cursor(self, wire: Any) -> Cursor:
        try:
            return Cursor.from_wire(wire)
        except ValueError as error:  # A note stands where something is sealed.
            raise UndecodablePayload(
                f"how far {self.handle.workflow_id} has read {self._name!r} cannot be read here. "
                "Connect with the codecs that its workers have (`codecs=`, `--codecs`)",
                reason="it is sealed, or is no position",
            ) from error

    async def lag(
        self,
        *,
        at_most: int = COUNTED_MAX,
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
        if at_most < 1:
            raise InvalidArguments(f"at_most={at_most}: give 1 or more")
        wait_s = seconds_us(wait, "wait") / 1e6
        if wait_s <= 0:
            raise InvalidArguments(f"wait={wait}: give more than 0 seconds")
        chosen = None if partitions is None else tuple(map(str, partitions))
        return await lag_behind(
            self._source,
            await self.position(),
            await part_in(self.handle, self._name),
            chosen,
            at_most=at_most,
            wait_s=wait_s,
            now_us=self.handle.now_us(),
        )

    async def rewind(
        self,
        positions: Mapping[str, Position | None] | Mapping[int, Position | None] | None = None,
        *,
        to: datetime | Savepoint | None = None,
        keys: Keys = "same",
        partitions: Sequence[str | int] | None = None,
        identity: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Go on elsewhere: behind other positions, at a moment, or where a savepoint was.

            control = orders.control(handle)
            await control.rewind({0: 41, 1: None})
            await control.rewind(to=datetime(2026, 11, 22, 8, tzinfo=UTC))
            await control.rewind(to=await control.find_savepoint("before-v2"), keys="fresh")

        What people get wrong: positions and a moment move how far a stream was read, and what the
        flow carries stays. A savepoint takes back both, and of all streams.

        Args:
            positions: for each partition the position behind which to go on, or None to read it
                from its beginning; those that are not named stay where they are.
            to: a moment, behind which everything is read that was written then or later; or a
                savepoint of this workflow.
            keys: of messages that are read again. "same" leaves `message.id` and `batch.id` what
                they were last, so who knows them drops what he has. With "fresh" everything that
                lies behind has others, and effects happen again.
            partitions: with a moment: only these.
            identity: with positions: of what is to be read, where a topic was made anew; as it is
                unless given.
            request_id: the same id rewinds once, however often it is repeated.

        Raises:
            InvalidArguments: nothing was read so far, and no identity is given; the source cannot
                tell where a moment lies, or has forgotten what was read; the savepoint is of
                another workflow.
            WorkflowClosed, WorkflowNotFound: nobody is there to be told.
        """
        if keys not in ("same", "fresh"):
            raise InvalidArguments(f'keys={keys!r}: give "same" or "fresh"')
        if (positions is None) == (to is None):
            raise InvalidArguments("rewind(): give positions, as {0: 41}, or to=, not both")
        await self.require_no_states()
        await self._require_kept(to)
        if isinstance(to, Savepoint):
            told = await self._return_to(to)
        elif to is not None:
            told = await self._to_moment(to, partitions)
        else:
            assert positions is not None, "one of both is there"
            told = await self._to_positions(positions, identity)
        await self._tell({**told, "keys": keys}, request_id)

    async def _require_kept(self, to: object) -> None:
        """Raises InvalidArguments: what would be read again is forgotten."""
        gone = await self.forgetful()
        if isinstance(to, Savepoint):
            gone += forgetful({name: unpack(data) for name, data in to.cursors})
        elif self._name in gone:
            gone = [self._name]
        else:
            gone = []
        if gone:
            raise InvalidArguments(
                f"stream {gone[0]!r} cannot be rewound: its broker has forgotten what was read. "
                "Have it published again"
            )

    async def _to_positions(
        self, positions: Mapping[Any, Position | None], identity: str | None
    ) -> dict[str, Any]:
        now = await self.position()
        if now is None and identity is None:
            raise InvalidArguments(
                f"stream {self._name!r} of {self.handle.workflow_id} was not read so far: there "
                "is nothing to rewind"
            )
        named = {str(partition): at for partition, at in positions.items()}
        chosen = identity if now is None or identity is not None else now.identity
        assert chosen is not None, "one of both is there"
        return _rewind(now, Cursor(chosen, {}), named)

    async def _to_moment(
        self, to: datetime, partitions: Sequence[str | int] | None
    ) -> dict[str, Any]:
        if self._source is None:
            raise InvalidArguments(
                f"stream {self._name!r}: only its declaration says where a moment lies. Ask it: "
                "stream.control(handle)"
            )
        if to.tzinfo is None:
            raise InvalidArguments(
                f"to={to!r}: give an aware datetime, such as datetime(2026, 12, 24, tzinfo=UTC)"
            )
        chosen = None if partitions is None else tuple(map(str, partitions))
        try:
            async with asyncio.timeout(_SEEK_S):
                there = await self._source.before(instant_us(to), chosen)
        except TimeoutError:
            raise EverlongError(
                f"{self._source!r} has not told within {_SEEK_S:g} s where {to.isoformat()} lies"
            ) from None
        now = await self.position()
        known = chosen or (*there.after, *(() if now is None else now.after))
        return _rewind(now, there, {one: there.after.get(one) for one in known})

    async def _return_to(self, point: Savepoint) -> dict[str, Any]:
        workflow = (await self.handle.describe()).type
        if point.workflow != workflow:
            raise InvalidArguments(
                f"savepoint {point.name!r} is of workflow {point.workflow!r}, and "
                f"{self.handle.workflow_id} is a {workflow!r}: start another one from it, with "
                "client.start(…, from_savepoint=…)"
            )
        stored = dict(point.cursors).get(part_of(self._name))
        there = part_from(None if stored is None else unpack(stored))
        here = await part_in(self.handle, self._name)
        if there != here:
            raise InvalidArguments(
                f"savepoint {point.name!r} is of {_named(there)}, and {self.handle.workflow_id} "
                f"reads {_named(here)}: it would read what others read, or leave some out"
            )
        cursors = [list(one) for one in point.cursors]
        return {"do": "return", "arguments": point.arguments, "cursors": cursors}

    async def drain(self, *, request_id: str | None = None) -> None:
        """End the loop behind the batch in work; the workflow goes on behind the loop."""
        await self._tell({"do": "drain"}, request_id)

    async def dead_letters(self) -> list[DeadLetter]:
        """What was set aside so far, with `on_poison=dead_letter()`."""
        return [dead_letter_of(one.number, one.value) async for one in self._items(dead_letters_of)]

    async def parked(self) -> list[ParkedKey]:
        """Keys whose messages wait, with `on_poison=park_key()`."""
        keys: dict[bytes, list[Any]] = {}
        async for item in self._items(parked_of):
            match item.value:
                case {"what": "parked", "message": message}:
                    keys.setdefault(message["key"], []).append(message)
                case {"what": "released", "key": key}:
                    keys.pop(key, None)
                case {"what": "all", "messages": messages}:
                    keys = {}
                    for message in messages:
                        keys.setdefault(message["key"], []).append(message)
                case _:
                    pass  # Of a version that knows more.
        return [
            ParkedKey(key, [dead_letter_of(at, one) for at, one in enumerate(messages)])
            for key, messages in keys.items()
        ]

    def _items(self, channel_of: Callable[[str], str]) -> AsyncIterator[Any]:
        items: AsyncIterator[Any] = self.handle.subscribe(
            channel_of(self._name), numbered=True, live=False
        )
        return items

    async def redrive(
        self, *numbers: int, key: str | bytes | None = None, request_id: str | None = None
    ) -> int:
        """Give what was set aside to the loop once more; how many messages.

            await control.redrive()                  # all dead letters
            await control.redrive(3, 4)              # these
            await control.redrive(key="customer-7")  # what is parked there, and park no more

        It comes before what the loop would read next, with the same keys, and goes the same way as
        everything else: what fails again alone is set aside again, dead letters with new numbers.

        Args:
            numbers: of dead letters; none means all.
            key: a parked key (a text is UTF-8), whose messages come in their order, and whatever
                else has come for it until the loop does this; no dead letters then.
            request_id: the same id does it once, however often it is repeated.

        Raises:
            InvalidArguments: there is no dead letter of such a number, or no such key is parked; or
                it was too large to keep: rewind to its position, with code that skips it or a
                source that sends it smaller.
        """
        if key is not None:
            if numbers:
                raise InvalidArguments(f"redrive{numbers}: give numbers or a key, not both")
            return await self._release(key.encode() if isinstance(key, str) else key, request_id)
        letters = {one.number: one for one in await self.dead_letters()}
        if missing := [number for number in numbers if number not in letters]:
            raise InvalidArguments(
                f"{self.handle.workflow_id} has no dead letters {missing} of stream {self._name!r}"
            )
        chosen = [letters[number] for number in numbers or letters]
        if cut := [one.number for one in chosen if one.cut]:
            raise InvalidArguments(
                f"of the dead letters {cut} of stream {self._name!r} only the beginning is kept: "
                "name others to be given to the loop again"
            )
        for identity in sorted({one.identity for one in chosen}):
            records = [record_of(one) for one in chosen if one.identity == identity]
            told = {"do": "redrive", "identity": identity, "records": records}
            await self._tell(told, None if request_id is None else f"{request_id}/{identity}")
        return len(chosen)

    async def _release(self, key: bytes, request_id: str | None) -> int:
        found = {one.key: one.messages for one in await self.parked()}
        if key not in found and request_id is None:  # Else it may be done already.
            known = ", ".join(one.decode(errors="backslashreplace") for one in sorted(found)[:10])
            raise InvalidArguments(
                f"{self.handle.workflow_id} has parked no key {key!r:.100} of stream "
                f"{self._name!r}; parked are: {known or 'none'}"
            )
        await self._tell({"do": "release", "key": key}, request_id)
        return len(found.get(key, ()))

    async def _tell(self, what: dict[str, Any], request_id: str | None) -> None:
        await self.handle.signal(control_of(self._name), what, request_id=request_id)
