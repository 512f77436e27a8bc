"""Savepoints of a run: what it carries and how far it has read, together, at one moment.

The moment is a checkpoint, or a loop over a stream that waits right behind one: nothing was handed
to the code since, so the parameters of that checkpoint are still all that it knows. What is asked
for at another moment waits for the next checkpoint, among the cursors, over every roll-over.

While a recorded input is fed, the record says whether one was taken.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

from msgspec import ValidationError
from msgspec.structs import asdict

from everlong._definitions import OWN
from everlong._replay.ledger import Ledger
from everlong._replay.outputs import Outputs
from everlong._replay.signals import Signals
from everlong._replay.updates import Updates
from everlong._savepoints import (
    SAVEPOINTS,
    SAVEPOINTS_KEPT,
    TAKES,
    WAITING,
    Item,
    Order,
    SavepointCodec,
    forgetful,
    orders_of,
)
from everlong.exceptions import EverlongError, WorkflowFault
from everlong_engine import ItemPublished, RunCancelled, RunContinuedAsNew, limits, pack, unpack

__all__ = ["Savepoints"]

_Moment: TypeAlias = tuple[dict[str, Any], int, int]
_BEGINNING: Final[_Moment] = {}, 1, 0
"""The first drive of a run: its parameters are all that the code knows."""
_NOWHERE: Final[_Moment] = {}, 0, 0
_YIELDS_MAX: Final = 20
"""Steps that a cancelled read, and interceptors around it, are given to end."""


class Saving(Ledger, Protocol):
    """What only this part asks of a run."""

    signals: Signals
    cursors: dict[str, bytes] | None
    done_once: str | None
    """What was done since the last checkpoint that cannot be done a second time."""

    @property
    def main(self) -> "asyncio.Task[None] | None": ...
    @property
    def outputs(self) -> Outputs: ...
    @property
    def has_updates(self) -> bool: ...
    @property
    def updates(self) -> Updates: ...
    def in_flight(self) -> Sequence[str]:
        """What would be lost if the run ended now, as words for people."""
        ...

    def carried(self) -> tuple[tuple[str, bytes], ...]:
        """Signals that nobody has received yet."""
        ...


class Savepoints:
    """What one run knows of the moments at which its state is all in its parameters."""

    def __init__(self, run: Saving) -> None:
        self._run = run
        self._passed = _BEGINNING
        """At the last checkpoint: its parameters, the drive, and signals received by then."""
        self._left = False
        """Something was handed out since the last checkpoint."""
        self._resting: dict[str, Any] | None = None
        """The parameters of a loop that waits right behind a checkpoint."""
        self._updates = 0

    # ------------------------------------------------------------------ where the code stands

    async def passed(self, changed: dict[str, Any]) -> None:
        """The code is at a checkpoint."""
        run = self._run
        self._left = False
        self._passed = changed, run.loop.drives, run.signals.received
        if run.cursors is not None and WAITING in run.cursors and not run.in_flight():
            await self._take_waiting(changed)

    async def rest(self) -> None:
        """A loop begins to wait: right behind a checkpoint, or elsewhere."""
        run = self._run
        here = run.loop.drives, run.signals.received
        changed, *there = self._passed
        rests = tuple(there) == here and self._alone()
        self._resting = changed if rests else None
        self._updates = self._updates_taken()
        if rests and run.cursors is not None and WAITING in run.cursors:
            await self._take_waiting(changed)

    def leave(self) -> None:
        """A loop hands something out: the code knows more than its parameters."""
        if self._left and self._run.done_once is None:
            self._run.done_once = "more than one batch, signal or tick"
        self._resting, self._passed, self._left = None, _NOWHERE, True

    def _alone(self) -> bool:
        run = self._run
        return asyncio.current_task(run.loop) is run.main and not run.in_flight()

    def _updates_taken(self) -> int:
        return self._run.updates.taken if self._run.has_updates else 0

    # ------------------------------------------------------------------------ what is asked for

    async def ask(self, told: object) -> None:
        """Take one now, or at the next checkpoint."""
        try:
            (order,) = orders_of([told])
        except ValidationError:
            return  # Nonsense is on record too, and nobody waits for an answer to it.
        await self._let_end()
        waits = self._waiting(besides=order.request)
        if len(waits) >= limits.SAVEPOINTS_WAITING_MAX:
            why = f"{len(waits)} others wait already for the flow to come to a checkpoint"
            self._publish(Item(what="refused", name=order.name, request=order.request, reason=why))
            return
        cursors = self._cursors()
        cursors[WAITING] = pack([asdict(one) for one in (*waits, order)])
        if self._rests():
            assert self._resting is not None
            await self._take_waiting(self._resting)

    def refuse(self, told: object, why: str) -> None:
        """The flow takes none, and says why."""
        with suppress(ValidationError):
            (order,) = orders_of([told])
            item = Item(what="refused", name=order.name, request=order.request, reason=why)
            self._publish(item)

    def forget(self, name: str, request: str) -> None:
        """One is not wanted any more."""
        self._publish(Item(what="deleted", name=name, request=request))

    async def go_back(self, arguments: bytes, cursors: dict[str, bytes]) -> None:
        """Begin anew where a savepoint was. What is in flight is dropped, as at every end."""
        run = self._run
        try:
            run.definition.parameters.decode(arguments)
        except EverlongError as error:
            run.stop_with(WorkflowFault(f"it cannot be taken back to a savepoint: {error}"))
        run.cursors = cursors
        run.close(RunContinuedAsNew(arguments, run.carried(), 0))
        await run.loop.create_future()  # Never resumes: the run is discarded here.

    def _rests(self) -> bool:
        known = self._resting is not None and self._updates == self._updates_taken()
        return known and self._alone()

    async def _let_end(self) -> None:
        """A read that was cancelled for this ends at once; one with interceptors within steps."""
        for _ in range(_YIELDS_MAX):
            if not self._run.in_flight():
                break
            await asyncio.sleep(0)

    def _waiting(self, besides: str = "") -> list[Order]:
        stored = self._cursors().get(WAITING)
        found = [] if stored is None else orders_of(unpack(stored))
        return [one for one in found if one.request != besides]

    def _cursors(self) -> dict[str, bytes]:
        if self._run.cursors is None:
            self._run.cursors = {}
        return self._run.cursors

    # --------------------------------------------------------------------------- one is taken

    async def _take_waiting(self, changed: dict[str, Any]) -> None:
        run = self._run
        if run.recorded is not None and not self._recorded_more():
            return
        orders = self._waiting()
        del self._cursors()[WAITING]
        for order in orders:
            item = self._item(order, changed)
            self._publish(item)
            if order.stop and item.what == "taken":
                reason = f"stopped with savepoint {order.name!r}"
                run.close(RunCancelled(reason, run.signals.unread()))
                await run.loop.create_future()  # Never resumes, as above.

    def _recorded_more(self) -> bool:
        recorded = self._run.recorded or ()
        return sum(map(_is_savepoint, recorded)) > sum(map(_is_savepoint, self._run.made))

    def _item(self, order: Order, changed: dict[str, Any]) -> Item:
        run = self._run
        assert run.started is not None
        read = {name: unpack(data) for name, data in self._cursors().items()}
        if not order.stop and (takes := forgetful(read)):
            why = TAKES.format(streams=", ".join(map(repr, takes)))
            return Item(what="refused", name=order.name, request=order.request, reason=why)
        try:
            item = Item(
                what="taken",
                name=order.name,
                request=order.request,
                workflow=run.definition.name,
                arguments=run.definition.parameters.merge(run.started.arguments, changed),
                cursors=tuple(self._cursors().items()),
                carried=tuple(one for one in run.carried() if not one[0].startswith(OWN)),
            )
            size = len(item.packed())
            why = f"it has {size:,} bytes, of {limits.PAYLOAD_BYTES_MAX:,} that are stored at once"
            too_large = size > limits.PAYLOAD_BYTES_MAX
        except EverlongError as error:
            item, why, too_large = None, str(error), True
        if item is not None and not too_large:
            return item
        return Item(what="refused", name=order.name, request=order.request, reason=why)

    def _publish(self, item: Item) -> None:
        run = self._run
        codec = SavepointCodec(run.definition)
        run.outputs.publish(run, SAVEPOINTS, codec, item, "everlong", keep=SAVEPOINTS_KEPT)


def _is_savepoint(decision: object) -> bool:
    return isinstance(decision, ItemPublished) and decision.channel == SAVEPOINTS
