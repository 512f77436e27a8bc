"""Appends: the compare-and-set of a run's history, for all runs of a group at once."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from everlong_engine.model.runs import RunStatus
from everlong_engine.model.tasks import TaskEnd
from everlong_engine.model.writes import Append, AppendResult, Approvals, Refusal, WriteResult
from everlong_engine.store.interface import MailGone
from everlong_engine.store.postgres.entities import put_entities
from everlong_engine.store.postgres.letters import letter_values
from everlong_engine.store.postgres.rows import new_run_values, put_answers, put_blobs, put_mail
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.tags import change_tags, tag_values
from everlong_engine.store.postgres.user_sql import run_statements

__all__ = [
    "ACCEPTED",
    "FENCED",
    "MAIL",
    "Chain",
    "append_all",
    "append_with_statements",
    "chains_of",
    "history_values",
    "item_values",
    "put_approvals",
    "trim",
]

ACCEPTED: Final = AppendResult()
DONE: Final = AppendResult(repeated=True)
FENCED: Final = AppendResult(Refusal.FENCED)
MAIL: Final = AppendResult(Refusal.MAIL)
_TASK_ENDS: Final = {TaskEnd.ASK: "ask_task", TaskEnd.LEAVE: "drop_waiting_task"}

Chain: TypeAlias = list[tuple[int, Append]]


async def append_all(tx: Tx, appends: Chain, results: list[WriteResult]) -> None:
    """Advance every run once, then insert what was accepted.

    Appends of a run that follow each other without a gap are one chain. Behind a chain that was
    accepted any other append of the run is stale; behind a refused one it may be right, as after a
    reload, and is tried by itself.
    """
    # Then, in new statements, all that hangs on them is seen as it is.
    runs = sorted({(append.shard, append.run_id) for _, append in appends})
    await tx.rows("lock_runs", runs)
    chains, broken = chains_of(await _without_mail(tx, appends, results))
    hit = await _advance(tx, chains)
    consumed = [
        (append.shard, append.execution_id, position)
        for chain in chains
        if chain[0][1].run_id in hit
        for _, append in chain
        for position in append.consumed
    ]
    if consumed and await tx.run("delete_all_mail", _columns(consumed)) != len(consumed):
        raise MailGone
    history: list[tuple[Any, ...]] = []
    items: list[tuple[Any, ...]] = []
    trimming: list[Append] = []
    letters: list[tuple[Any, ...]] = []
    ending: list[Append] = []
    for chain in chains:
        accepted = chain[0][1].run_id in hit
        for at, append in chain:
            results[at] = await _accept(tx, append, history) if accepted else FENCED
            if accepted and (append.over or append.tasks):
                ending.append(append)
            if accepted and append.items:
                items += item_values(append)
                trimming.append(append)
            if accepted and append.letters:
                letters += letter_values(append)
            if accepted and append.entities is not None:
                await put_entities(tx, append.shard, append.execution_id, append.entities)
    if history:
        await tx.rows("insert_history", history)
    if items:
        await tx.rows("insert_published", items)
        await trim(tx, trimming)
    if letters:
        await tx.rows("put_letters", letters)
    await _end_activities(tx, ending)
    again: Chain = []
    for at, append in broken:
        results[at] = FENCED
        if append.run_id not in hit:
            again.append((at, append))
    if again:
        await append_all(tx, again, results)
    for at, append in appends:
        if results[at] is not ACCEPTED and await _was_done(tx, append, results[at]):
            results[at] = DONE


async def _end_activities(tx: Tx, appends: Sequence[Append]) -> None:
    """What becomes of tasks in queues, and what whoever has a token is told from here on."""
    over = {
        (append.shard, append.execution_id, name): mark
        for append in appends
        for name, mark in append.over
    }
    if over:
        await tx.rows("put_requests", [(*key, mark) for key, mark in over.items()])
    drops: list[tuple[Any, ...]] = []
    for append in appends:
        for activity_id, end in append.tasks:
            key = (append.shard, append.run_id, activity_id)
            if end is TaskEnd.DROP:
                drops.append(key)
            else:
                await tx.run(_TASK_ENDS[end], key)
    if drops:
        await tx.rows("drop_tasks_of", drops)


async def append_with_statements(tx: Tx, appends: Chain, results: list[WriteResult]) -> None:
    """A group in which some bring statements of users: their runs go one append after the other,
    each with its statements or not at all."""
    apart = {append.run_id for _, append in appends if append.statements}
    plain = [(at, append) for at, append in appends if append.run_id not in apart]
    # All at first, so that two groups never wait for each other.
    await tx.rows("lock_runs", sorted({(append.shard, append.run_id) for _, append in appends}))
    if plain:
        await append_all(tx, plain, results)
    for at, append in appends:
        if append.run_id in apart:
            await tx.plain("SAVEPOINT one")
            result = results[at] = await _append_one(tx, append)
            if result.refusal is not None:
                await tx.plain("ROLLBACK TO one")
            await tx.plain("RELEASE one")


async def _append_one(tx: Tx, append: Append) -> AppendResult:
    found: list[WriteResult] = [None]
    await append_all(tx, [(0, append)], found)
    result = found[0]
    assert isinstance(result, AppendResult)
    if result.refusal is None and append.statements and not result.repeated:
        failure = await run_statements(tx, append.statements)
        if failure is not None:
            return AppendResult(Refusal.STATEMENTS, failure=failure)
    return result


async def _was_done(tx: Tx, append: Append, result: WriteResult) -> bool:
    """Whether a refused append is one whose commit succeeded, and whose answer was lost.

    Its last row then bears its id, and the token is still its own.
    """
    if not isinstance(result, AppendResult) or result.refusal is None:
        return False
    last = append.base + len(append.rows) - 1
    key = (append.shard, append.run_id, last, append.token)
    found = await tx.one("append_id_at", key)
    return found is not None and found[0] == append.append_id


async def _without_mail(tx: Tx, appends: Chain, results: list[WriteResult]) -> Chain:
    """Refuse those that may only stand behind all mail while there is some."""
    passed: Chain = []
    consumed: dict[bytes, set[int]] = {}
    for at, append in appends:
        if append.approvals is not None and await _has_answers(tx, append, append.approvals):
            results[at] = MAIL
            continue
        if append.mail_free:
            known = consumed.get(append.run_id, set()) | set(append.consumed)
            if await _has_other_mail(tx, append, known):
                results[at] = MAIL
                continue
        if append.consumed:
            consumed.setdefault(append.run_id, set()).update(append.consumed)
        passed.append((at, append))
    return passed


async def _has_answers(tx: Tx, append: Append, approvals: Approvals) -> bool:
    """Whether somebody has answered what the run would stop waiting for."""
    if approvals.forced:
        return False
    keys = [(append.shard, append.run_id, number) for number in approvals.withdrawn]
    for key in keys:
        if await tx.one("answered_approval", key) is not None:
            return True
    return False


async def _has_other_mail(tx: Tx, append: Append, known: set[int]) -> bool:
    waiting = await tx.all("mail_positions_of", (append.shard, append.execution_id))
    return any(position not in known for (position,) in waiting)


def chains_of(appends: Chain) -> tuple[list[Chain], Chain]:
    """Each run's first unbroken chain, and what does not belong to one."""
    chains: dict[bytes, Chain] = {}
    broken: Chain = []
    for at, append in appends:
        chain = chains.setdefault(append.run_id, [])
        if not chain or _follows(append, chain[-1][1]):
            chain.append((at, append))
        else:
            broken.append((at, append))
    return list(chains.values()), broken


def _follows(append: Append, before: Append) -> bool:
    return (
        append.base == before.base + len(before.rows)
        and append.token == before.token
        and before.closed is None
    )


async def _advance(tx: Tx, chains: list[Chain]) -> set[bytes]:
    """The compare-and-set; the runs whose row it hit."""
    advancing: list[tuple[Any, ...]] = []
    closing: list[tuple[Any, ...]] = []
    for chain in chains:
        first, last = chain[0][1], chain[-1][1]
        after = last.base + len(last.rows)
        key = (first.shard, first.run_id, first.token, first.base, after)
        if last.closed is None:
            healthy = any(append.healthy for _, append in chain)
            advancing.append((*key, healthy))
        else:
            closing.append((*key, int(last.closed), last.closed_us))
    hit: set[bytes] = set()
    if advancing:
        hit.update(row[0] for row in await tx.rows("advance_runs", advancing))
    if closing:
        hit.update(row[0] for row in await tx.rows("close_runs", closing))
    return hit


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def history_values(append: Append) -> list[tuple[Any, ...]]:
    """Parameters of `insert_history`; the last row bears the append's id."""
    shard, run_id = append.shard, append.run_id
    rows = append.rows
    values: list[tuple[Any, ...]] = [(shard, run_id, *row, None) for row in rows[:-1]]
    values.append((shard, run_id, *rows[-1], append.append_id))
    return values


async def put_approvals(tx: Tx, append: Append) -> None:
    """Open what the run requests, and take away what it no longer waits for."""
    if append.approvals is None:
        return
    shard, run_id = append.shard, append.run_id
    for number, seq in append.approvals.requested:
        await tx.run("insert_approval", (shard, run_id, number, seq))
    for number in append.approvals.withdrawn:
        await tx.run("withdraw_approval", (shard, run_id, number))


def item_values(append: Append) -> list[tuple[Any, ...]]:
    """Parameters of `insert_published`."""
    return [(append.shard, append.execution_id, *item) for item in append.items]


async def trim(tx: Tx, appends: Iterable[Append]) -> None:
    """Take away what channels no longer keep."""
    for append in appends:
        for channel, below, items_max in append.trims:
            await tx.run(
                "trim_published",
                (append.shard, append.execution_id, channel, below, items_max),
            )


async def _accept(tx: Tx, append: Append, history: list[tuple[Any, ...]]) -> AppendResult:
    history += history_values(append)
    if append.blobs:
        await put_blobs(tx, append.shard, append.run_id, append.blobs)
    await put_approvals(tx, append)
    if append.pin is not None:
        await tx.run("pin_run", (append.pin, append.shard, append.run_id))
    if append.answers:
        await put_answers(tx, append.shard, append.execution_id, append.answers)
    if append.tags:
        await change_tags(tx, append)
    if append.next_run is None:
        if append.closed is not None and not append.mail_free:
            await tx.run("forget_mail", (append.shard, append.execution_id))
        return ACCEPTED
    following = append.next_run
    values = new_run_values(following.run, RunStatus.RUNNING, 1, 1, following.owner, None, None)
    created = await tx.rows("insert_runs", [values])
    assert created, "the predecessor has just closed, so nothing stands in the way"
    if following.run.tags:
        await tx.rows("put_tags", tag_values(following.run, following.run.tags))
    position = await put_mail(
        tx,
        append.shard,
        append.execution_id,
        following.kind,
        following.body,
        following.blobs,
    )
    return AppendResult(next_run_mail=position)
