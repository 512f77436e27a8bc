"""Who of a pool may begin, and who waits: decided when one asks, and when one has ended.

The rows of a pool's limits are locked first, and runs behind that: whoever writes histories locks
runs, and never waits for a pool.
"""

from collections.abc import Sequence
from typing import Any

from everlong_engine.machine.lanes import Lane
from everlong_engine.machine.turns import PoolDealer, make_room, together
from everlong_engine.model.limits import LANES_MAX, TURNS_MAX
from everlong_engine.model.outgoing import Target
from everlong_engine.model.queues import NO_LIMITS, AtLimit, pool_scope
from everlong_engine.model.runs import WAITS_US, RunStatus
from everlong_engine.model.turns import (
    AskTurn,
    PoolCount,
    Turn,
    TurnAnswer,
    TurnsDealt,
    TurnState,
)
from everlong_engine.model.writes import Message
from everlong_engine.store.postgres.lanes import learn_starts, limit_row, seen_to, store_starts
from everlong_engine.store.postgres.messages import put_message
from everlong_engine.store.postgres.rows import run_row
from everlong_engine.store.postgres.statements import Tx

__all__ = ["ask_turns", "deal_turns", "pools"]


async def ask_turns(tx: Tx, asks: Sequence[AskTurn]) -> list[TurnAnswer]:
    """Let them begin, hand them back to wait, or say that there is no room. All are of one pool."""
    now_us = max(ask.now_us for ask in asks)
    dealer = await _locked(tx, asks[0].pool, now_us, asks[0].after)
    stopped = await _stopped(tx, asks)
    answers = [TurnAnswer(stopped.get(ask.execution_id, Turn.WAITS)) for ask in asks]
    asking = [at for at, answer in enumerate(answers) if answer.turn is Turn.WAITS]
    if not asking:
        return answers
    entered = await tx.rows("ask_turns", [_row(asks[at]) for at in asking])
    is_new = {row[0] for row in entered}
    await _count(tx, dealer)
    begun = set(await _deal(tx, dealer, now_us))
    keys = [_key(asks[at]) for at in asking]
    states = {row[0]: row[1] for row in await tx.rows("turns_of", keys)}
    others = not begun <= set(keys)
    turns = {at: _turn(dealer, states.get(asks[at].execution_id)) for at in asking}
    refused = [_key(asks[at]) for at, turn in turns.items() if turn is Turn.NO_ROOM]
    if refused:
        await tx.rows("drop_turns", refused)
    waiting = [asks[at] for at, turn in turns.items() if turn is Turn.WAITS]
    if waiting:
        own = [(*_key(ask), ask.token, ask.worker_id, WAITS_US) for ask in waiting]
        await tx.rows("hand_back_turns", own)
    if dealer.limits.at_limit is AtLimit.CANCEL_RUNNING:
        for ask in waiting:  # Behind that: one of them may be cancelled, and is woken for it.
            if ask.execution_id in is_new:
                others = await _make_room(tx, dealer, ask) or others
    for at, turn in turns.items():
        answers[at] = TurnAnswer(turn, dealer.limits.at_limit, others, dealer.after)
    return answers


def _key(ask: AskTurn) -> tuple[int, bytes]:
    return ask.shard, ask.execution_id


def _row(ask: AskTurn) -> tuple[Any, ...]:
    row = (ask.namespace, ask.workflow_id, ask.pool, ask.key, ask.rank, ask.now_us, ask.until_us)
    return (*_key(ask), *row)


async def _stopped(tx: Tx, asks: Sequence[AskTurn]) -> dict[bytes, Turn]:
    """Those that are not to be judged now, and why."""
    keys = sorted({_key(ask) for ask in asks})
    runs = {row["run_id"]: run_row(row) for row in await tx.rows("hold_runs", keys)}
    newest = {row[0]: row[1] for row in await tx.rows("newest_mail", keys)}
    stopped: dict[bytes, Turn] = {}
    for ask in asks:
        row = runs.get(ask.execution_id)
        if row is None or not ask.is_as_known(row):
            stopped[ask.execution_id] = Turn.GONE
        elif newest.get(ask.execution_id, 0) > ask.waits_with:
            stopped[ask.execution_id] = Turn.MAIL
    return stopped


def _turn(dealer: PoolDealer, state: int | None) -> Turn:
    if state is not None and state != TurnState.WAITS:
        return Turn.BEGINS
    # Also who has just made room for another one waits: it is cancelled.
    return Turn.WAITS if dealer.may_wait else Turn.NO_ROOM


async def _make_room(tx: Tx, dealer: PoolDealer, ask: AskTurn) -> bool:
    """Cancel the one that came first of those in the way."""
    try:
        key = dealer.whom_to_ask(dealer.lane(ask.rank, ask.key))
    except LookupError:
        return False
    while True:
        found = await tx.one("in_the_way", (ask.pool, key, ask.execution_id))
        if found is None:
            return False
        shard, execution_id, namespace, workflow_id, state = found
        if state == TurnState.WAITS:  # It goes when it hears of it, and never begins.
            await tx.rows("drop_turns", [(shard, execution_id)])
        else:
            await tx.run("put_turn", (TurnState.ASKED, shard, execution_id))
        target = Target(shard, namespace, workflow_id, execution_id)
        cancelled = await put_message(tx, Message(target, *make_room(ask.pool), ask.now_us))
        if cancelled.position is not None:
            return True  # Else it has ended meanwhile, and nobody has told its row.


# ---------------------------------------------------------------------------------------- dealing


async def deal_turns(tx: Tx, wanted: Sequence[tuple[str, str]], now_us: int) -> TurnsDealt:
    """Let begin who may: of each pool, with the key that was served last."""
    # In one order, so that whoever locks several pools waits for the others in turn.
    return together([await _look(tx, pool, after, now_us) for pool, after in sorted(wanted)])


async def _look(tx: Tx, pool: str, after: str, now_us: int) -> TurnsDealt:
    if await tx.one("anybody_waits", (pool,)) is None:
        return TurnsDealt()
    dealer = await _locked(tx, pool, now_us, after)
    await _count(tx, dealer)
    begun = await _deal(tx, dealer, now_us)
    late = [tuple(one) for one in await tx.all("late_turns", (pool, now_us))]
    await _wake(tx, late, now_us)
    waits = await tx.one("anybody_waits", (pool,)) is not None
    (next_late,) = await tx.one("next_late_turn", (pool,))
    free_us = dealer.next_us(await _lanes(tx, dealer, after, "")) if waits else None
    times = (free_us, next_late, now_us if len(begun) >= TURNS_MAX else None)
    return TurnsDealt(
        begun=len(begun) + len(late),
        next_us=min((one for one in times if one is not None), default=None),
        waiting=(pool,) if waits else (),
        after=((pool, dealer.after),),
    )


async def _locked(tx: Tx, pool: str, now_us: int, after: str) -> PoolDealer:
    found = await tx.all("lock_pool", (pool_scope(pool),))
    limits = limit_row(found[-1]).limits if found else NO_LIMITS
    return PoolDealer(pool, limits, now_us, after)


async def _count(tx: Tx, dealer: PoolDealer) -> None:
    await tx.run("forget_turns", (dealer.pool,))
    for key, count in await tx.all("turns_begun", (dealer.pool,)):
        dealer.count(dealer.scope, key, count)
    if dealer.rate_of((dealer.scope, "")) is not None:
        await learn_starts(tx, dealer, [(dealer.scope, "")])


async def _deal(tx: Tx, dealer: PoolDealer, now_us: int) -> list[tuple[int, bytes]]:
    """Who begins now."""
    begun: list[tuple[int, bytes]] = []
    lanes = await _with_room(tx, dealer)
    while lanes and len(begun) < TURNS_MAX:
        dealt = dealer.deal(lanes, TURNS_MAX - len(begun))
        if not dealt:
            break
        wanted = [(dealer.pool, lane.rank, lane.key, quota) for lane, quota in dealt]
        found: dict[Lane, list[tuple[int, bytes, int | None]]] = {}
        for rank, key, *first in await tx.rows("next_turns", wanted):
            found.setdefault(dealer.lane(rank, key), []).append((first[0], first[1], first[2]))
        for lane, quota in dealt:
            first = found.get(lane, [])
            there = [one[:2] for one in first if one[2] == RunStatus.RUNNING]
            ended = [one[:2] for one in first if one[2] != RunStatus.RUNNING]
            if ended:  # Nobody has told their rows.
                await tx.rows("drop_turns", ended)
            if there:
                await tx.rows("begin_turns", there)
            dealer.begin(lane, len(there))
            begun += there
            if len(first) < quota:
                del lanes[lane]
    await _wake(tx, begun, now_us)
    await store_starts(tx, dealer, now_us)
    return begun


async def _wake(tx: Tx, runs: Sequence[tuple[int, bytes]], now_us: int) -> None:
    if runs:
        await tx.rows("lock_runs", sorted(runs))
        await tx.rows("wake_turns", [(*one, now_us) for one in runs])


async def _with_room(tx: Tx, dealer: PoolDealer) -> dict[Lane, int]:
    """Some keys at a time, until there are some with room, or all were looked at."""
    seen: set[Lane] = set()
    behind, before = dealer.after, ""
    while dealer.room_of_queue(dealer.scope) > 0:
        found = await _lanes(tx, dealer, behind, before)
        new = {lane: asked_us for lane, asked_us in found.items() if lane not in seen}
        seen.update(new)
        with_room = {lane: asked_us for lane, asked_us in new.items() if dealer.room(lane) > 0}
        if with_room or not new:
            return with_room
        behind = seen_to([lane for lane in found if lane.key > dealer.after], behind)
        before = seen_to([lane for lane in found if "" < lane.key <= dealer.after], before)
    return {}


async def _lanes(tx: Tx, dealer: PoolDealer, behind: str, before: str) -> dict[Lane, int]:
    """Of which somebody waits, and since when."""
    values = (dealer.pool, behind, LANES_MAX, before, dealer.after)
    found = await tx.all("turn_lanes", values)
    lanes = {dealer.lane(rank, key): asked_us for rank, key, asked_us in found}
    unknown = [(lane.queue, lane.key) for lane in lanes if dealer.needs_starts(lane)]
    await learn_starts(tx, dealer, sorted(set(unknown)))
    return lanes


# ------------------------------------------------------------------------------------------- looks


async def pools(tx: Tx) -> list[PoolCount]:
    """How many wait and have begun, by pool."""
    return [PoolCount(*values) for values in await tx.all("pools")]
