"""Outboxes: letters that appends leave, and who takes them out."""

import json
from collections.abc import Sequence
from contextlib import closing
from sqlite3 import Connection
from typing import Any

from everlong_engine.model.letters import KeptLetter, Letter, OutboxRow, Refused
from everlong_engine.model.writes import Append
from everlong_engine.store.sqlite.columns import COLUMNS, OUTBOX, check
from everlong_engine.store.sqlite.statements import SQL

__all__ = [
    "drop_letters",
    "full_outboxes",
    "kept_letter",
    "letter_values",
    "letters",
    "letters_of",
    "letters_sent",
    "outbox_fails",
    "outboxes",
    "send_again",
    "take_letters",
]


def letter_values(append: Append) -> list[tuple[Any, ...]]:
    """Parameters of `put_letters`."""
    return [
        (
            one.shard,
            one.outbox,
            one.execution_id,
            one.run_id,
            one.seq,
            one.number,
            one.at_us,
            one.payload,
            one.checksum,
        )
        for one in append.letters
    ]


def full_outboxes(tx: Connection, names: Sequence[str]) -> list[str]:
    return [
        name
        for name in sorted(set(names))
        if tx.execute(SQL["has_letters"], (name,)).fetchone() is not None
    ]


def take_letters(
    tx: Connection, outbox: str, worker_id: bytes, limit: int, bytes_max: int
) -> list[KeptLetter] | None:
    found = tx.execute(SQL["holder_of"], (outbox,)).fetchone()
    holder, lives = (None, False) if found is None else found
    if holder != worker_id:
        if lives:
            return None
        tx.execute(SQL["hold_outbox"], (outbox, worker_id))
    taken: list[KeptLetter] = []
    # One row after the other: what is beyond the bound is not read.
    with closing(tx.execute(SQL["waiting_letters"], (outbox, 0, limit))) as rows:
        for values in rows:
            one = kept_letter(values)
            bytes_max -= len(one.letter.payload)
            if taken and bytes_max < 0:
                break
            taken.append(one)
    return taken


def letters_sent(
    tx: Connection, outbox: str, sent: Sequence[int], refused: Sequence[Refused]
) -> None:
    if sent:
        tx.execute(SQL["drop_letters"], (outbox, json.dumps(list(sent))))
    for position, why in refused:
        tx.execute(SQL["refuse_letter"], (why, outbox, position))
    tx.execute(SQL["outbox_works"], (outbox,))


def outbox_fails(tx: Connection, outbox: str, worker_id: bytes, fault: str, now_us: int) -> None:
    tx.execute(SQL["outbox_fails"], (fault, now_us, outbox, worker_id))


def outboxes(tx: Connection) -> list[OutboxRow]:
    found: list[OutboxRow] = []
    for values in tx.execute(SQL["outboxes"]).fetchall():
        check("outgoing_boxes", OUTBOX, values, f"outbox {values[0]!r:.100}")
        found.append(OutboxRow(*values))
    return found


def letters(
    tx: Connection, outbox: str, after: int, limit: int, *, refused: bool
) -> list[KeptLetter]:
    query = SQL["refused_letters" if refused else "waiting_letters"]
    return [kept_letter(values) for values in tx.execute(query, (outbox, after, limit)).fetchall()]


def send_again(tx: Connection, outbox: str, positions: Sequence[int] | None) -> int:
    if positions is None:
        return tx.execute(SQL["send_all_again"], (outbox,)).rowcount
    return tx.execute(SQL["send_again"], (outbox, json.dumps(list(positions)))).rowcount


def drop_letters(tx: Connection, outbox: str, positions: Sequence[int] | None) -> int:
    if positions is None:
        return tx.execute(SQL["drop_refused"], (outbox,)).rowcount
    return tx.execute(SQL["drop_letters"], (outbox, json.dumps(list(positions)))).rowcount


def letters_of(tx: Connection, execution_ids: Sequence[bytes]) -> int:
    names = json.dumps([one.hex().upper() for one in execution_ids])
    count: int = tx.execute(SQL["letters_of"], (names,)).fetchone()[0]
    return count


def kept_letter(values: Sequence[Any]) -> KeptLetter:
    """Raises UndecodablePayload: nobody of us has written this row."""
    check("outgoing_letters", COLUMNS["outgoing_letters"], values, f"letter {values[0]!r:.30}")
    position, shard, outbox, *others, refused = values
    return KeptLetter(position, Letter(outbox, shard, *others), refused)
