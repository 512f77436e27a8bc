"""The loop over a stream: what is handed out, what is set aside, and what it is told from outside.

It has no state of its own. How far it has read, what it looks for in a batch that has failed and
what is parked are among the cursors of the run. A batch that the body fails with is given back in
the run's last append (`_replay.in_hand`); the next run begins with parts of it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pydantic import StrictInt, StrictStr, TypeAdapter

from everlong._context import RunPort, user_line
from everlong._definitions import ActivityDefinition
from everlong._savepoints import NO_WAY_BACK
from everlong.channels import Output
from everlong.exceptions import ActivityLost, EverlongError
from everlong.streams._aside import Aside
from everlong.streams._batch import Batch
from everlong.streams._isolation import (
    Isolation,
    Part,
    Suspect,
    glance,
    isolation_in,
    key_of,
    lot_in,
    packed,
    parts_of,
)
from everlong.streams._letters import ERROR_CHARS_MAX, first_letter, letter
from everlong.streams._loops import cursors_of, run_here
from everlong.streams._moves import FreshKeys, freshened, gone_back, keys_from, moved, no_keys
from everlong.streams._names import control_of, isolation_of, keys_of, parked_of, part_of
from everlong.streams._poison import AS_IT_IS, Poison
from everlong.streams._pump import Sizes
from everlong.streams._source import Source
from everlong_engine import pack, unpack

__all__ = ["Batches", "Declared"]

T = TypeVar("T")

_LETTERS: Final = TypeAdapter[list[Any]](
    list[
        tuple[StrictStr, StrictInt | StrictStr, bytes, bytes | None]
        | tuple[StrictStr, StrictInt | StrictStr, bytes, bytes | None, StrictInt | None]
        | tuple[
            StrictStr,
            StrictInt | StrictStr,
            bytes,
            bytes | None,
            StrictInt | None,
            dict[StrictStr, bytes],
        ]
    ]
)
_FIRST_FIELDS: Final = 4
"""Of a record, that the first versions gave to the loop again: their histories are replayed."""
_PART: Final = "a part"
_END: Final = "the end"
_FULL: Final = (
    "stream {name!r}: {messages:,} messages of {keys:,} keys are parked, and there is no room for "
    "more, so nothing is read. Give some back: everlong stream redrive … --key, or "
    "StreamControl.redrive(key=…); then resume"
)


@dataclass(frozen=True, slots=True)
class Declared(Generic[T]):
    """What a loop knows of its stream."""

    name: str
    source: Source[T]
    reads: ActivityDefinition
    holds: ActivityDefinition
    dead_letters: Output[Any]
    parked: Output[Any]
    fault_of: Callable[[bytes], str | None]


class Batches(AsyncIterator[Batch[T]]):
    """Not for flows: a loop over a stream. It has no state: that is the run's."""

    def __init__(
        self, stream: Declared[T], sizes: Sizes, poison: Poison, *, keeps_states: bool = False
    ) -> None:
        self._stream = stream
        self._max_messages = sizes.max_messages
        self._sizes = [sizes.max_messages, sizes.max_bytes, sizes.linger_s, sizes.partitions]
        self._poison = poison
        self._keeps_states = keeps_states
        """Of keys, which only go forward."""

    async def __anext__(self) -> Batch[T]:
        run, where = run_here(f"stream {self._stream.name!r} is read"), user_line()
        savepoints = run.rolling.savepoints
        await savepoints.rest()
        while True:
            await self.make_ready(run, where)
            taken = await self.take(run, await self.look(run, where))
            if taken:
                savepoints.leave()
                return taken[0]

    @property
    def key(self) -> object:
        """Not for flows: what is read."""
        return Batches, self._stream.name

    # ------------------------------------------------------------------- before it looks for more

    async def make_ready(self, run: RunPort, where: str) -> None:
        """Not for flows: the body has come back, so what it had in hand has passed; and wait for as
        long as nothing is to be handed out."""
        run.in_hand = None
        name, cursors = isolation_of(self._stream.name), cursors_of(run)
        if (state := isolation_in(cursors, name)) is not None:
            judged = state.passed()
            self._keep(run, state)
            await self._set_aside(run, judged)
            while state.pause:
                if await self._hold(run, state.pause, where):
                    state.pause = ""
                    self._keep(run, state)
        aside = self._aside(run)
        await aside.tell_all()
        aside.keep()
        while self._is_full(run) and not self._is_told(run):
            lot = lot_in(cursors, parked_of(self._stream.name))
            count, keys = len(lot.messages), len(lot.keys)
            text = _FULL.format(name=self._stream.name, messages=count, keys=keys)
            await self._hold(run, text, where)

    def _is_told(self, run: RunPort) -> bool:
        told: bool = run.signals.has_come(control_of(self._stream.name))
        return told

    def _is_full(self, run: RunPort) -> bool:
        """Whether nothing may be read. What was taken already is handed out all the same."""
        cursors = cursors_of(run)
        stored = cursors.get(parked_of(self._stream.name))
        if stored is None or not glance(stored)[2]:
            return False
        state = isolation_in(cursors, isolation_of(self._stream.name))
        return state is None or not state.parts

    async def _hold(self, run: RunPort, why: str, where: str) -> bool:
        """Pause the execution; whether somebody has let it go on."""
        definition = self._stream.holds
        arguments = definition.parameters.encode((why,), {})
        with suppress(ActivityLost):  # Its worker died before that was known.
            await run.call_activity(definition, definition.options, arguments, where)
            return True
        return False

    def _keep(self, run: RunPort, state: Isolation) -> None:
        name, cursors = isolation_of(self._stream.name), cursors_of(run)
        if state == Isolation():
            cursors.pop(name, None)
        else:
            cursors[name] = packed(state)

    # ------------------------------------------------------------------------- looking and taking

    async def look(self, run: RunPort, where: str) -> Any:
        """Not for flows: wait until there is something, and take nothing yet."""
        stream = self._stream
        control, definition = control_of(stream.name), stream.reads
        cursors = cursors_of(run)
        state = isolation_in(cursors, isolation_of(stream.name))
        if state is not None and not self._is_told(run) and (state.parts or state.ends):
            return _PART if state.parts else _END
        after = cursors.get(stream.name)
        policy = self._poison.policy
        part = cursors.get(part_of(stream.name))
        sizes = self._sizes if part is None else [*self._sizes, unpack(part)]
        values = (None if after is None else unpack(after), sizes, policy)
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
        if found is _PART:
            return await self._next_part(run)
        if found is _END:
            self._keep(run, Isolation())
            raise StopAsyncIteration
        if found is None:
            return await self._told(run, await run.receive_signal(control_of(self._stream.name)))
        identity, positions, records, dead, *taken = found
        cursors_of(run)[self._stream.name] = pack([identity, positions, *taken])
        return await self._fresh(run, identity, records, dead)

    async def _fresh(
        self, run: RunPort, identity: str, records: list[Any], dead: list[Any]
    ) -> tuple[Batch[T]] | tuple[()]:
        """What was read and fits; the rest is set aside beside the position that is stored."""
        stored = cursors_of(run).get(parked_of(self._stream.name))
        aside = self._aside(run)
        parks = self._poison.policy == "park_key" and any(len(one) > 2 for one in dead)
        if parks or (stored is not None and glance(stored)[0]):
            records = await self._sort_out(run, identity, records, dead)
        else:
            for one in dead:
                await self._undecodable(aside, identity, *one)
        if not records:
            return ()
        return self._hand_out(run, Part(identity, records, whole=True))

    async def _sort_out(
        self, run: RunPort, identity: str, records: list[Any], dead: list[Any]
    ) -> list[Any]:
        """In the order in which they lie there: what does not fit parks what follows it."""
        kept: list[Any] = []
        waiting, aside = deque(dead), self._aside(run)
        for at, record in enumerate([*records, None]):
            while waiting and (record is None or (len(waiting[0]) > 2 and waiting[0][2] <= at)):
                await self._undecodable(aside, identity, *waiting.popleft())
            if record is not None and not await aside.follows(identity, record):
                kept.append(record)
        aside.keep()
        return kept

    def _aside(self, run: RunPort) -> Aside:
        stream = self._stream
        return Aside(run, stream.name, self._poison, stream.dead_letters, stream.parked)

    async def _undecodable(
        self, aside: Aside, identity: str, record: Any, error: str, at: int | None = None
    ) -> None:
        if at is None:  # A version has read it that knew no attempts.
            await self._stream.dead_letters.publish(first_letter(identity, record, error))
        else:
            await aside.judge([Suspect(identity, record, error)])

    async def _next_part(self, run: RunPort) -> tuple[Batch[T]] | tuple[()]:
        state = isolation_in(cursors_of(run), isolation_of(self._stream.name))
        assert state is not None, "somebody has seen its parts"
        aside, found = self._aside(run), None
        while state.parts and found is None:
            part = state.parts.pop(0)
            part.records = await self._not_behind(state, part, aside)
            found = part if part.records else None
        judged = [] if found is not None else state.looked_at()
        await aside.judge(judged)
        aside.keep()
        state.handed = found is not None
        self._keep(run, state)
        return () if found is None else self._hand_out(run, found)

    async def _not_behind(self, state: Isolation, part: Part, aside: Aside) -> list[Any]:
        """Without what follows a message that is parked, or may be soon."""
        kept: list[Any] = []
        parks = self._poison.policy == "park_key"
        behind = {key_of(one.record) for one in state.held} - {None} if parks else set[Any]()
        for record in part.records:
            if await aside.follows(part.identity, record):
                continue
            if key_of(record) in behind:
                state.held.append(Suspect(part.identity, record))
            else:
                kept.append(record)
        return kept

    def _hand_out(self, run: RunPort, part: Part) -> tuple[Batch[T]]:
        stream, cursors = self._stream, cursors_of(run)
        state = isolation_in(cursors, isolation_of(stream.name))
        if state is not None and not state.handed:
            state.handed = True
            self._keep(run, state)
        if self._poison.policy not in ("stop", AS_IT_IS.policy):
            before = dict(cursors)

            async def give_back(error: Exception, attempts: int) -> None:
                run.cursors = dict(before)
                await self._failed(run, part, error, attempts)

            whole = part.whole or len(part.records) == 1
            run.rolling.hand_out(self._poison.after if whole else 1, give_back)
        keys = self._keys(run)
        source, records = stream.source, part.records
        return (Batch(source, stream.name, part.identity, records, keys, asked=part.asked),)

    # ---------------------------------------------------------------------------- what goes wrong

    async def _failed(self, run: RunPort, part: Part, error: Exception, attempts: int) -> None:
        name = isolation_of(self._stream.name)
        state = isolation_in(cursors_of(run), name) or Isolation()
        text = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARS_MAX]
        judged = state.failed(part, text, attempts)
        self._keep(run, state)
        await self._set_aside(run, judged)

    async def _set_aside(self, run: RunPort, judged: Sequence[Suspect]) -> None:
        if judged:
            aside = self._aside(run)
            await aside.judge(judged)
            aside.keep()

    # ----------------------------------------------------------------------------- what it is told

    async def _told(self, run: RunPort, told: Any) -> tuple[Batch[T]] | tuple[()]:
        """What somebody outside asks for."""
        savepoints = run.rolling.savepoints
        match told:
            case {"do": "drain"}:
                self._drain(run)
            case {"do": "savepoint", "order": order} if self._keeps_states:
                savepoints.refuse(order, NO_WAY_BACK)
            case {"do": "rewind" | "return"} if self._keeps_states:
                pass  # Whoever asked was told so, unless nothing had been read by then.
            case {"do": "rewind"}:
                await self._rewind(run, told)
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
            case {"do": "release", "key": bytes(key)}:
                return await self._release(run, key)
            case _:
                pass  # Of a version that knows more; it is on record.
        return ()

    def _drain(self, run: RunPort) -> None:
        """Behind the batch in work, which is there until its last part has passed."""
        state = isolation_in(cursors_of(run), isolation_of(self._stream.name))
        if state is None or not state.parts:
            raise StopAsyncIteration
        state.ends = True
        self._keep(run, state)

    async def _rewind(self, run: RunPort, told: Any) -> None:
        stream, cursors = self._stream, cursors_of(run)
        stored = cursors.get(stream.name)
        now: Any = None if stored is None else unpack(stored)
        to = moved(told, now)
        if to is None:
            return
        cursors[stream.name] = pack(to)
        if (state := isolation_in(cursors, isolation_of(stream.name))) is not None:
            same = now is not None and now[0] == to[0]
            state.go_elsewhere(told["named"] if same else None)
            judged = state.looked_at()
            self._keep(run, state)
            await self._set_aside(run, judged)
        if told.get("keys") == "fresh":
            behind: Any = to[1]
            known = self._keys(run)
            fresh = freshened(known, _suffix(run), behind, stream.source.is_behind)
            cursors[keys_of(stream.name)] = pack(fresh)

    def _keys(self, run: RunPort) -> FreshKeys:
        stored = cursors_of(run).get(keys_of(self._stream.name))
        return no_keys if stored is None else keys_from(unpack(stored))

    async def _redriven(
        self, run: RunPort, identity: str, records: list[Any]
    ) -> tuple[Batch[T]] | tuple[()]:
        """Dead letters that the code takes by now. Which ones is recorded, as it is for what an
        activity has read: tomorrow's code may take others."""
        if self._poison == AS_IT_IS:
            every = [list(one) for one in records]
            return await self._asked_for(run, [Part(identity, every, whole=True, asked=True)])
        fault_of = self._stream.fault_of
        faults = await run.side_effect(lambda: [fault_of(one[2]) for one in records], user_line())
        judged = list(zip(records, faults, strict=True))
        for record, fault in judged:
            if fault is not None:
                suspect = Suspect(identity, record, fault)
                first = first_letter(identity, record, fault)
                told = first if len(record) <= _FIRST_FIELDS else letter(suspect, run.started.code)
                await self._stream.dead_letters.publish(told)
        good = [list(record) for record, fault in judged if fault is None]
        return await self._asked_for(run, [Part(identity, good, whole=True, asked=True)])

    async def _release(self, run: RunPort, key: bytes) -> tuple[Batch[T]] | tuple[()]:
        aside = self._aside(run)
        messages = await aside.release(key)
        aside.keep()
        return await self._asked_for(run, parts_of(messages, self._max_messages))

    async def _asked_for(self, run: RunPort, parts: list[Part]) -> tuple[Batch[T]] | tuple[()]:
        """Before everything else that waits: of a parked key, later messages may be among that."""
        parts = [part for part in parts if part.records]
        if not parts:
            return ()
        state = isolation_in(cursors_of(run), isolation_of(self._stream.name)) or Isolation()
        state.parts[:0] = parts
        self._keep(run, state)
        return await self._next_part(run)


def _suffix(run: RunPort) -> str:
    """By the run's own chance, so that replay finds the same."""
    return f"{run.random.getrandbits(32):08x}"
