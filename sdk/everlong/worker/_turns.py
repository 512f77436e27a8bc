"""Turns in pools: how an execution that has been claimed asks to begin, and how the next one may.

The store decides. Whoever ends here makes room for somebody, so that is when to look; what has
ended elsewhere is seen a second later at most.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from everlong._failures import encode_exception
from everlong.exceptions import EverlongError, PoolFull, UndecodablePayload, WorkflowFault
from everlong.worker._owned import OwnedRun
from everlong_engine import (
    AskTurn,
    AtLimit,
    CancelRequested,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunTimedOut,
    Turn,
    TurnAnswer,
)

if TYPE_CHECKING:
    from everlong.worker._keeper import RunKeeper

__all__ = ["TurnDesk"]

logger = logging.getLogger("everlong")

_LOOK_US: Final = 1_000_000
_ASKS_MAX: Final = 100
_JUDGED: Final = (Turn.BEGINS, Turn.WAITS, Turn.NO_ROOM)


class TurnDesk:
    """One per keeper."""

    def __init__(self, keeper: "RunKeeper") -> None:
        self._keeper = keeper
        self._engine = keeper.engine
        rules = [one.turns for one in keeper.versions.workflows.values()]
        self._after = {rule.pool: "" for rule in rules if rule is not None}
        """The key that was served last, by pool; all that this worker has to do with, and those in
        which somebody waits of whose code nobody may be left."""
        self._waiting: set[str] = set()
        """For which somebody waits, as far as is known here."""
        self._asking: dict[str, list[tuple[OwnedRun, int, AskTurn]]] = {}
        """Who is to ask next, with the generation of its code."""
        self._asked: set[str] = set()
        """The pools that are being asked."""
        self._wanted: set[str] = set()
        self._looks = False
        self._looks_around = False
        self._again_us: int | None = None

    def look_around(self) -> None:
        """Workers have come or gone: somebody may wait for whom there is room, also in a pool that
        the code of today does not name any more."""
        self._looks_around = True
        self._look_at(set(self._after))

    # ----------------------------------------------------------------------------------- asking

    def asks(self, run: OwnedRun) -> bool:
        """Whether the run, which has just been loaded, does not begin before it has asked for its
        turn. A later run of its execution has it already."""
        rule = self._keeper.versions.workflows[run.type].turns
        if rule is None or run.code.started is not None or run.run_id != run.execution_id:
            return False
        waiting = [one.event for one in run.mailbox]
        started = next(one for one in waiting if isinstance(one, RunStarted))
        for event in waiting:
            if isinstance(event, CancelRequested):
                self._keeper.end_unbegun(run, RunCancelled(event.reason))
                return True
        until_us = started.execution_deadline_us
        if until_us is not None and until_us <= self._engine.clock.now_us():
            run.late_mail = []
            self._keeper.end(run, RunTimedOut("execution"))
            return True
        try:
            args, kwargs = run.code.definition.parameters.decode(started.arguments)
            key, rank = rule.place(args, kwargs)
        except Exception as error:
            fault = WorkflowFault(f"its place in the pool {rule.pool} cannot be told: {error!r}")
            fault.__cause__ = error
            self._keeper.leaving.block(run, fault)
            return True
        ask = AskTurn(
            shard=run.shard,
            execution_id=run.execution_id,
            namespace=run.namespace,
            workflow_id=run.workflow_id,
            worker_id=self._keeper.worker_id,
            token=run.token,
            pool=rule.pool,
            key=key,
            rank=rank,
            waits_with=max(run.positions, default=0),
            until_us=until_us,
            now_us=self._engine.clock.now_us(),
            after=self._after[rule.pool],
        )
        run.loading = True
        asking = self._asking.setdefault(rule.pool, [])
        asking.append((run, run.generation, ask))
        if len(asking) == 1 and rule.pool not in self._asked:
            self._keeper.spawn(self._ask(rule.pool))
        return True

    async def _ask(self, pool: str) -> None:
        """For all that have come here meanwhile, together: it costs a commit."""
        self._asked.add(pool)
        try:
            while asking := self._asking.pop(pool, []):
                for first in range(0, len(asking), _ASKS_MAX):
                    await self._ask_for(pool, asking[first : first + _ASKS_MAX])
        finally:
            self._asked.discard(pool)

    async def _ask_for(self, pool: str, asking: Sequence[tuple[OwnedRun, int, AskTurn]]) -> None:
        keeper, after = self._keeper, self._after[pool]
        try:
            asks = [replace(ask, after=after) for _, _, ask in asking]
            answers = await self._engine.store.ask_turns(asks)
        except EverlongError as error:
            logger.warning("cannot ask for turns in the pool %s now: %s", pool, error)
            for run, generation, _ in asking:
                if not run.dropped and run.generation == generation:
                    keeper.loading.reload_later(run)
            return
        if any(answer.others for answer in answers):
            self._engine.mail_arrived()
            self._engine.wake_hosts()
        for (run, generation, ask), answer in zip(asking, answers, strict=True):
            if answer.turn in _JUDGED:
                self._after[pool] = answer.after
            if answer.turn is Turn.WAITS:
                self._wait_for(pool)
            if not (run.dropped or run.generation != generation or keeper.stopping):
                self._go_on(run, ask, answer)  # Else whoever stops looks at its row.

    def _go_on(self, run: OwnedRun, ask: AskTurn, answer: TurnAnswer) -> None:
        keeper = self._keeper
        match answer.turn:
            case Turn.BEGINS:
                keeper.loading.begin(run)
            case Turn.WAITS:
                keeper.forget(run)
                keeper.reject(run)  # What came directly waits with the rest.
                keeper.on_room()
            case Turn.NO_ROOM:
                run.loading = False
                keeper.end_unbegun(run, _refused(run, ask.pool, answer.at_limit))
            case Turn.MAIL | Turn.GONE:
                keeper.loading.reload(run)

    # ---------------------------------------------------------------------------------- looking

    def ended(self, run: OwnedRun | None) -> None:
        """An execution has ended here; None: one that was nowhere."""
        if run is None:
            self._look_at(self._waiting)
            return
        rule = self._keeper.versions.workflows[run.type].turns
        if rule is not None:
            self._look_at({rule.pool})

    def _look_at(self, pools: set[str]) -> None:
        """Let begin who may by now."""
        self._wanted |= pools
        if self._keeper.stopping or self._looks:
            return
        if self._wanted or self._looks_around:
            self._looks = True
            self._keeper.spawn(self._look())

    async def _look(self) -> None:
        next_us: int | None = None
        try:
            while (self._wanted or self._looks_around) and not self._keeper.stopping:
                if self._looks_around:
                    self._looks_around = False
                    await self._find_others()
                pools, self._wanted = self._wanted, set()
                now_us = self._engine.clock.now_us()
                asked = [(pool, self._after[pool]) for pool in sorted(pools)]
                dealt = await self._engine.store.deal_turns(asked, now_us)
                self._after.update(dealt.after)
                self._waiting = (self._waiting - pools) | set(dealt.waiting)
                if dealt.begun:
                    self._engine.wake_hosts()
                if dealt.next_us is not None:
                    next_us = dealt.next_us if next_us is None else min(next_us, dealt.next_us)
        except EverlongError as error:
            logger.warning("cannot look who may begin now: %s", error)
            self._waiting |= set(self._after)
            self._looks_around = True
        finally:
            self._looks = False
        if self._waiting or self._looks_around:
            self._look_again(next_us)

    async def _find_others(self) -> None:
        """Pools in which somebody waits, and that are none of this worker's."""
        try:
            found = await self._engine.store.pools()
        except UndecodablePayload as error:
            logger.warning("cannot see in which pools somebody waits: %s", error)
            return
        for one in found:
            if one.waiting and one.pool not in self._after:
                self._after[one.pool] = ""
                self._wanted.add(one.pool)

    def _wait_for(self, pool: str) -> None:
        self._waiting.add(pool)
        self._look_again(None)

    def _look_again(self, due_us: int | None) -> None:
        """At a moment, and after a second at the latest: who ends elsewhere does not say so."""
        at_us = self._engine.clock.now_us() + _LOOK_US
        if due_us is not None:
            at_us = min(at_us, due_us)
        if self._again_us is None or at_us < self._again_us:
            self._again_us = at_us
            self._keeper.deadlines.add(at_us, self._again, at_us, matters=self._is_next)

    def _is_next(self, at_us: int) -> bool:
        return at_us == self._again_us

    def _again(self, at_us: int) -> None:
        self._again_us = None
        self._look_at(self._waiting)


def _refused(run: OwnedRun, pool: str, at_limit: AtLimit) -> RunFailed | RunCancelled:
    text = f"the pool {pool} has no room for it"
    if at_limit is AtLimit.REFUSE:
        return RunFailed(encode_exception(PoolFull(text), run.code.definition.exceptions))
    return RunCancelled(text)
