"""`@entity`: one state for each key of a stream, which only its messages and its timers change.

An entity is a workflow: a loop over the stream, in which each batch is handled by one activity of
Everlong's own (`_entity_work`). The states are rows of the execution, written in the append that
records that the batch was handled, under the run's lease. So there is one writer, and position and
states agree after any crash.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from everlong import registry
from everlong._context import RunPort, user_line
from everlong._definitions import (
    OWN,
    ActivityDefinition,
    WorkflowDefinition,
    code_digest,
)
from everlong._failures import ExceptionRegistry
from everlong._texts import shown
from everlong._values import Parameters, Value
from everlong.exceptions import (
    DefinitionError,
    InvalidArguments,
    PoisonMessage,
    StreamRewound,
    UndecodablePayload,
)
from everlong.streams._batch import Batch, Message
from everlong.streams._entity_context import EntityContext, Timer
from everlong.streams._entity_control import EntityControl
from everlong.streams._entity_work import Work, work
from everlong.streams._isolation import Suspect
from everlong.streams._letters import letter
from everlong.streams._loops import cursors_of, run_here
from everlong.streams._merge import merged
from everlong.streams._names import entity_of
from everlong.streams._poison import AS_IT_IS, OnPoison, Poison, poison_of, stop
from everlong.streams._pump import Sizes
from everlong.streams._stream import Stream, sizes_from, sizes_of, sizes_wire
from everlong.workflow import Workflow, checkpoint
from everlong_engine import Retry, limits, pack, unpack

__all__ = ["Entity", "entity"]

T = TypeVar("T")
S = TypeVar("S")

OnMessage: TypeAlias = Callable[[S, Message[T], EntityContext], Awaitable[S | None]]
OnTimer: TypeAlias = Callable[[S, Timer, EntityContext], Awaitable[S | None]]

_PART_MESSAGES_MAX: Final = 5_000
_PART_BYTES_MAX: Final = 1_200_000
"""What is handled in one go. A batch that was read is less; dead letters that are given to the
handlers again may be more."""
_RETRY: Final = Retry(
    delay=0.5,
    non_retryable=(StreamRewound, PoisonMessage, InvalidArguments, UndecodablePayload),
    on_exhausted="pause",
)


class _Come:
    """Timers have come."""


class _Due:
    """What the run carries: when the next timer of any key may be due, never later than it is; and
    how many messages have failed in a row."""

    def __init__(self, name: str) -> None:
        self._name = entity_of(name)

    @property
    def key(self) -> object:
        return self._name

    async def look(self, run: RunPort, where: str) -> None:
        del where  # A timer says by itself whose it is.
        due_us = self.known(run)
        if due_us is None:
            await run.loop.create_future()  # The next batch may set one, and looks again behind it.
        assert due_us is not None
        while run.now_us < due_us:  # noqa: ASYNC110 - the run's clock, which its timers move
            await asyncio.sleep((due_us - run.now_us) / 1e6)

    async def take(self, run: RunPort, found: None) -> tuple[_Come]:
        del run, found
        return (_Come(),)

    def has_begun(self, run: RunPort) -> bool:
        return self._name in cursors_of(run)

    def known(self, run: RunPort) -> int | None:
        return self._carried(run)[0]

    def row(self, run: RunPort) -> int:
        return self._carried(run)[1]

    def learn(self, run: RunPort, due_us: int | None, row: int) -> None:
        cursors_of(run)[self._name] = pack([due_us, row])

    def _carried(self, run: RunPort) -> tuple[int | None, int]:
        return cast("tuple[int | None, int]", unpack(cursors_of(run)[self._name]))


class _AsItIs:
    """What a handler has published was encoded by it, and is published as it is."""

    @staticmethod
    def encode(value: object) -> bytes:
        return cast("bytes", value)

    @staticmethod
    def decode(data: bytes) -> object:
        return data


class Entity(Workflow[[], None], Generic[S, T]):
    """What `@entity` makes: a workflow, and what is asked about its keys.

    carts = on_order.control(await client.start(on_order, id="carts"))
    cart = await carts.get("anna")
    """

    def __init__(
        self, handler: OnMessage[S, T], stream: Stream[T], entity: Work, sizes: Sizes
    ) -> None:
        name = entity.name
        owner = f"entity {name}"
        flow = self._flow
        definition = WorkflowDefinition(
            name=name,
            function=flow,
            parameters=Parameters(flow, owner=owner),
            result=Value(type(None), owner=f"the result of {owner}"),
            exceptions=ExceptionRegistry(),
            signals=registry.tables().signals,
        )
        definition.digest = code_digest(handler)
        super().__init__(flow, definition)
        self.__name__ = getattr(handler, "__name__", name)
        self.__qualname__ = getattr(handler, "__qualname__", name)
        self.__module__ = handler.__module__
        self.__doc__ = handler.__doc__
        self.handler = handler
        """As it was declared, for unit tests with no engine."""
        self._stream = stream
        self._entity = entity
        self._sizes = sizes
        self._activity = _definition(entity)

    def on_timer(self, handler: OnTimer[S]) -> OnTimer[S]:
        """Declare who is told of timers: a function like the handler of messages.

            @on_order.on_timer
            async def abandoned(cart: Cart, timer: Timer, ctx: EntityContext) -> None: ...

        Raises:
            DefinitionError: there is one already, or it is no such function.
        """
        _check_handler(handler, f"entity {self._entity.name}: on_timer")
        known = self._entity.timed
        if known and (known[0].__module__, known[0].__qualname__) != (
            handler.__module__,
            handler.__qualname__,
        ):
            raise DefinitionError(
                f"entity {self._entity.name} has a handler of timers already; it is told the "
                "timer's name"
            )
        known[:] = [handler]
        return handler

    def control(self, handle: Any) -> EntityControl[S]:
        """The keys of one execution, given a `WorkflowHandle` of it."""
        return EntityControl(handle, self._entity.value)

    async def _flow(self) -> None:
        run, where = run_here(f"entity {self._entity.name!r} is handled"), user_line()
        due = _Due(self._entity.name)
        if not due.has_begun(run):
            await self._handle(run, where, due, {"do": "begin"})
        # Another size holds from the next run on: this one has asked with its own.
        sizes = sizes_from(await run.side_effect(lambda: sizes_wire(self._sizes), where))
        batches = self._stream.read_by(sizes, AS_IT_IS, keeps_states=True)
        async for found in merged(batches, due):
            if isinstance(found, _Come):
                await self._handle(run, where, due, {"do": "due", "row": due.row(run)})
            else:
                await self._handle_all(run, where, due, found)
            await checkpoint()

    async def _handle_all(self, run: RunPort, where: str, due: _Due, batch: Batch[Any]) -> None:
        for part in batch.parts(_PART_MESSAGES_MAX, _PART_BYTES_MAX):
            carried = {"due": due.known(run), "row": due.row(run)}
            told = {"do": "batch", **carried, **part.to_wire()}
            for at, error, attempts in await self._handle(run, where, due, told):
                one = Suspect(*part.record(at), error, attempts)
                await self._stream.dead_letters.publish(letter(one, run.started.code))

    async def _handle(
        self, run: RunPort, where: str, due: _Due, told: dict[str, Any]
    ) -> Sequence[tuple[int, str, int]]:
        """One go of the handlers; what was set aside."""
        definition = self._activity
        channels = [name for name, _ in run.outputs.numbers]
        what = {"now": run.now_us, "channels": channels, **told}
        arguments = definition.parameters.encode((what,), {})
        result = await run.call_activity(definition, definition.options, arguments, where)
        due_us, row, dead, published = result
        due.learn(run, due_us, row)
        for channel, payload, keep in published:
            run.outputs.publish(run, channel, _AsItIs, payload, where, keep=keep)
        return cast("Sequence[tuple[int, str, int]]", dead)

    def __repr__(self) -> str:
        return f"<entity {self._entity.name}>"


def entity(
    stream: Stream[T],
    *,
    key: Callable[[Message[T]], str],
    state: Callable[[], S],
    name: str | None = None,
    max_messages: int = 500,
    max_bytes: int = limits.PAYLOAD_BYTES_MAX // 2,
    linger: float | timedelta = 0.0,
    on_poison: OnPoison = stop,
    partitions: Sequence[str | int] | None = None,
) -> Callable[[OnMessage[S, T]], Entity[S, T]]:
    """Keep one state for each key of a stream, and have a handler change it, message by message.

        @dataclass
        class Cart:
            items: list[str] = field(default_factory=list)

        @entity(orders, key=lambda message: message.value.customer, state=Cart)
        async def on_order(cart: Cart, message: Message[Order], ctx: EntityContext) -> None:
            cart.items.append(message.value.item)

        handle = await client.start(on_order, id="carts")
        cart = await on_order.control(handle).get("anna")

    What it makes is a workflow, started like any other. A handler changes the state that it is
    given, or returns another one. States, timers and what `ctx.publish` gives are stored in one
    commit with the record that the batch was handled: each message counts once, whatever crashes.

    What people get wrong: a handler is ordinary code, and not replayed, so it may await anything;
    but what it does beside the state may happen twice, like that of any activity. `message.id` is
    the key that makes it idempotent.

    Args:
        stream: whose messages they are. Each execution reads all of it, for itself.
        key: whose message it is: a text of 1 to 200 characters.
        state: makes the state of a key that has none, and is its type: a dataclass, a pydantic
            model, `dict[str, int]`, `int`.
        name: how histories call it; the function's name unless given.
        max_messages, max_bytes, linger, partitions: of batches, as in `Stream.batches`; up to 5,000
            messages.
        on_poison: what becomes of a message that does not fit its type, that has no key, or whose
            handler raises `after` times, each with the state before: `stop` (5 times) pauses the
            execution with the reason, and nothing of the batch is stored;
            `dead_letter(after=5)` publishes it to `stream.dead_letters`, with the state as it was
            before it; `skip(after=5)` drops it. The texts "dead_letter" and so on are the same. If
            all messages of a batch fail, or five in a row, the execution is paused, too. A timer
            whose handler raises always pauses.

    Raises:
        DefinitionError: no async function of three parameters, no stream, no such type, a name
            that is taken.
        InvalidArguments: an option out of its range; or keys are to be parked.
    """
    if not isinstance(stream, Stream):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"@entity({shown(stream)}): give the Stream whose messages it takes")
    sizes = sizes_of(max_messages, max_bytes, linger, partitions)
    poison = _poison_of(on_poison, stream)
    if max_messages > _PART_MESSAGES_MAX:
        raise InvalidArguments(f"max_messages={max_messages}: give 1 to {_PART_MESSAGES_MAX:,}")
    if not all(map(callable, (key, state))):
        raise DefinitionError("@entity: key= and state= are called; give functions or types")

    def decorate(handler: OnMessage[S, T]) -> Entity[S, T]:
        chosen = getattr(handler, "__name__", "") if name is None else name
        owner = f"entity {chosen}"
        _check_handler(handler, owner)
        if str(chosen).startswith(OWN):
            raise DefinitionError(f"{owner}: names with {OWN!r} are Everlong's own")
        made = Entity(
            handler,
            stream,
            Work(
                name=chosen,
                stream=stream.name,
                source=stream.source,
                key=key,
                new=state,
                value=Value(state, owner=f"the state of {owner}"),
                handler=handler,
                timed=[],
                poison=poison,
            ),
            sizes,
        )
        registry.register(registry.tables().workflows, chosen, made, handler, "workflows")
        return made

    return decorate


def _poison_of(given: Any, stream: Stream[Any]) -> Poison:
    if given == "park_key" or (isinstance(given, Poison) and given.policy == "park_key"):
        raise InvalidArguments(
            "on_poison=park_key: an entity parks no keys. A message that is set aside leaves the "
            "state of its key as it was, and the next one of the key is given to the handler. Give "
            "stop, to have nothing pass it, or dead_letter(after=5) or skip(after=5)"
        )
    return poison_of(given, stream.source)


def _check_handler(handler: Any, owner: str) -> None:
    if not inspect.iscoroutinefunction(handler):
        raise DefinitionError(f"{owner} goes on an async def function; {handler!r:.80} is none")
    try:
        inspect.signature(handler).bind(None, None, None)
    except TypeError as error:
        raise DefinitionError(
            f"{owner} is called with the state, the message or timer, and a context, as in "
            f"async def on_order(cart, message, ctx): {error}"
        ) from None


def _definition(entity: Work) -> ActivityDefinition:
    async def handle(told: Any) -> Any:
        return await work(entity, told)

    own = entity_of(entity.name)
    return ActivityDefinition(
        name=own,
        function=handle,
        parameters=Parameters(handle, owner=own),
        result=Value(Any, owner=f"what the handlers of {entity.name} have done"),
        options=_RETRY.options,
        exceptions=ExceptionRegistry(),
        is_async=True,
    )
