"""Appends: the compare-and-set of a run's history, for all runs of a group at once."""

from collections.abc import Iterable
from sqlite3 import Connection
from typing import Any, Final, TypeAlias

from everlong_engine.model.runs import RunStatus
from everlong_engine.model.tasks import TaskEnd
from everlong_engine.model.writes import Append, AppendResult, Approvals, Refusal, WriteResult
from everlong_engine.store.interface import MailGone
from everlong_engine.store.sqlite.entities import put_entities
from everlong_engine.store.sqlite.letters import letter_values
from everlong_engine.store.sqlite.rows import new_run_values, put_answers, put_blobs, put_mail
from everlong_engine.store.sqlite.statements import SQL, execute_rows
from everlong_engine.store.sqlite.tags import change_tags, tag_values
from everlong_engine.store.user_sql import UserConnection, run_statements

__all__ = [
    "ACCEPTED",
    "FENCED",
    "MAIL",
    "append_all",
    "append_with_statements",
    "history_values",
    "item_values",
    "put_approvals",
    "trim",
]

ACCEPTED: Final = AppendResult()
DONE: Final = AppendResult(repeated=True)
FENCED: Final = AppendResult(Refusal.FENCED)
MAIL: Final = AppendResult(Refusal.MAIL)
_TASK_ENDS: Final = {
    TaskEnd.DROP: "drop_task",
    TaskEnd.ASK: "ask_task",
    TaskEnd.LEAVE: "drop_waiting_task",
}

_Chain: TypeAlias = list[tuple[int, Append]]


def append_all(tx: Connection, appends: _Chain, results: list[WriteResult]) -> None:
    """Advance every run once, then insert what was accepted.

    Appends of a run that follow each other without a gap are one chain. Behind a chain that was
    accepted any other append of the run is stale; behind a refused one it may be right, as after a
    reload, and is tried by itself.
    """
    chains, broken = _chains(_without_mail(tx, appends, results))
    hit = _advance(tx, chains)
    history: list[tuple[Any, ...]] = []
    items: list[tuple[Any, ...]] = []
    trimming: list[Append] = []
    letters: list[tuple[Any, ...]] = []
    for chain in chains:
        accepted = chain[0][1].run_id in hit
        for at, append in chain:
            results[at] = _accept(tx, append, history) if accepted else FENCED
            if accepted and append.items:
                items += item_values(append)
                trimming.append(append)
            if accepted and append.letters:
                letters += letter_values(append)
            if accepted and append.entities is not None:
                put_entities(tx, append.shard, append.execution_id, append.entities)
    if history:
        execute_rows(tx, "insert_history", history)
    if items:
        execute_rows(tx, "insert_published", items)
        trim(tx, trimming)
    if letters:
        execute_rows(tx, "put_letters", letters)
    again: _Chain = []
    for at, append in broken:
        results[at] = FENCED
        if append.run_id not in hit:
            again.append((at, append))
    if again:
        append_all(tx, again, results)
    for at, append in appends:
        if results[at] is not ACCEPTED and _was_done(tx, append, results[at]):
            results[at] = DONE


def append_with_statements(tx: Connection, appends: _Chain, results: list[WriteResult]) -> None:
    """A group in which some bring statements of users: their runs go one append after the other,
    each with its statements or not at all."""
    apart = {append.run_id for _, append in appends if append.statements}
    plain = [(at, append) for at, append in appends if append.run_id not in apart]
    if plain:
        append_all(tx, plain, results)
    for at, append in appends:
        if append.run_id in apart:
            tx.execute("SAVEPOINT one")
            result = results[at] = _append_one(tx, append)
            if result.refusal is not None:
                tx.execute("ROLLBACK TO one")
            tx.execute("RELEASE one")


def _append_one(tx: Connection, append: Append) -> AppendResult:
    found: list[WriteResult] = [None]
    append_all(tx, [(0, append)], found)
    result = found[0]
    assert isinstance(result, AppendResult)
    if result.refusal is None and append.statements and not result.repeated:
        assert isinstance(tx, UserConnection)
        failure = run_statements(tx, append.statements)
        if failure is not None:
            return AppendResult(Refusal.STATEMENTS, failure=failure)
    return result


def _was_done(tx: Connection, append: Append, result: WriteResult) -> bool:
    """Whether a refused append is one whose commit succeeded, and whose answer was lost.

    Its last row then bears its id, and the token is still its own.
    """
    if not isinstance(result, AppendResult) or result.refusal is None:
        return False
    last = append.base + len(append.rows) - 1
    key = (append.shard, append.run_id, last, append.token)
    found = tx.execute(SQL["append_id_at"], key).fetchone()
    return found is not None and found[0] == append.append_id


def _without_mail(tx: Connection, appends: _Chain, results: list[WriteResult]) -> _Chain:
    """Refuse those that may only stand behind all mail while there is some."""
    inbox_empty: bool | None = None
    passed: _Chain = []
    consumed: dict[bytes, set[int]] = {}
    for at, append in appends:
        if append.approvals is not None and _has_answers(tx, append, append.approvals):
            results[at] = MAIL
            continue
        if append.mail_free:
            if inbox_empty is None:
                inbox_empty = tx.execute(SQL["any_mail"]).fetchone() is None
            known = consumed.get(append.run_id, set()) | set(append.consumed)
            if not inbox_empty and _has_other_mail(tx, append, known):
                results[at] = MAIL
                continue
        if append.consumed:
            consumed.setdefault(append.run_id, set()).update(append.consumed)
        passed.append((at, append))
    return passed


def _has_answers(tx: Connection, append: Append, approvals: Approvals) -> bool:
    """Whether somebody has answered what the run would stop waiting for."""
    if approvals.forced:
        return False
    keys = [(append.shard, append.run_id, number) for number in approvals.withdrawn]
    return any(tx.execute(SQL["answered_approval"], key).fetchone() is not None for key in keys)


def _has_other_mail(tx: Connection, append: Append, known: set[int]) -> bool:
    waiting = tx.execute(SQL["mail_positions_of"], (append.shard, append.execution_id)).fetchall()
    return any(position not in known for (position,) in waiting)


def _chains(appends: _Chain) -> tuple[list[_Chain], _Chain]:
    """Each run's first unbroken chain, and what does not belong to one."""
    chains: dict[bytes, _Chain] = {}
    broken: _Chain = []
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


def _advance(tx: Connection, chains: list[_Chain]) -> set[bytes]:
    """The compare-and-set; the runs whose row it hit."""
    advancing: list[tuple[Any, ...]] = []
    closing: list[tuple[Any, ...]] = []
    for chain in chains:
        first, last = chain[0][1], chain[-1][1]
        after = last.base + len(last.rows)
        key = (first.shard, first.run_id, first.token, first.base, after)
        if last.closed is None:
            healthy = any(append.healthy for _, append in chain)
            advancing.append((*key, int(healthy)))
        else:
            closing.append((*key, int(last.closed), last.closed_us))
    hit: set[bytes] = set()
    if advancing:
        hit.update(row[0] for row in execute_rows(tx, "advance_runs", advancing))
    if closing:
        hit.update(row[0] for row in execute_rows(tx, "close_runs", closing))
    return hit


def history_values(append: Append) -> list[tuple[Any, ...]]:
    """Parameters of `insert_history`; the last row bears the append's id."""
    shard, run_id = append.shard, append.run_id
    rows = append.rows
    values: list[tuple[Any, ...]] = [(shard, run_id, *row, None) for row in rows[:-1]]
    values.append((shard, run_id, *rows[-1], append.append_id))
    return values


def put_approvals(tx: Connection, append: Append) -> None:
    """Open what the run requests, and take away what it no longer waits for."""
    if append.approvals is None:
        return
    shard, run_id = append.shard, append.run_id
    for number, seq in append.approvals.requested:
        tx.execute(SQL["insert_approval"], (shard, run_id, number, seq))
    for number in append.approvals.withdrawn:
        tx.execute(SQL["withdraw_approval"], (shard, run_id, number))


def item_values(append: Append) -> list[tuple[Any, ...]]:
    """Parameters of `insert_published`."""
    return [(append.shard, append.execution_id, *item) for item in append.items]


def trim(tx: Connection, appends: Iterable[Append]) -> None:
    """Take away what channels no longer keep."""
    for append in appends:
        for channel, below, items_max in append.trims:
            tx.execute(
                SQL["trim_published"],
                (append.shard, append.execution_id, channel, below, items_max),
            )


def _accept(tx: Connection, append: Append, history: list[tuple[Any, ...]]) -> AppendResult:
    history += history_values(append)
    for position in append.consumed:
        gone = tx.execute(SQL["delete_mail"], (position, append.execution_id))
        if gone.rowcount != 1:
            raise MailGone
    if append.blobs:
        put_blobs(tx, append.shard, append.run_id, append.blobs)
    put_approvals(tx, append)
    if append.pin is not None:
        tx.execute(SQL["pin_run"], (append.pin, append.shard, append.run_id))
    if append.answers:
        put_answers(tx, append.shard, append.execution_id, append.answers)
    for name, mark in append.over:
        tx.execute(SQL["put_request"], (append.shard, append.execution_id, name, mark))
    for activity_id, end in append.tasks:
        tx.execute(SQL[_TASK_ENDS[end]], (append.shard, append.run_id, activity_id))
    if append.tags:
        change_tags(tx, append)
    if append.next_run is None:
        if append.closed is not None and not append.mail_free:
            tx.execute(SQL["forget_mail"], (append.shard, append.execution_id))
        return ACCEPTED
    following = append.next_run
    values = new_run_values(following.run, RunStatus.RUNNING, 1, 1, following.owner, None, None)
    created = execute_rows(tx, "insert_runs", [values])
    assert created, "the predecessor has just closed, so nothing stands in the way"
    if following.run.tags:
        execute_rows(tx, "put_tags", tag_values(following.run, following.run.tags))
    position = put_mail(
        tx,
        append.shard,
        append.execution_id,
        following.kind,
        following.body,
        following.blobs,
    )
    return AppendResult(next_run_mail=position)
