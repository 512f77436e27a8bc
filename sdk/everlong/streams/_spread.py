"""A family of flows that share the partitions of a stream, each of them read by exactly one.

Each flow carries which part it is, of how many, as it carries its cursor; which partitions are a
part's is arithmetic (`_parts`). To have another number of parts is to begin another generation: all
flows of the one before are stopped with savepoints, and only then the next begins where they were.
Whatever is done here is found again by whoever repeats the call, in the store and nowhere else:

- ids name the generation, and an id that was used is never used again, so of two callers that
  begin a generation only one decides how many parts it has;
- no flow of a generation begins before all of the one before have ended with their savepoints.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from everlong._definitions import OWN
from everlong._savepoints import Carried, Savepoint
from everlong._texts import checked_id
from everlong.exceptions import (
    EverlongError,
    InvalidArguments,
    WorkflowAlreadyStarted,
    WorkflowClosed,
)
from everlong.labels import literal
from everlong.streams._control import StreamControl
from everlong.streams._names import keys_of, part_of
from everlong.streams._parts import PARTS_MAX, Part, holder_of
from everlong.streams._progress import carried_in, keeps_states, part_in
from everlong.streams._source import Cursor, Source
from everlong.workflow import Workflow
from everlong_engine import pack, unpack

__all__ = ["Carry", "Family", "Spread"]

FAMILY_TAG: Final = "everlong.family"
_SAVED_FOR: Final = "everlong.spread"
_PAGE: Final = 1_000
_OPEN: Final = ("running", "blocked", "paused")
_NAME: Final = re.compile(r"/(\d{1,9})/(\d{1,9})", re.ASCII)

Carry: TypeAlias = Callable[[Sequence[Mapping[str, Any]], int], Mapping[str, Any]]
"""Of what the flows before carried, by their numbers, and the number of a new one: with which
parameters it begins, beside those of the call."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A family of flows that share the partitions of a stream."""

    id: str
    parts: int
    generation: int
    """Counted from 1: another one with each change of the number of parts."""
    handles: tuple[Any, ...]
    """Of the flows, each a `WorkflowHandle`, by the numbers of their parts."""


@dataclass(frozen=True, slots=True)
class Family:
    """One call of `Stream.spread`."""

    client: Any
    stream: str
    source: Source[Any]
    id: str
    workflow: Workflow[Any, Any]
    arguments: bytes
    carry: Carry | Literal["forget"] | None
    wait: float | timedelta

    async def spread(self, parts: int) -> Spread:
        """Raises InvalidArguments, EverlongError; repeated, it goes on where it was."""
        checked_id(self._id_of(1, 0))
        if not 1 <= parts <= PARTS_MAX:
            raise InvalidArguments(f"parts={parts}: give 1 to {PARTS_MAX:,}")
        if not self.source.is_divided:
            await self.source.partitions()  # Raises: it is not divided.
        found = await self._find()
        if found is None:
            return await self._begin(1, parts)
        generation, before = found
        is_stopping = await self._is_stopping(generation, before)
        if before == parts and not is_stopping:
            return await self._begin(generation, before)
        self._require_carry(before, parts)
        if not is_stopping:
            # All of it, for who was interrupted while it began this one may go on with that later.
            await self._begin(generation, before)
            await self._require_movable(generation, before)
        await self._stop(generation, before)
        return await self._begin(generation + 1, parts)

    def _id_of(self, generation: int, number: int) -> str:
        return f"{self.id}/{generation}/{number}"

    def _handle(self, generation: int, number: int) -> Any:
        return self.client.get_handle(self._id_of(generation, number))

    def _control(self, handle: Any) -> StreamControl:
        return StreamControl(handle, self.stream, self.source)

    # --------------------------------------------------------------------------------- looking

    async def _find(self) -> tuple[int, int] | None:
        """The last generation of which a flow was begun, and how many parts it has."""
        where = f"tag.{FAMILY_TAG} = {literal(self.id)} and status != 'continued_as_new'"
        found: set[tuple[int, int]] = set()
        after: str | None = None
        while True:
            page = await self.client.list(filter=where, limit=_PAGE, after=after)
            for one in page.items:
                match = _NAME.fullmatch(one.workflow_id.removeprefix(self.id))
                if match is not None:
                    found.add((int(match[1]), int(match[2])))
            after = page.next
            if after is None:
                break
        if not found:
            return None
        last = max(found)
        return last[0], (await self._part_at(*last)).parts

    async def _part_at(self, generation: int, number: int) -> Part:
        handle = self._handle(generation, number)
        part = await part_in(handle, self.stream)
        if part is None or part.number != number:
            raise EverlongError(
                f"{handle.workflow_id} is there, and is no part of a family that reads "
                f"{self.stream!r}: give the family another id"
            )
        return part

    async def _is_stopping(self, generation: int, parts: int) -> bool:
        """Whether any of its flows has ended for another generation to begin.

        Raises:
            EverlongError: one has ended otherwise, so what it has not read nobody reads.
        """
        stopping = False
        ended: list[str] = []
        for number in range(parts):
            status = await self._status(generation, number)
            if status is None or status in _OPEN:
                continue
            if await self._saved(generation, number) is None:
                ended.append(f"{self._id_of(generation, number)} ({status})")
            else:
                stopping = True
        if ended:
            raise EverlongError(
                f"nobody reads the partitions of {', '.join(ended)}: reset them to where they went "
                "wrong (`everlong reset`), or begin a family with another id"
            )
        return stopping

    async def _status(self, generation: int, number: int) -> str | None:
        """None: there is no such execution."""
        page = await self.client.list(workflow_id=self._id_of(generation, number), limit=1)
        return page.items[0].status if page.items else None

    async def _saved(self, generation: int, number: int) -> Savepoint | None:
        name = f"{_SAVED_FOR}/{generation + 1}"
        found = await self._control(self._handle(generation, number)).savepoints()
        return next((one for one in reversed(found) if one.name == name), None)

    async def _points(self, generation: int) -> list[Savepoint]:
        """At which the flows of a generation have ended, by number; none before the first."""
        if not generation:
            return []
        parts = (await self._part_at(generation, 0)).parts
        points = [await self._saved(generation, number) for number in range(parts)]
        if None in points:
            raise EverlongError(
                f"{self._id_of(generation, points.index(None))} has no savepoint to go on from: "
                "it was deleted, or its retention is over. Begin a family with another id, and "
                "rewind its flows to where they are to go on"
            )
        return [one for one in points if one is not None]

    # ---------------------------------------------------------------------------------- acting

    async def _begin(self, generation: int, parts: int) -> Spread:
        """Start what is not there of a generation."""
        points: list[Savepoint] | None = None
        for number in range(parts):
            if await self._status(generation, number) is None:
                if points is None:
                    points = await self._points(generation - 1)
                with suppress(WorkflowAlreadyStarted):
                    await self.client.start(
                        self.workflow,
                        id=self._id_of(generation, number),
                        if_open="fail",
                        if_closed="fail",
                        tags={FAMILY_TAG: self.id},
                        from_savepoint=self._beginning(Part(number, parts), points),
                    )
            there = await self._part_at(generation, number)
            if there.parts != parts:
                raise EverlongError(
                    f"{self.id} is being spread over {there.parts} parts by another call; say once "
                    "more how many it is to have"
                )
        handles = tuple(self._handle(generation, number) for number in range(parts))
        return Spread(self.id, parts, generation, handles)

    def _beginning(self, part: Part, points: list[Savepoint]) -> Savepoint:
        """What a flow begins with: its part, and where those before it were."""
        arguments, cursors = self.arguments, dict[str, bytes]()
        carried: Carried = ()
        if points:
            cursors = _merged(self.stream, part, points)
            carried = tuple(
                one
                for number, point in enumerate(points)
                if number % part.parts == part.number
                for one in point.carried
            )
            if callable(self.carry):
                changed = self.carry([dict(one.parameters) for one in points], part.number)
                parameters = self.workflow.definition.parameters
                arguments = parameters.merge(arguments, changed)
        cursors[part_of(self.stream)] = pack(list(part))
        return Savepoint(
            name="",
            at=datetime.min.replace(tzinfo=UTC),
            workflow=self.workflow.definition.name,
            workflow_id=self.id,
            number=0,
            arguments=arguments,
            cursors=tuple(cursors.items()),
            carried=carried,
        )

    async def _stop(self, generation: int, parts: int) -> None:
        """End all flows of a generation, each behind the batch in work."""
        for number in range(parts):
            await self._stop_one(generation, number)

    async def _stop_one(self, generation: int, number: int) -> None:
        name = f"{_SAVED_FOR}/{generation + 1}"
        control = self._control(self._handle(generation, number))
        try:
            if await self._saved(generation, number) is None:
                await control.savepoint(name, stop=True, wait=self.wait, request_id=name)
        except WorkflowClosed:  # By another call like this, or by somebody else.
            if await self._saved(generation, number) is None:
                raise

    # --------------------------------------------------------------------------------- refusing

    def _require_carry(self, before: int, parts: int) -> None:
        names = self.workflow.definition.parameters.names
        if names and self.carry is None:
            raise InvalidArguments(
                f"{self.id} has {before} parts, and what each of its flows carries "
                f"({', '.join(names)}) belongs to its partitions, which would lie otherwise in "
                f"{parts}. Say what the new flows begin with: carry=…, a function of what the old "
                'ones carried; or carry="forget" (--forget), for the arguments of this call'
            )

    async def _require_movable(self, generation: int, parts: int) -> None:
        """What cannot be shared out anew is found before anything is stopped."""
        for number in range(parts):
            handle = self._handle(generation, number)
            if await keeps_states(handle):
                raise InvalidArguments(
                    f"{handle.workflow_id} keeps states of keys, which are of its own partitions, "
                    "so they cannot go on as another number of flows. Give the family another id: "
                    "it reads from the beginning of the source and builds its states anew"
                )
            _check_carried(handle.workflow_id, self.stream, await carried_in(handle))


def _check_carried(whose: str, stream: str, carried: Mapping[str, Any]) -> None:
    others = [name for name in carried if not name.startswith(OWN) and name != stream]
    if others:
        raise InvalidArguments(
            f"{whose} also reads {', '.join(map(repr, others))}, each at its own pace, so they "
            "cannot go on as another number of flows. Give the family another id"
        )
    if keys_of(stream) in carried:
        raise InvalidArguments(
            f"{whose} was rewound with fresh keys, which are of its own partitions, so they cannot "
            "go on as another number of flows. Give the family another id"
        )


def _merged(stream: str, part: Part, points: Sequence[Savepoint]) -> dict[str, bytes]:
    """Where a part goes on, by what those before it have read: of each only its own partitions."""
    identity, after = "", dict[str, Any]()
    for number, point in enumerate(points):
        stored = {name: unpack(data) for name, data in point.cursors}
        _check_carried(point.workflow_id, stream, stored)
        if stream not in stored:
            continue
        cursor = Cursor.from_wire(stored[stream])
        if identity not in ("", cursor.identity):
            raise EverlongError(
                f"flows of {point.workflow_id.rpartition('/')[0]} have read from {identity} and "
                f"from {cursor.identity}: rewind them to the same"
            )
        identity = cursor.identity
        after |= {
            one: at
            for one, at in cursor.after.items()
            if holder_of(one, len(points)) == number and part.has(one)
        }
    return {stream: pack(Cursor(identity, after).to_wire())} if identity else {}
