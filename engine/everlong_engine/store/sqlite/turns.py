"""Who of a pool may begin, and who waits: decided when one asks, and when one has ended."""

from collections.abc import Iterator, Sequence
from itertools import islice
from sqlite3 import Connection

from everlong_engine.machine.lanes import Lane
from everlong_engine.machine.turns import PoolDealer, make_room, together
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.limits import LANES_MAX, TURNS_MAX
from everlong_engine.model.outgoing import Target
from everlong_engine.model.queues import NO_LIMITS, AtLimit, QueueLimits, pool_scope
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
from everlong_engine.store.sqlite.lanes import keys_of, limit_row, ranks_of, starts_of, store_starts
from everlong_engine.store.sqlite.messages import put_message
from everlong_engine.store.sqlite.rows import read_run
from everlong_engine.store.sqlite.statements import SQL

__all__ = ["ask_turns", "deal_turns", "pools"]


def ask_turns(tx: Connection, asks: Sequence[AskTurn]) -> list[TurnAnswer]:
    """Let them begin, hand them back to wait, or say that there is no room. All are of one pool."""
    answers = [TurnAnswer(_stopped(tx, ask) or Turn.WAITS) for ask in asks]
    asking = [at for at, answer in enumerate(answers) if answer.turn is Turn.WAITS]
    if not asking:
        return answers
    is_new = {at: _enter(tx, asks[at]) for at in asking}
    dealer = _dealer(tx, asks[0].pool, max(ask.now_us for ask in asks), asks[0].after)
    begun = set(_deal(tx, dealer, max(ask.now_us for ask in asks)))
    others = not begun <= {_key(asks[at]) for at in asking}
    turns = {at: _turn_of(tx, dealer, asks[at]) for at in asking}
    waiting = [at for at, turn in turns.items() if turn is Turn.WAITS]
    for at in waiting:
        own = (*_key(asks[at]), asks[at].token, asks[at].worker_id)
        tx.execute(SQL["hand_back_turn"], (WAITS_US, *own))
    if dealer.limits.at_limit is AtLimit.CANCEL_RUNNING:
        for at in waiting:  # Behind that: one of them may be cancelled, and is woken for it.
            others = (is_new[at] and _make_room(tx, dealer, asks[at])) or others
    for at, turn in turns.items():
        answers[at] = TurnAnswer(turn, dealer.limits.at_limit, others, dealer.after)
    return answers


def _key(ask: AskTurn) -> tuple[int, bytes]:
    return ask.shard, ask.execution_id


def _stopped(tx: Connection, ask: AskTurn) -> Turn | None:
    """Why it is not to be judged now."""
    row = read_run(tx, ask.shard, ask.execution_id)
    if row is None or not ask.is_as_known(row):
        return Turn.GONE
    positions = tx.execute(SQL["mail_positions_of"], _key(ask)).fetchall()
    return Turn.MAIL if any(one > ask.waits_with for (one,) in positions) else None


def _enter(tx: Connection, ask: AskTurn) -> bool:
    """Whether it is new here."""
    if tx.execute(SQL["turn_of"], _key(ask)).fetchone() is not None:
        return False
    row = (ask.namespace, ask.workflow_id, ask.pool, ask.key, ask.rank, ask.now_us)
    tx.execute(SQL["ask_turn"], (*_key(ask), *row, ask.until_us))
    return True


def _turn_of(tx: Connection, dealer: PoolDealer, ask: AskTurn) -> Turn:
    found = tx.execute(SQL["turn_of"], _key(ask)).fetchone()
    if found is not None and found[0] != TurnState.WAITS:
        return Turn.BEGINS
    if dealer.may_wait:  # Also who has just made room for another one: it is cancelled.
        return Turn.WAITS
    tx.execute(SQL["drop_turn"], _key(ask))
    return Turn.NO_ROOM


def _make_room(tx: Connection, dealer: PoolDealer, ask: AskTurn) -> bool:
    """Cancel the one that came first of those in the way."""
    try:
        key = dealer.whom_to_ask(dealer.lane(ask.rank, ask.key))
    except LookupError:
        return False
    while True:
        found = tx.execute(SQL["in_the_way"], (ask.pool, key, ask.execution_id)).fetchone()
        if found is None:
            return False
        shard, execution_id, namespace, workflow_id, state = found
        if state == TurnState.WAITS:  # It goes when it hears of it, and never begins.
            tx.execute(SQL["drop_turn"], (shard, execution_id))
        else:
            tx.execute(SQL["put_turn"], (TurnState.ASKED, shard, execution_id))
        target = Target(shard, namespace, workflow_id, execution_id)
        if put_message(tx, Message(target, *make_room(ask.pool), ask.now_us)).position is not None:
            return True  # Else it has ended meanwhile, and nobody has told its row.


# ---------------------------------------------------------------------------------------- dealing


def deal_turns(tx: Connection, wanted: Sequence[tuple[str, str]], now_us: int) -> TurnsDealt:
    """Let begin who may: of each pool, with the key that was served last."""
    return together(_look(tx, pool, after, now_us) for pool, after in wanted)


def _look(tx: Connection, pool: str, after: str, now_us: int) -> TurnsDealt:
    if next(ranks_of(tx, "next_turn_rank", (pool,)), None) is None:
        return TurnsDealt()
    dealer = _dealer(tx, pool, now_us, after)
    begun = _deal(tx, dealer, now_us)
    late = tx.execute(SQL["late_turns"], (pool, now_us)).fetchall()
    for key in late:
        tx.execute(SQL["wake_turn"], (now_us, *key))
    waits = next(ranks_of(tx, "next_turn_rank", (pool,)), None) is not None
    (next_late,) = tx.execute(SQL["next_late_turn"], (pool,)).fetchone()
    held_back = [lane for lane, _ in islice(_lanes(tx, dealer, pool), LANES_MAX)]
    times = (dealer.next_us(held_back), next_late, now_us if len(begun) >= TURNS_MAX else None)
    return TurnsDealt(
        begun=len(begun) + len(late),
        next_us=min((one for one in times if one is not None), default=None),
        waiting=(pool,) if waits else (),
        after=((pool, dealer.after),),
    )


def _dealer(tx: Connection, pool: str, now_us: int, after: str) -> PoolDealer:
    scope = pool_scope(pool)
    dealer = PoolDealer(pool, _limits(tx, scope), now_us, after)
    tx.execute(SQL["forget_turns"], (pool,))
    for key, count in tx.execute(SQL["turns_begun"], (pool,)).fetchall():
        dealer.count(scope, key, count)
    if dealer.rate_of((scope, "")) is not None:
        dealer.know((scope, ""), starts_of(tx, scope, ""))
    return dealer


def _limits(tx: Connection, scope: str) -> QueueLimits:
    found = [limit_row(values) for values in tx.execute(SQL["limits_of"], (scope,)).fetchall()]
    return found[-1].limits if found else NO_LIMITS


def _deal(tx: Connection, dealer: PoolDealer, now_us: int) -> list[tuple[int, bytes]]:
    """Who begins now."""
    begun: list[tuple[int, bytes]] = []
    pool = dealer.pool
    lanes = _with_room(tx, dealer, pool)
    while lanes and len(begun) < TURNS_MAX:
        dealt = dealer.deal(lanes, TURNS_MAX - len(begun))
        if not dealt:
            break
        for lane, quota in dealt:
            first = tx.execute(SQL["next_turns"], (pool, lane.rank, lane.key, quota)).fetchall()
            there = [one[:2] for one in first if one[2] == RunStatus.RUNNING]
            for shard, execution_id, status in first:
                if status != RunStatus.RUNNING:  # It has ended, and nobody has told its row.
                    tx.execute(SQL["drop_turn"], (shard, execution_id))
            for key in there:
                tx.execute(SQL["put_turn"], (TurnState.BEGUN, *key))
                tx.execute(SQL["wake_turn"], (now_us, *key))
            dealer.begin(lane, len(there))
            begun += there
            if len(first) < quota:
                del lanes[lane]
    store_starts(tx, dealer, now_us)
    return begun


def _with_room(tx: Connection, dealer: PoolDealer, pool: str) -> dict[Lane, int]:
    lanes: dict[Lane, int] = {}
    if dealer.room_of_queue(dealer.scope) <= 0:
        return lanes
    for lane, asked_us in _lanes(tx, dealer, pool):
        if dealer.room(lane) > 0:
            lanes[lane] = asked_us
            if len(lanes) >= LANES_MAX:
                break
    return lanes


def _lanes(tx: Connection, dealer: PoolDealer, pool: str) -> Iterator[tuple[Lane, int]]:
    """Of which somebody waits, and since when."""
    for rank in ranks_of(tx, "next_turn_rank", (pool,)):
        shelf = (pool, rank)
        found = tx.execute(SQL["turn_without_key"], shelf).fetchone()
        if found is not None:
            yield dealer.lane(rank, ""), found[0]
        for key, asked_us in keys_of(tx, "next_turn_key", shelf, dealer.after):
            lane = dealer.lane(rank, key)
            if dealer.needs_starts(lane):
                dealer.know((lane.queue, key), starts_of(tx, lane.queue, key))
            yield lane, asked_us


# ------------------------------------------------------------------------------------------- looks


def pools(tx: Connection) -> list[PoolCount]:
    """How many wait and have begun, by pool. Raises UndecodablePayload: a damaged row."""
    found: list[PoolCount] = []
    for pool, waiting, begun, oldest_us in tx.execute(SQL["pools"]).fetchall():
        if not isinstance(pool, str) or not isinstance(oldest_us, int | None):
            raise UndecodablePayload("a row of turns is damaged: `everlong verify` names it")
        found.append(PoolCount(pool, waiting, begun, oldest_us))
    return found
