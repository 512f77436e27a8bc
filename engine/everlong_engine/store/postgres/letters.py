"""Outboxes: letters that appends leave, and who takes them out."""

from collections.abc import Sequence
from typing import Any, Final

from everlong_engine.model.letters import KeptLetter, Letter, OutboxRow, Refused
from everlong_engine.model.writes import Append
from everlong_engine.store.postgres.statements import Tx

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

_AT_ONCE: Final = 16


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


async def full_outboxes(tx: Tx, names: Sequence[str]) -> list[str]:
    return [name for (name,) in await tx.all("full_outboxes", (sorted(set(names)),))]


async def take_letters(
    tx: Tx, outbox: str, worker_id: bytes, limit: int, bytes_max: int
) -> list[KeptLetter] | None:
    found = await tx.one("holder_of", (outbox,))
    is_mine = found is not None and found[0] == worker_id
    if not is_mine and await tx.one("hold_outbox", (outbox, worker_id)) is None:
        return None
    taken: list[KeptLetter] = []
    # In portions: a letter may be large, and a portion of large ones would be far over the bound.
    behind, most = 0, min(limit, _AT_ONCE)
    while most > 0:
        rows = await tx.all("waiting_letters", (outbox, behind, most))
        for values in rows:
            one = kept_letter(values)
            bytes_max -= len(one.letter.payload)
            if taken and bytes_max < 0:
                return taken
            taken.append(one)
        if len(rows) < most:
            break
        behind, most = taken[-1].position, min(limit - len(taken), most * 4)
    return taken


async def letters_sent(
    tx: Tx, outbox: str, sent: Sequence[int], refused: Sequence[Refused]
) -> None:
    if sent:
        await tx.run("drop_letters", (outbox, list(sent)))
    if refused:
        positions, reasons = zip(*refused, strict=True)
        await tx.run("refuse_letters", (outbox, list(positions), list(reasons)))
    await tx.run("outbox_works", (outbox,))


async def outbox_fails(tx: Tx, outbox: str, worker_id: bytes, fault: str, now_us: int) -> None:
    await tx.run("outbox_fails", (fault, now_us, outbox, worker_id))


async def outboxes(tx: Tx) -> list[OutboxRow]:
    return [OutboxRow(*values) for values in await tx.all("outboxes")]


async def letters(
    tx: Tx, outbox: str, after: int, limit: int, *, refused: bool
) -> list[KeptLetter]:
    query = "refused_letters" if refused else "waiting_letters"
    return [kept_letter(values) for values in await tx.all(query, (outbox, after, limit))]


async def send_again(tx: Tx, outbox: str, positions: Sequence[int] | None) -> int:
    if positions is None:
        return await tx.run("send_all_again", (outbox,))
    return await tx.run("send_again", (outbox, list(positions)))


async def drop_letters(tx: Tx, outbox: str, positions: Sequence[int] | None) -> int:
    if positions is None:
        return await tx.run("drop_refused", (outbox,))
    return await tx.run("drop_letters", (outbox, list(positions)))


async def letters_of(tx: Tx, execution_ids: Sequence[bytes]) -> int:
    (count,) = await tx.one("letters_of", (list(execution_ids),))
    return int(count)


def kept_letter(values: Sequence[Any]) -> KeptLetter:
    position, shard, outbox, *others, refused = values
    return KeptLetter(position, Letter(outbox, shard, *others), refused)
