"""Who of a pool may begin, and who waits: decided when one asks, and when one has ended."""

from collections.abc import Sequence

from msgspec.structs import replace

from everlong_engine.machine.lanes import Lane
from everlong_engine.machine.turns import PoolDealer, make_room, together
from everlong_engine.model.limits import TURNS_MAX
from everlong_engine.model.outgoing import Target
from everlong_engine.model.queues import NO_LIMITS, AtLimit, pool_scope
from everlong_engine.model.runs import WAITS_US, Probation, RunStatus
from everlong_engine.model.turns import (
    AskTurn,
    PoolCount,
    Turn,
    TurnAnswer,
    TurnsDealt,
    TurnState,
)
from everlong_engine.model.writes import Message
from everlong_engine.store.memory.data import MemoryData, StoredTurn
from everlong_engine.store.memory.lanes import queue_limits, store_starts
from everlong_engine.store.memory.messages import put_message

__all__ = ["ask_turns", "deal_turns", "pools"]


def ask_turns(data: MemoryData, asks: Sequence[AskTurn]) -> list[TurnAnswer]:
    """Let them begin, hand them back to wait, or say that there is no room. All are of one pool."""
    answers = [TurnAnswer(_stopped(data, ask) or Turn.WAITS) for ask in asks]
    asking = [at for at, answer in enumerate(answers) if answer.turn is Turn.WAITS]
    if not asking:
        return answers
    is_new = {at: _enter(data, asks[at]) for at in asking}
    now_us = max(ask.now_us for ask in asks)
    dealer = _dealer(data, asks[0].pool, now_us, asks[0].after)
    begun = set(_deal(data, dealer, now_us))
    others = not begun <= {asks[at].execution_id for at in asking}
    turns = {at: _turn_of(data, dealer, asks[at]) for at in asking}
    waiting = [at for at, turn in turns.items() if turn is Turn.WAITS]
    for at in waiting:
        run = data.runs.rows[asks[at].execution_id]
        handed_back = replace(run, owner=None, wake_us=WAITS_US, probation=Probation.NONE)
        data.runs.put(run.run_id, handed_back)
    if dealer.limits.at_limit is AtLimit.CANCEL_RUNNING:
        for at in waiting:  # Behind that: one of them may be cancelled, and is woken for it.
            others = (is_new[at] and _make_room(data, dealer, asks[at])) or others
    for at, turn in turns.items():
        answers[at] = TurnAnswer(turn, dealer.limits.at_limit, others, dealer.after)
    return answers


def _stopped(data: MemoryData, ask: AskTurn) -> Turn | None:
    """Why it is not to be judged now."""
    run = data.runs.get(ask.execution_id)
    if run is None or not ask.is_as_known(run):
        return Turn.GONE
    positions = data.mail_positions(ask.execution_id)
    return Turn.MAIL if any(one > ask.waits_with for one in positions) else None


def _enter(data: MemoryData, ask: AskTurn) -> bool:
    """Whether it is new here."""
    if ask.execution_id in data.turns.rows:
        return False
    turn = StoredTurn(
        ask.namespace, ask.workflow_id, ask.pool, ask.key, ask.rank, ask.now_us, ask.until_us
    )
    data.turns.put(ask.execution_id, turn)
    return True


def _turn_of(data: MemoryData, dealer: PoolDealer, ask: AskTurn) -> Turn:
    found = data.turns.get(ask.execution_id)
    if found is not None and found.state is not TurnState.WAITS:
        return Turn.BEGINS
    if dealer.may_wait:  # Also who has just made room for another one: it is cancelled.
        return Turn.WAITS
    if found is not None:
        data.turns.remove(ask.execution_id)
    return Turn.NO_ROOM


def _make_room(data: MemoryData, dealer: PoolDealer, ask: AskTurn) -> bool:
    """Cancel the one that came first of those in the way."""
    try:
        key = dealer.whom_to_ask(dealer.lane(ask.rank, ask.key))
    except LookupError:
        return False
    in_the_way = sorted(
        (turn.asked_us, execution_id)
        for execution_id, turn in _of_pool(data, ask.pool)
        if turn.state is not TurnState.ASKED
        and execution_id != ask.execution_id
        and key in (None, turn.key)
    )
    for _, execution_id in in_the_way:
        turn = data.turns.rows[execution_id]
        if turn.state is TurnState.WAITS:  # It goes when it hears of it, and never begins.
            data.turns.remove(execution_id)
        else:
            data.turns.put(execution_id, replace(turn, state=TurnState.ASKED))
        target = Target(ask.shard, turn.namespace, turn.workflow_id, execution_id)
        if (
            put_message(data, Message(target, *make_room(ask.pool), ask.now_us)).position
            is not None
        ):
            return True  # Else it has ended meanwhile, and nobody has told its row.
    return False


def _of_pool(data: MemoryData, pool: str) -> list[tuple[bytes, StoredTurn]]:
    return [(one, data.turns.rows[one]) for one in sorted(data.turns_of.keys(pool))]


# ---------------------------------------------------------------------------------------- dealing


def deal_turns(data: MemoryData, wanted: Sequence[tuple[str, str]], now_us: int) -> TurnsDealt:
    """Let begin who may: of each pool, with the key that was served last."""
    return together(_look(data, pool, after, now_us) for pool, after in wanted)


def _look(data: MemoryData, pool: str, after: str, now_us: int) -> TurnsDealt:
    if not _waiting(data, pool):
        return TurnsDealt()
    dealer = _dealer(data, pool, now_us, after)
    begun = _deal(data, dealer, now_us)
    late = [
        one
        for one, turn in _waiting(data, pool)
        if turn.until_us is not None and turn.until_us <= now_us
    ]
    for execution_id in late:
        data.turns.put(execution_id, replace(data.turns.rows[execution_id], until_us=None))
        _wake(data, execution_id, now_us)
    waiting = _waiting(data, pool)
    next_late = min((turn.until_us for _, turn in waiting if turn.until_us), default=None)
    held_back = [dealer.lane(turn.rank, turn.key) for _, turn in waiting]
    times = (dealer.next_us(held_back), next_late, now_us if len(begun) >= TURNS_MAX else None)
    return TurnsDealt(
        begun=len(begun) + len(late),
        next_us=min((one for one in times if one is not None), default=None),
        waiting=(pool,) if waiting else (),
        after=((pool, dealer.after),),
    )


def _waiting(data: MemoryData, pool: str) -> list[tuple[bytes, StoredTurn]]:
    return [one for one in _of_pool(data, pool) if one[1].state is TurnState.WAITS]


def _dealer(data: MemoryData, pool: str, now_us: int, after: str) -> PoolDealer:
    scope = pool_scope(pool)
    limits = [row.limits for row in queue_limits(data) if row.queue == scope]
    dealer = PoolDealer(pool, limits[-1] if limits else NO_LIMITS, now_us, after)
    for execution_id, turn in _of_pool(data, pool):
        if turn.state is TurnState.WAITS:
            continue
        if _is_open(data, execution_id, turn):
            dealer.count(scope, turn.key, 1)
        else:
            data.turns.remove(execution_id)
    for key, stored in data.queue_starts.rows.items():
        dealer.know(key, stored.starts)
    return dealer


def _is_open(data: MemoryData, execution_id: bytes, turn: StoredTurn) -> bool:
    found = data.open_of_workflow.keys((turn.namespace, turn.workflow_id))
    runs = [data.runs.rows[run_id] for run_id in found]
    return any(run.status.is_open and run.execution_id == execution_id for run in runs)


def _deal(data: MemoryData, dealer: PoolDealer, now_us: int) -> list[bytes]:
    """Who begins now."""
    begun: list[bytes] = []
    lanes: dict[Lane, int] = {}
    for _, turn in _waiting(data, dealer.pool):
        lane = dealer.lane(turn.rank, turn.key)
        if dealer.room(lane) > 0:
            lanes[lane] = min(turn.asked_us, lanes.get(lane, turn.asked_us))
    while lanes and len(begun) < TURNS_MAX:
        dealt = dealer.deal(lanes, TURNS_MAX - len(begun))
        if not dealt:
            break
        for lane, quota in dealt:
            first = _first(data, dealer, lane)[:quota]
            there = [one for one in first if _status(data, one) is RunStatus.RUNNING]
            for execution_id in first:
                if execution_id not in there:  # It has ended, and nobody has told its row.
                    data.turns.remove(execution_id)
            for execution_id in there:
                turn = data.turns.rows[execution_id]
                data.turns.put(execution_id, replace(turn, state=TurnState.BEGUN))
                _wake(data, execution_id, now_us)
            dealer.begin(lane, len(there))
            begun += there
            if len(first) < quota:
                del lanes[lane]
    store_starts(data, dealer, now_us)
    return begun


def _first(data: MemoryData, dealer: PoolDealer, lane: Lane) -> list[bytes]:
    """Who waits in a lane, the longest first; who is paused or blocked is passed over."""
    found = sorted(
        (turn.asked_us, execution_id)
        for execution_id, turn in _waiting(data, dealer.pool)
        if dealer.lane(turn.rank, turn.key) == lane
        and _status(data, execution_id) not in (RunStatus.PAUSED, RunStatus.BLOCKED)
    )
    return [execution_id for _, execution_id in found]


def _status(data: MemoryData, execution_id: bytes) -> RunStatus | None:
    run = data.runs.get(execution_id)
    return None if run is None else run.status


def _wake(data: MemoryData, execution_id: bytes, now_us: int) -> None:
    """Somebody should take it, before those that have come behind it and not asked yet."""
    run = data.runs.get(execution_id)
    if run is not None and run.owner is None and run.status is RunStatus.RUNNING:
        data.runs.put(execution_id, replace(run, wake_us=min(now_us, run.started_us)))


# ------------------------------------------------------------------------------------------- looks


def pools(data: MemoryData) -> list[PoolCount]:
    """How many wait and have begun, by pool."""
    counts: list[PoolCount] = []
    for pool in sorted({turn.pool for turn in data.turns.rows.values()}):
        turns = [turn for one, turn in _of_pool(data, pool) if _is_open(data, one, turn)]
        waiting = [turn.asked_us for turn in turns if turn.state is TurnState.WAITS]
        if turns:
            begun = len(turns) - len(waiting)
            counts.append(PoolCount(pool, len(waiting), begun, min(waiting, default=None)))
    return counts
