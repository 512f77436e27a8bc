"""What a handler of a keyed entity is given beside the state: its key, its time, and its wishes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from everlong._texts import fault_of_name, shown
from everlong.channels import Output
from everlong.exceptions import EverlongError, InvalidArguments
from everlong_engine import instant_us, limits, seconds_us

__all__ = ["EntityContext", "Item", "Timer", "Wishes", "moment"]

T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Item(NamedTuple):
    """What a handler publishes."""

    channel: str
    payload: bytes
    keep: int | None


@dataclass(slots=True)
class Wishes:
    """What comes of one key, as long as its handlers are at work. Counts for nothing until the
    state that it belongs to is known to be storable."""

    timers: dict[str, int]
    published: list[Item]
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer of a key that has come."""

    name: str
    at: datetime
    """When it was due, in UTC. It comes later if nobody was there to see it, and never earlier."""


class EntityContext:
    """What a handler of an entity can ask and do beside changing its state.

        @entity(orders, key=lambda message: message.value.customer, state=Cart)
        async def on_order(cart: Cart, message: Message[Order], ctx: EntityContext) -> None:
            cart.items.append(message.value.item)
            ctx.set_timer("abandoned", after=24 * 3600)

    All of it is stored with the state, in one commit, or not at all.
    """

    __slots__ = ("_now_us", "_over", "_timed", "_wishes", "key")

    def __init__(self, key: str, now_us: int, wishes: Wishes, *, timed: bool) -> None:
        self.key = key
        """Whose state it is."""
        self._now_us = now_us
        self._wishes = wishes
        self._timed = timed
        self._over = False

    @property
    def now(self) -> datetime:
        """When the batch was stored, or the timer found to be due, UTC. The same for all messages
        of a batch, and when a crash has it handled again."""
        return moment(self._now_us)

    @property
    def timers(self) -> Mapping[str, datetime]:
        """The timers of the key that have not come, and when they are due."""
        return {name: moment(due_us) for name, due_us in self._wishes.timers.items()}

    def set_timer(
        self, name: str, *, after: float | timedelta | None = None, at: datetime | None = None
    ) -> None:
        """Have the `on_timer` handler called with the key's state by then. It survives everything
        that the state survives, comes once, and never early.

        Args:
            name: of the key's timers, up to 100; one of the same name is replaced.
            after: seconds (or timedelta) from `now`.
            at: or a moment, aware. One that has passed comes at once.

        Raises:
            InvalidArguments: an option out of its range.
            EverlongError: the entity has no handler for timers.
        """
        self._require_here()
        if not self._timed:
            raise EverlongError(
                "nobody would hear this timer: declare who does, with @on_order.on_timer behind "
                "the entity on_order"
            )
        if (fault := fault_of_name(name)) is not None:
            raise InvalidArguments(f"set_timer({shown(name)}): the name {fault}")
        if (after is None) == (at is None):
            raise InvalidArguments(f"set_timer({name!r}): give after= or at=, not both")
        if after is not None:
            due_us = self._now_us + seconds_us(after, f"set_timer({name!r}, after)")
        else:
            assert at is not None, "one of both is there"
            if at.tzinfo is None:
                raise InvalidArguments(
                    f"set_timer({name!r}, at={at!r}): give an aware datetime, such as "
                    "datetime(2026, 12, 24, tzinfo=UTC)"
                )
            due_us = max(0, instant_us(at))
        if due_us > limits.INSTANT_US_MAX:
            raise InvalidArguments(f"set_timer({name!r}): that is too far away to be stored")
        timers = self._wishes.timers
        if name not in timers and len(timers) >= limits.ENTITY_TIMERS_MAX:
            raise InvalidArguments(f"a key has at most {limits.ENTITY_TIMERS_MAX} timers at once")
        timers[name] = due_us

    def cancel_timer(self, name: str) -> None:
        """Have a timer not come. One that is not there is none."""
        self._require_here()
        self._wishes.timers.pop(name, None)

    def delete(self) -> None:
        """Forget the key with its state and its timers, as the handler returns. The next message of
        the key finds a new state."""
        self._require_here()
        self._wishes.deleted = True

    def publish(self, output: Output[T], item: T) -> None:
        """Append an item to an output channel of the execution, for `handle.subscribe`: once,
        however often a crash has the handler called.

        Raises:
            InvalidArguments: the item does not fit the declared type.
        """
        self._require_here()
        if not isinstance(output, Output):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArguments(
                f"publish({output!r:.80}): give an Output that was declared at module level"
            )
        self._wishes.published.append(Item(output.name, output.value.encode(item), output.keep))

    def end(self) -> None:
        """Not for handlers: theirs has returned."""
        self._over = True

    def _require_here(self) -> None:
        if self._over:
            raise EverlongError(
                f"the handler of {self.key!r} has returned, and what it asked for is on its way: "
                "await what you start before you return"
            )

    def __repr__(self) -> str:
        return f"<context of {self.key!r}>"


def moment(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)
