"""What waits in outboxes for a broker, and what brokers have refused."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from everlong._texts import storable
from everlong.client._connected import Connected
from everlong.client._views import instant
from everlong.exceptions import InvalidArguments, UndecodablePayload
from everlong.outboxes import parts_of
from everlong_engine import KeptLetter, OutboxRow, WorkerRow, id_text, letter_id

__all__ = ["OutboxSummary", "Outboxes", "StoredMessage"]

_POSITION_MAX: Final = (1 << 63) - 1
_LIMIT_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSummary:
    """The messages of one outbox that no broker has acknowledged."""

    outbox: str
    waiting: int
    refused: int
    """Those that the broker will never take, and that were set aside."""
    oldest_at: datetime | None
    """When the one was stored that has waited longest; None if none waits."""
    worker: str | None
    """The one that publishes from it; None while none does."""
    failures: int
    """Times in a row that its broker took nothing."""
    fault: str | None
    """What was in the way the last time; None while all goes well."""
    fault_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message that lies in an outbox."""

    position: int
    """By which it is named here."""
    id: str
    """By which its readers know it again."""
    run_id: str
    """Of the run that has published it."""
    at: datetime
    value: bytes | None
    """None: it cannot be read; `fault` says why."""
    key: bytes | None
    headers: dict[str, str]
    refused: str | None
    """Why the broker will never take it; None: it waits."""
    fault: str | None = None


class Outboxes(Connected):
    """The part of a client that looks into outboxes."""

    async def outboxes(self) -> Sequence[OutboxSummary]:
        """In which outboxes something lies, in all namespaces, and what is in the way.

        for one in await client.outboxes():
            print(one.outbox, one.waiting, one.refused, one.fault)
        """
        workers = {row.worker_id: row for row in await self.engine.store.workers()}
        return [_summary(row, workers) for row in await self.engine.store.outboxes()]

    async def outbox_messages(
        self, outbox: str, *, refused: bool = False, after: int = 0, limit: int = 100
    ) -> Sequence[StoredMessage]:
        """What waits in an outbox, in its order, or what was set aside.

        Args:
            outbox: its name.
            refused: what its broker will never take, in place of what waits.
            after: only what lies behind this position.
            limit: at most so many, 1 to 1,000.

        Raises:
            InvalidArguments: there can be no such outbox, position or limit.
        """
        if not 1 <= limit <= _LIMIT_MAX:
            raise InvalidArguments(f"limit={limit}: give 1 to {_LIMIT_MAX:,}")
        found = await self.engine.store.letters(
            storable(outbox, "outbox"), _checked([after])[0], limit, refused=refused
        )
        return [self._message(one) for one in found]

    def _message(self, one: KeptLetter) -> StoredMessage:
        value, key, headers, fault = None, None, dict[str, str](), None
        try:
            parts = parts_of(self.records.in_letter(one.letter))
            value, key, headers = parts.value, parts.key, dict(parts.headers)
        except UndecodablePayload as error:
            fault = str(error)
        return StoredMessage(
            position=one.position,
            id=letter_id(one.letter),
            run_id=id_text(one.letter.run_id),
            at=instant(one.letter.at_us),
            value=value,
            key=key,
            headers=headers,
            refused=one.refused,
            fault=fault,
        )

    async def redrive_outbox(self, outbox: str, positions: Iterable[int] | None = None) -> int:
        """Let messages that were set aside wait for the broker again; how many.

        Each comes before those that were stored after it.

        Args:
            outbox: its name.
            positions: which; all unless given.

        Raises:
            InvalidArguments: a position that is none.
        """
        chosen = None if positions is None else _checked(positions)
        count = await self.engine.store.send_again(storable(outbox, "outbox"), chosen)
        self.engine.letters_stored()
        return count

    async def drop_from_outbox(self, outbox: str, positions: Iterable[int] | None = None) -> int:
        """Take messages away for good, unpublished; how many.

        Without positions, all that were set aside. With positions also what waits: one that is on
        its way to the broker at this moment may still arrive.

        Args:
            outbox: its name.
            positions: which.

        Raises:
            InvalidArguments: a position that is none.
        """
        chosen = None if positions is None else _checked(positions)
        return await self.engine.store.drop_letters(storable(outbox, "outbox"), chosen)


def _checked(positions: Iterable[int]) -> list[int]:
    chosen = list(positions)
    for one in chosen:
        if type(one) is not int or not 0 <= one <= _POSITION_MAX:
            raise InvalidArguments(f"{one!r:.40} is no position: give numbers of messages")
    return chosen


def _summary(row: OutboxRow, workers: dict[bytes, WorkerRow]) -> OutboxSummary:
    holder = None if row.holder is None else workers.get(row.holder)
    return OutboxSummary(
        outbox=row.name,
        waiting=row.waiting,
        refused=row.refused,
        oldest_at=None if row.oldest_us is None else instant(row.oldest_us),
        worker=holder.name if holder is not None and holder.is_there else None,
        failures=row.failures,
        fault=row.fault,
        fault_at=None if row.fault_us is None else instant(row.fault_us),
    )
