"""A run whose own row cannot be read, made fit to be closed. Only `terminate` asks for it.

Each column that holds what it should stays as it is. The others get what the history says, or else
the value that claims least. What belongs to the run is found by its id, so without that nothing can
be done here.
"""

from collections.abc import Mapping
from sqlite3 import Connection, DataError
from typing import Any, Final

from everlong_engine.model.codec import decode_event
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import (
    CODES,
    Event,
    RunCancelled,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
    RunTerminated,
    RunTimedOut,
)
from everlong_engine.model.outgoing import Target
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.store.sqlite.columns import COLUMNS, as_id, is_too_big, wrong
from everlong_engine.store.sqlite.rows import read_run
from everlong_engine.store.sqlite.statements import SQL

__all__ = ["mend_run"]

_COLUMNS: Final = COLUMNS["runs"]
_TOKEN: Final = 1 << 40
"""Greater than any lease that was ever granted: whoever holds the run loses it."""

_LEAST: Final[Mapping[str, Any]] = {
    "queue": "default",
    "lease_token": _TOKEN,
    "losses": 0,
    "strikes": 0,
    "probation": 0,
}
"""In place of what cannot be read; null for all that may be null."""

_ENDED: Final[Mapping[int, RunStatus]] = {
    CODES[RunCompleted]: RunStatus.COMPLETED,
    CODES[RunFailed]: RunStatus.FAILED,
    CODES[RunCancelled]: RunStatus.CANCELLED,
    CODES[RunContinuedAsNew]: RunStatus.CONTINUED_AS_NEW,
    CODES[RunTerminated]: RunStatus.TERMINATED,
    CODES[RunTimedOut]: RunStatus.TIMED_OUT,
}


def mend_run(
    tx: Connection, target: Target, fault: UndecodablePayload, now_us: int
) -> tuple[RunRow, str]:
    """The newest run of a workflow id, whose row cannot be read: that row as it is from now on, and
    what was wrong with it.

    Raises:
        UndecodablePayload: it is `fault`; what the run is cannot be known.
    """
    found = tx.execute(
        SQL["latest_run_id"], (target.shard, target.namespace, target.workflow_id)
    ).fetchone()
    run_id = None if found is None else as_id(found[0])
    if run_id is None:
        raise fault
    key = (target.shard, run_id)
    values: dict[str, Any] = {}
    faults: list[str] = []
    for column in _COLUMNS:
        try:
            (value,) = tx.execute(
                f"SELECT {column.name} FROM runs WHERE shard = ? AND run_id = ?", key
            ).fetchone()
            said = wrong((column,), (value,))
        except DataError as error:
            if not is_too_big(error):
                raise
            value, said = None, f"{column.name} is too large"
        if said is None:
            values[column.name] = value
        else:
            faults.append(said)
    asked = target.execution_id
    if asked is not None and values.get("execution_id", asked) != asked:
        raise fault  # It is another execution that was asked for.
    known = _by_history(tx, target.shard, run_id, now_us)
    for column in _COLUMNS:
        if column.name not in values:
            values[column.name] = known.get(column.name, _LEAST.get(column.name))
    columns = [column.name for column in _COLUMNS[2:]]  # All but the key.
    text = ", ".join(f"{name} = ?" for name in columns)
    tx.execute(
        f"UPDATE runs SET {text} WHERE shard = ? AND run_id = ?",
        (*(values[name] for name in columns), *key),
    )
    row = read_run(tx, *key)
    assert row is not None, "it was written in this transaction"
    return row, "; ".join(faults)


def _by_history(tx: Connection, shard: int, run_id: bytes, now_us: int) -> dict[str, Any]:
    """What the history says of a run, as far as it can be read."""
    started = _first(tx, shard, run_id)
    last = tx.execute(SQL["last_event"], (shard, run_id)).fetchone()
    known: dict[str, Any] = {
        "execution_id": run_id,  # Which is so for the first run of an execution.
        "type": "?",
        "status": RunStatus.RUNNING,
        "next_seq": 1,
        "started_us": now_us,
    }
    if isinstance(started, RunStarted):
        known["type"] = started.workflow
        before = (
            None if started.previous_run is None else _readable(tx, shard, started.previous_run)
        )
        if before is not None:
            known["execution_id"] = before.execution_id
    if last is not None and type(last[0]) is int:
        known["next_seq"] = last[0] + 1
        known["status"] = _ENDED.get(last[1], RunStatus.RUNNING)
    known["closed_us"] = None if known["status"].is_open else now_us
    return known


def _first(tx: Connection, shard: int, run_id: bytes) -> Event | None:
    found = tx.execute(SQL["event_at"], (shard, run_id, 1)).fetchone()
    try:
        return None if found is None else decode_event(found[1], found[3], _Anything())
    except (UndecodablePayload, TypeError):
        return None


class _Anything(dict[bytes, bytes]):
    """Spilled payloads: the arguments are of no interest here."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: bytes) -> bytes:
        return b""


def _readable(tx: Connection, shard: int, run_id: bytes) -> RunRow | None:
    try:
        return read_run(tx, shard, run_id)
    except UndecodablePayload:
        return None
