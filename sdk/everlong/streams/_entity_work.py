"""The work of keyed entities: what the handlers make of a batch, or of timers that have come.

It is an activity of Everlong's own, one for each batch. It reads the states of the keys that the
batch is about, calls the handlers one after the other, and gives the states that have changed to
the append that records its completion. So it has happened once, or not at all, and a crash has it
begin again from the states before. Nothing of it is replayed: a handler is ordinary code.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from everlong._context import activity_context
from everlong._texts import fault_of_name, shown
from everlong._values import Value
from everlong.exceptions import (
    EverlongError,
    InvalidArguments,
    PoisonMessage,
    UndecodablePayload,
)
from everlong.streams._batch import Batch, Message
from everlong.streams._entity_context import EntityContext, Item, Timer, Wishes, moment
from everlong.streams._entity_rows import Kept, States
from everlong.streams._letters import ERROR_CHARS_MAX
from everlong.streams._moves import keys_from
from everlong.streams._poison import Poison
from everlong.streams._source import Source
from everlong_engine import EntityChanges, EntityRow, limits

__all__ = ["Work", "work"]

_log: Final = logging.getLogger("everlong.streams")

_PUBLISHED_MAX: Final = 2_000
_PUBLISHED_BYTES_MAX: Final = 1_000_000
_DELAY_S: Final = 0.1
_DELAY_MAX_S: Final = 5.0
_CALLS_AT_ONCE: Final = 100
"""Then the worker's other work has a turn."""
_ERRORS_CHARS_MAX: Final = 400_000
"""Of all messages of a batch together: they are on record."""
_TRIED: Final = "tried again"
"""The details of an attempt before which a person has let the flow go on, and of that one."""
_CHANNELS_KEPT: Final = 2
"""For dead letters and the like."""

Handler = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Work:
    """What an entity is made of, as its work needs it."""

    name: str
    stream: str
    source: Source[Any]
    key: Callable[[Any], Any]
    new: Callable[[], Any]
    value: Value
    handler: Handler
    timed: list[Handler]
    """The handler of timers, if there is one."""
    poison: Poison


@dataclass(slots=True)
class _Done:
    """What has come of it so far."""

    changed: dict[str, Kept] = field(default_factory=dict[str, Kept])
    published: list[Item] = field(default_factory=list[Item])
    dead: list[tuple[int, str, int]] = field(default_factory=list[tuple[int, str, int]])
    """Which message of the batch, why, and how often its handler was called for it."""
    row: int = 0
    """Messages that have failed with none passing in between, also those of batches before."""
    passed: int = 0
    failed: int = 0
    error: Exception | None = None
    """The last of those."""
    channels: set[str] = field(default_factory=set[str])
    """On which the execution has published, by now."""
    calls: int = 0


async def work(entity: Work, told: Any) -> Any:
    """The activity. Its result: (when the next timer may be due, how many messages have failed in a
    row, dead letters, what to publish).

    Raises:
        PoisonMessage: a handler fails, and nothing says to go on without its message.
        EverlongError: anything else that a person has to look at.
    """
    context: Any = activity_context.get()
    if context is None:
        raise EverlongError(f"entity {entity.name!r} is handled by a worker")
    client, execution_id = context.own_client()
    states = await States.of(client, context.info().workflow_id, execution_id)
    match told:
        case {"do": "batch"}:
            looked = context.info().heartbeat_details == _TRIED
            if looked:
                context.heartbeat(_TRIED)  # Also for whoever goes on behind a crash.
            try:
                judge = _Judge(entity, asked=looked or told["asked"])
                done, found, next_us = await _batch(entity, states, told, judge)
            except _NonePassed as error:
                context.heartbeat(_TRIED)
                raise PoisonMessage(str(error)) from error
        case {"do": "due"}:
            done, found, next_us = await _due(entity, states, told)
        case _:
            done, found, next_us = _Done(), {}, None  # It begins, and nothing is there so far.
    changes = _changes(entity, states, found, done)
    context.store_states(changes)
    if changes is not None:
        due = (row.due_us for row in changes.put if row.due_us is not None)
        next_us = min((one for one in (next_us, *due) if one is not None), default=None)
    return [next_us, done.row, done.dead, [list(one) for one in done.published]]


# ------------------------------------------------------------------------------------- messages


async def _batch(
    entity: Work, states: States, told: Any, judge: "_Judge"
) -> tuple[_Done, dict[str, Kept], int | None]:
    batch: Batch[Any] = Batch(
        entity.source, entity.stream, told["identity"], told["records"], keys_from(told["keys"])
    )
    done = _Done(channels=set(told["channels"]), row=0 if judge.asked else told["row"])
    of_keys: dict[str, list[tuple[int, Message[Any]]]] = {}
    for at in range(len(batch)):
        try:
            message = batch.message(at)
            of_keys.setdefault(_key_of(entity, message), []).append((at, message))
        except Exception as error:
            judge.set_aside(done, batch, at, error, 0)
    found = await states.of_keys(of_keys)
    _require_fit(entity, found)
    for key, messages in of_keys.items():
        kept = found.get(key, Kept(None, {}))
        for at, message in messages:
            try:
                kept = await _tried(entity, states, done, key, kept, told["now"], message)
                judge.passed(done)
            except Exception as error:
                judge.failed(done, batch, at, error)
        done.changed[key] = kept
    judge.look(done)
    done.dead.sort()
    return done, found, told["due"]


def _key_of(entity: Work, message: Message[Any]) -> str:
    key = entity.key(message)
    if (fault := fault_of_name(key)) is not None:
        raise InvalidArguments(
            f"its key {shown(key)} {fault}: let key= give a text of 1 to 200 characters, as in "
            "key=lambda message: str(message.value.customer)"
        )
    return str(key)


class _NonePassed(Exception):
    """It may not be the messages."""


@dataclass(frozen=True, slots=True)
class _Judge:
    """What becomes of messages that are not taken. The state is what it was before them."""

    entity: Work
    asked: bool
    """Somebody has looked: what fails now is set aside at once."""

    def passed(self, done: _Done) -> None:
        done.row, done.passed = 0, done.passed + 1

    def failed(self, done: _Done, batch: Batch[Any], at: int, error: Exception) -> None:
        """Its handler has raised, as often as it is called."""
        self.set_aside(done, batch, at, error, self.entity.poison.after)
        if not self.asked:
            done.row, done.failed, done.error = done.row + 1, done.failed + 1, error
            if done.row >= limits.POISON_IN_A_ROW_MAX:
                raise self._none_passed(done.row, error)

    def look(self, done: _Done) -> None:
        """At a whole batch. One message has nobody to be compared with."""
        if done.error is not None and done.failed > 1 and not done.passed:
            raise self._none_passed(done.row, done.error)

    def _none_passed(self, count: int, error: Exception) -> _NonePassed:
        text = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
        return _NonePassed(
            f"entity {self.entity.name!r}: {count} messages in a row have failed, and none has "
            f"passed: it may not be the messages ({text}). Nothing of the batch is stored. When it "
            "is resumed they are tried again, and those that fail then are set aside"
        )

    def set_aside(
        self, done: _Done, batch: Batch[Any], at: int, error: Exception, attempts: int
    ) -> None:
        name, policy = self.entity.name, self.entity.poison.policy
        text = " ".join(f"{type(error).__name__}: {error}".split())
        text = text[: min(ERROR_CHARS_MAX, _ERRORS_CHARS_MAX // len(batch))]
        message = batch.name_of(at)
        if policy == "stop":
            raise PoisonMessage(
                f"entity {name!r} cannot take the message {message}: {text}. Nothing of its batch "
                "is stored. Resume the flow with code that takes it, or with "
                "on_poison=dead_letter() or skip()"
            ) from error
        _log.warning("entity %r goes on without the message %s: %s", name, message, text)
        if policy == "dead_letter":
            done.dead.append((at, text, attempts))


# --------------------------------------------------------------------------------------- timers


async def _due(
    entity: Work, states: States, told: Any
) -> tuple[_Done, dict[str, Kept], int | None]:
    """Timers that have come, of the keys whose first ones are due first."""
    now_us = told["now"]
    done = _Done(channels=set(told["channels"]), row=told["row"])
    found = await states.by_due(limits.ENTITY_TIMERS_AT_ONCE + 1)
    _require_fit(entity, found)
    next_us: int | None = None
    for number, (key, kept) in enumerate(found.items()):
        first_us = min(kept.timers.values(), default=None)
        if first_us is None or first_us > now_us or number == limits.ENTITY_TIMERS_AT_ONCE:
            next_us = first_us
            break
        done.changed[key] = await _ring(entity, states, done, key, kept, now_us)
    return done, found, next_us


async def _ring(
    entity: Work, states: States, done: _Done, key: str, kept: Kept, now_us: int
) -> Kept:
    """The timers of one key that are due now; one that a handler takes back does not come."""
    due = sorted((at, name) for name, at in kept.timers.items() if at <= now_us)
    for due_us, name in due:
        if kept.state is None or kept.timers.get(name) != due_us:
            continue
        before = Kept(kept.state, kept.timers)
        del before.timers[name]
        try:
            timer = Timer(name, moment(due_us))
            kept = await _tried(entity, states, done, key, before, now_us, timer)
        except Exception as error:
            raise PoisonMessage(
                f"entity {entity.name!r} cannot take the timer {name!r} of the key {key!r}: "
                f"{type(error).__name__}: {error}. Resume the flow with code that does"
            ) from error
    return kept


# ------------------------------------------------------------------------------------- handlers


def _require_fit(entity: Work, found: dict[str, Kept]) -> None:
    """What was stored and does not fit today's type is a fault of today's code: no message and no
    timer is to blame, so nothing is set aside for it."""
    for key, kept in found.items():
        try:
            kept.require_fit(entity.value)
        except UndecodablePayload as error:
            raise PoisonMessage(
                f"the state that entity {entity.name!r} keeps for the key {key!r} does not fit its "
                f"type now: {error} Nothing was changed. Resume the flow with a type that takes it"
            ) from error


async def _tried(
    entity: Work, states: States, done: _Done, key: str, kept: Kept, now_us: int, what: Any
) -> Kept:
    """One call of a handler, or as many as it is given: each begins with the state before."""
    for number in range(1, entity.poison.after):
        try:
            return await _called(entity, states, done, key, kept, now_us, what)
        except Exception as error:
            _log.info("entity %r, key %r, attempt %d: %s", entity.name, key, number, error)
            await asyncio.sleep(min(_DELAY_S * 2 ** min(number - 1, 10), _DELAY_MAX_S))
    return await _called(entity, states, done, key, kept, now_us, what)


async def _called(
    entity: Work, states: States, done: _Done, key: str, kept: Kept, now_us: int, what: Any
) -> Kept:
    done.calls += 1
    if done.calls % _CALLS_AT_ONCE == 0:
        await asyncio.sleep(0)
    handler = _handler_of(entity, what)
    state = entity.new() if kept.state is None else kept.build(entity.value)
    wishes = Wishes(dict(kept.timers), [])
    context = EntityContext(key, now_us, wishes, timed=bool(entity.timed))
    try:
        other = await handler(state, what, context)
    finally:
        context.end()
    after = Kept(None, {})
    if not wishes.deleted:
        after = Kept(entity.value.encode(state if other is None else other), wishes.timers)
        states.check(key, after)
    _check_published(done, wishes.published)
    done.published += wishes.published
    return after


def _handler_of(entity: Work, what: object) -> Handler:
    if not isinstance(what, Timer):
        return entity.handler
    if not entity.timed:
        raise EverlongError("there is no @….on_timer handler any more, and timers are set")
    return entity.timed[0]


def _check_published(done: _Done, more: Sequence[Item]) -> None:
    if not more:
        return
    items = [*done.published, *more]
    if len(items) > _PUBLISHED_MAX or sum(len(one.payload) for one in items) > _PUBLISHED_BYTES_MAX:
        raise InvalidArguments(
            f"the handlers of one batch publish {_PUBLISHED_MAX:,} items and "
            f"{_PUBLISHED_BYTES_MAX // 1_000_000} MB at most: read smaller batches (max_messages=)"
        )
    channels = done.channels | {one.channel for one in more}
    if len(channels) > limits.OUTPUT_CHANNELS_MAX - _CHANNELS_KEPT:
        raise InvalidArguments(
            f"an execution publishes on {limits.OUTPUT_CHANNELS_MAX} channels at most. Put what "
            "tells items apart, such as the key, into the items"
        )
    done.channels = channels


def _changes(
    entity: Work, states: States, found: dict[str, Kept], done: _Done
) -> EntityChanges | None:
    """The rows of keys that are not what they were; None if nothing has changed."""
    put: list[EntityRow] = []
    gone: list[str] = []
    size = 0
    for key, kept in done.changed.items():
        before = found.get(key)
        if kept.state is None:
            if before is not None:
                gone.append(key)
        elif before is None or before != kept:
            row = states.row(key, kept)
            size += len(row.payload)
            put.append(row)
    if size > limits.ENTITIES_WRITTEN_BYTES_MAX:
        raise InvalidArguments(
            f"entity {entity.name!r}: a batch changes states of {size:,} bytes, and at most "
            f"{limits.ENTITIES_WRITTEN_BYTES_MAX:,} are stored at once. Read smaller batches "
            "(max_messages=)"
        )
    return EntityChanges(tuple(put), tuple(gone)) if put or gone else None
