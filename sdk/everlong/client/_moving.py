"""Executions from one store to another, one family at a time, whatever dies on the way.

    held      nothing goes on in the family, and everybody who had it in hand has let go
    copied    the other store would take it in
    left      the first store has marked it as moved, in one transaction that saw that nothing goes
              on in it; nobody is told here any more that a message is accepted
    arrived   the other store has it, and it goes on there
    settled   the first store knows that

Up to `left` it lives in the first store, and `resume` there is all that it takes to undo what was
done. Behind `left` it is brought from what that store keeps, again and again if need be: what has
arrived once is known. So whoever runs the same move once more ends it, from wherever it stands, and
no order of deaths lets it go on in both stores.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from everlong._definitions import OWN
from everlong._texts import storable
from everlong.client._connected import Connected
from everlong.exceptions import (
    EverlongError,
    ImportRefused,
    MoveRefused,
    WorkflowAlreadyStarted,
    WorkflowMoved,
    WorkflowNotFound,
)
from everlong_engine import (
    MOVER,
    AttemptState,
    Engine,
    ExportedExecution,
    MessageResult,
    Pause,
    Resume,
    RunRow,
    RunStatus,
    Target,
    arriving,
    as_it_stood,
    bringing,
    move_of,
    outsiders,
    seconds_us,
    unfinished,
)

if TYPE_CHECKING:
    from everlong.client._client import Client

__all__ = ["MoveReport", "MoveStep", "Moving"]

MoveStep: TypeAlias = Literal["held", "copied", "left", "arrived", "settled"]

_TRIES: Final = 20
"""It is looked at anew where something has gone on in it after all."""
_LOOK_S: Final = 0.2
_WAITING: Final = (
    "{} of its messages wait in an outbox of this store, and must go out first: `everlong outbox "
    "list` says what is in the way"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveReport:
    """What `client.move` has done."""

    workflow_id: str
    family: tuple[str, ...]
    """The workflow ids that went together; the one that was named comes first."""
    place: str
    """Where they are: a file, or a database without its password."""
    was_there: bool
    """They had arrived before, and nothing was left to do."""


class Moving(Connected):
    """The part of a client that moves executions to another store."""

    async def move(
        self,
        workflow_id: str,
        to: "Client",
        *,
        wait: float | timedelta = 60.0,
        dry_run: bool = False,
        on_step: Callable[[MoveStep], object] | None = None,
    ) -> MoveReport:
        """Take an execution to another store, where it goes on under its own id.

        With it go the executions that it waits for, and its open children. It is held, and once the
        attempts at work have ended it is copied, marked as moved here, and goes on there. Signals
        that are accepted here until that moment go with it; behind it whoever speaks to it here
        gets `WorkflowMoved`, which says where it is. Tokens of `complete_later` are good there from
        then on. What it has put into an outbox is published from here before it goes. What people
        get wrong: tables of your own, which transactional activities write, stay where they are.

            async with Client.connect("trips.db") as here, Client.connect(url) as there:
                await here.move("trip-1", there)

        Whatever dies on the way, it never goes on in both stores, and the same call again ends the
        move. Until it has left, `resume` calls it off. One that has ended can be moved, too.

        Args:
            to: an open client of the other store, with the same namespace.
            wait: seconds (or a timedelta) that attempts at work get to end.
            dry_run: see whether the other store would take it in, and change nothing.
            on_step: called with "held", "copied", "left", "arrived" and "settled", each when it is
                done.

        Raises:
            MoveRefused: something keeps it here, where it goes on; `reason` says what.
            WorkflowNotFound: there is no such execution.
            WorkflowMoved: it has gone to a third store.
        """
        storable(workflow_id, "id")
        wait_s = seconds_us(wait, "wait") / 1e6
        mover = _Mover(self, to, workflow_id, wait_s, on_step or _nobody)
        return await mover.look(dry_run=dry_run)


def _nobody(step: MoveStep) -> None:
    """Hears of it."""


class _Mover:
    """One move. Everything that must outlive it stands in the two stores."""

    def __init__(
        self,
        here: Connected,
        there: Connected,
        workflow_id: str,
        wait_s: float,
        tell: Callable[[MoveStep], object],
    ) -> None:
        if here.namespace != there.namespace:
            raise ValueError(
                f"an execution keeps its namespace: connect the other client with "
                f"namespace={here.namespace!r}"
            )
        self._here, self._there = here, there
        self._workflow_id = workflow_id
        self._wait_s = wait_s
        self._tell = tell
        self._place = place_of(there)
        if self._place == place_of(here):
            raise ValueError(f"{self._place} is the store that it is in: name another one")
        self._held: dict[bytes, Target] = {}
        """Those that were paused for this."""

    async def look(self, *, dry_run: bool) -> MoveReport:
        """Begin, or go on where somebody has stopped."""
        family = await self._family()
        if family[0].last.status is not RunStatus.MOVED:
            self._require(family)
            if dry_run:
                await self._rehearse(family)
                return self._report(family)
            try:
                await self._leave()
            except BaseException:
                await asyncio.shield(self._call_off())
                raise
            family = await self._family()
        last, move = family[0].last, move_of(family[0])
        if move.to != self._place:
            raise WorkflowMoved(workflow_id=last.workflow_id, place=move.to)
        if move.arrived or dry_run:
            return self._report(family, was_there=move.arrived)
        await self._arrive(family)
        return self._report(family)

    def _report(
        self, family: Sequence[ExportedExecution], *, was_there: bool = False
    ) -> MoveReport:
        return MoveReport(
            workflow_id=self._workflow_id,
            family=tuple(one.last.workflow_id for one in family),
            place=self._place,
            was_there=was_there,
        )

    # --------------------------------------------------------------------------------- looking

    def _target(self) -> Target:
        return self._here.engine.target(self._here.namespace, self._workflow_id)

    async def _family(self) -> list[ExportedExecution]:
        found = await self._here.engine.store.export(self._target(), family=True)
        if not found:
            raise WorkflowNotFound(workflow_id=self._workflow_id)
        return found

    def _require(self, family: Sequence[ExportedExecution]) -> None:
        """Raises MoveRefused."""
        for one in family:
            if one.last.type.startswith(OWN):
                raise MoveRefused(
                    workflow_id=one.last.workflow_id,
                    reason="it is a job on the executions of this store: wait for its end",
                )
        for waiter, awaited in outsiders(family):
            raise MoveRefused(
                workflow_id=self._workflow_id,
                reason=f"{waiter!r} waits for {awaited!r} and would not hear of its end: move "
                f"{waiter!r}, and it goes too",
                waiter=waiter,
            )

    # --------------------------------------------------------------------------------- leaving

    async def _leave(self) -> None:
        until_s = asyncio.get_running_loop().time() + self._wait_s
        for _ in range(_TRIES):
            family = await self._at_rest(until_s)
            if family[0].last.status is RunStatus.MOVED:  # By another one that moves it.
                return
            self._require(family)
            self._tell("held")
            await self._rehearse(family)
            self._tell("copied")
            if await self._here.engine.store.leave(self._target(), family, self._place):
                self._held.clear()
                for one in family:
                    self._here.engine.departed(one.last.execution_id)
                self._tell("left")
                return
        raise MoveRefused(
            workflow_id=self._workflow_id,
            reason="somebody changes it all the time: pause it yourself, and move it then",
        )

    async def _rehearse(self, family: Sequence[ExportedExecution]) -> None:
        """Raises MoveRefused."""
        coming = self._packed([(one, move_of(one).turn + 1) for one in family])
        try:
            await self._there.engine.store.bring(coming, moved=True, rehearsed=True)
        except (ImportRefused, WorkflowAlreadyStarted) as error:
            raise _refused(self._workflow_id, self._place, error) from error

    async def _at_rest(self, until_s: float) -> list[ExportedExecution]:
        """The family, when nothing goes on in it.

        Raises:
            MoveRefused: somebody has let it go on, or it is still at work.
        """
        loop = asyncio.get_running_loop()
        while True:
            changed = self._here.engine.changed()
            try:
                family = await self._family()
                for one in family:
                    if one.last.status is RunStatus.RUNNING:
                        await self._hold(one.last)
                busy = [one for one in family if unfinished(one)]
                # Held, so that no more come: the others would overtake them in the other store.
                letters = 0 if busy else await self._letters(family)
                if not busy and not letters:
                    return family
                left_s = until_s - loop.time()
                if left_s <= 0:
                    reason = await self._why(busy) if busy else _WAITING.format(letters)
                    raise MoveRefused(workflow_id=self._workflow_id, reason=reason)
                await asyncio.wait([changed], timeout=min(left_s, _LOOK_S))
            finally:
                changed.cancel()

    async def _letters(self, family: Sequence[ExportedExecution]) -> int:
        """How many messages of theirs wait in outboxes."""
        ids = [one.last.execution_id for one in family]
        return await self._here.engine.store.letters_of(ids)

    async def _hold(self, row: RunRow) -> None:
        if row.execution_id in self._held:
            del self._held[row.execution_id]
            raise MoveRefused(
                workflow_id=row.workflow_id, reason="somebody has resumed it, which calls it off"
            )
        engine, records = self._here.engine, self._here.records
        reason = f"it is being moved to {self._place}"
        stored = records.pause_reason(row.namespace, row.execution_id, reason)
        target = engine.target(row.namespace, row.workflow_id, row.execution_id)
        pause = Pause(target, engine.clock.now_us(), MOVER, stored, sent=engine.sent())
        self._held[row.execution_id] = target
        result = await engine.commits.put(pause)
        assert isinstance(result, MessageResult)
        engine.look_at([row.execution_id])

    async def _why(self, busy: Sequence[ExportedExecution]) -> str:
        """Who still has what in hand."""
        one = busy[0]
        workers = {row.worker_id: row for row in await self._here.engine.store.workers()}
        owner = one.last.owner
        if owner is None:
            taken = [row for row in one.runs[-1].attempts if row.state is AttemptState.TAKEN]
            names = ", ".join(dict.fromkeys(row.worker for row in taken if row.worker))
            reason = f"a worker{f' ({names})' if names else ''} still has a call of it from a queue"
        elif owner in workers and workers[owner].is_there:
            reason = f"its worker {workers[owner].name} has attempts of it at work"
        else:
            reason = (
                "its worker is gone without a word: run one on its store, which takes it over, "
                "and move it then"
            )
            return f"{one.last.workflow_id!r}: {reason}"
        return f"{one.last.workflow_id!r}: {reason} after {self._wait_s:g} s: wait longer"

    async def _call_off(self) -> None:
        """Let go on what was held for nothing."""
        engine = self._here.engine
        for target in self._held.values():
            resume = Resume(target, engine.clock.now_us(), sent=engine.sent(), by=MOVER)
            await engine.commits.put(resume)
        engine.look_at(list(self._held))
        engine.wake_hosts()

    # -------------------------------------------------------------------------------- arriving

    def _packed(self, family: Sequence[tuple[ExportedExecution, int]]) -> list[ExportedExecution]:
        """As the other store keeps them."""
        engine = self._there.engine
        now_us = engine.clock.now_us()
        packed: list[ExportedExecution] = []
        for one, turn in family:
            shard = engine.target(one.last.namespace, one.last.workflow_id).shard
            packed.append(arriving(bringing(one, turn), shard, now_us))
        return packed

    async def _arrive(self, family: Sequence[ExportedExecution]) -> None:
        """Bring what has left, as often as it takes.

        Raises:
            MoveRefused: the other store does not take it in after all, and it goes on here.
        """
        here, there = self._here.engine, self._there.engine
        turns = [move_of(one).turn for one in family]
        stood = [as_it_stood(one) for one in family]
        coming = self._packed(list(zip(stood, turns, strict=True)))
        try:
            await there.store.bring(coming, moved=True)
        except (ImportRefused, WorkflowAlreadyStarted) as error:
            shut = [(_target_in(there, one), turn) for one, turn in zip(family, turns, strict=True)]
            if await there.store.refuse_arrivals(shut, there.clock.now_us()):
                await self._settle(family, turns, arrived=False)
                raise _refused(self._workflow_id, self._place, error) from error
        self._tell("arrived")
        for one in coming:
            there.ids.follow(one.last.run_id)
        there.wake_hosts()
        await self._settle(family, turns, arrived=True)
        self._tell("settled")
        here.wake_hosts()

    async def _settle(
        self, family: Sequence[ExportedExecution], turns: Sequence[int], *, arrived: bool
    ) -> None:
        engine = self._here.engine
        left = [(_target_in(engine, one), turn) for one, turn in zip(family, turns, strict=True)]
        await engine.store.settle(left, engine.clock.now_us(), arrived=arrived)
        engine.wake_hosts()


def _target_in(engine: Engine, one: ExportedExecution) -> Target:
    last = one.last
    return engine.target(last.namespace, last.workflow_id, last.execution_id)


def place_of(client: Connected) -> str:
    """A store as people know it, and as it is known again."""
    path = client.engine.store.path
    return path if "://" in path else str(Path(path).absolute().resolve())


def _refused(workflow_id: str, place: str, error: EverlongError) -> MoveRefused:
    return MoveRefused(workflow_id=workflow_id, reason=f"{place} does not take it in: {error}")
