"""Outboxes: letters that appends leave, and who takes them out."""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from everlong_engine.model.letters import KeptLetter, OutboxRow, Refused
from everlong_engine.model.writes import Append
from everlong_engine.store.memory.data import MemoryData

__all__ = [
    "drop_letters",
    "full_outboxes",
    "letters",
    "letters_of",
    "letters_sent",
    "outbox_fails",
    "outboxes",
    "put_letters",
    "send_again",
    "take_letters",
]


def put_letters(data: MemoryData, append: Append) -> None:
    for letter in append.letters:
        position = data.last_letter = data.last_letter + 1
        data.letters.put(position, KeptLetter(position, letter))


def full_outboxes(data: MemoryData, names: Sequence[str]) -> list[str]:
    return sorted(name for name in set(names) if data.letters_waiting.keys(name))


def take_letters(
    data: MemoryData, outbox: str, worker_id: bytes, limit: int, bytes_max: int
) -> list[KeptLetter] | None:
    row = _row(data, outbox)
    if row.holder != worker_id:
        if row.holder is not None and _lives(data, row.holder):
            return None
        data.outboxes.put(outbox, replace(row, holder=worker_id))
    taken: list[KeptLetter] = []
    for one in _kept(data, sorted(data.letters_waiting.keys(outbox))[:limit]):
        bytes_max -= len(one.letter.payload)
        if taken and bytes_max < 0:
            break
        taken.append(one)
    return taken


def letters_sent(
    data: MemoryData, outbox: str, sent: Sequence[int], refused: Sequence[Refused]
) -> None:
    for position in sent:
        if _is_in(data, outbox, position):
            data.letters.remove(position)
    for position, why in refused:
        if _is_in(data, outbox, position):
            data.letters.put(position, replace(data.letters.rows[position], refused=why))
    row = _row(data, outbox)
    if row.failures:
        data.outboxes.put(outbox, replace(row, failures=0, fault=None, fault_us=None))


def outbox_fails(data: MemoryData, outbox: str, worker_id: bytes, fault: str, now_us: int) -> None:
    row = _row(data, outbox)
    if row.holder == worker_id:
        failures = row.failures + 1
        failed = replace(row, holder=None, failures=failures, fault=fault, fault_us=now_us)
        data.outboxes.put(outbox, failed)


def outboxes(data: MemoryData) -> list[OutboxRow]:
    names = {*data.letters_waiting.groups(), *data.letters_refused.groups()}
    names |= {name for name, row in data.outboxes.rows.items() if row.failures}
    found: list[OutboxRow] = []
    for name in sorted(str(name) for name in names):
        waiting = data.letters_waiting.keys(name)
        times = [data.letters.rows[position].letter.at_us for position in waiting]
        counted = replace(
            _row(data, name),
            waiting=len(waiting),
            refused=len(data.letters_refused.keys(name)),
            oldest_us=min(times, default=None),
        )
        found.append(counted)
    return found


def letters(
    data: MemoryData, outbox: str, after: int, limit: int, *, refused: bool
) -> list[KeptLetter]:
    index = data.letters_refused if refused else data.letters_waiting
    return _kept(data, [one for one in sorted(index.keys(outbox)) if one > after][:limit])


def send_again(data: MemoryData, outbox: str, positions: Sequence[int] | None) -> int:
    refused = data.letters_refused.keys(outbox)
    chosen = sorted(refused if positions is None else set(positions).intersection(refused))
    for one in _kept(data, chosen):
        data.letters.put(one.position, replace(one, refused=None))
    return len(chosen)


def drop_letters(data: MemoryData, outbox: str, positions: Sequence[int] | None) -> int:
    if positions is None:
        chosen = sorted(data.letters_refused.keys(outbox))
    else:
        chosen = sorted(one for one in set(positions) if _is_in(data, outbox, one))
    for position in chosen:
        data.letters.remove(position)
    return len(chosen)


def letters_of(data: MemoryData, execution_ids: Sequence[bytes]) -> int:
    wanted = set(execution_ids)
    return sum(
        one.refused is None and one.letter.execution_id in wanted
        for one in data.letters.rows.values()
    )


def _row(data: MemoryData, outbox: str) -> OutboxRow:
    known = data.outboxes.get(outbox)
    return OutboxRow(outbox, 0, 0, None, None) if known is None else known


def _lives(data: MemoryData, worker_id: bytes) -> bool:
    worker = data.workers.get(worker_id)
    return worker is not None and not worker.row.dead


def _is_in(data: MemoryData, outbox: str, position: int) -> bool:
    kept = data.letters.get(position)
    return kept is not None and kept.letter.outbox == outbox


def _kept(data: MemoryData, positions: Iterable[int]) -> list[KeptLetter]:
    return [data.letters.rows[position] for position in positions]
