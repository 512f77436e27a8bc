"""Executions on their way from one store to another: the rows, as they are, and nothing derived.

What an `ExportedExecution` holds is all that another store needs to go on where this one stood: its
runs with their histories, the attempts of open activities, what waits in the inbox, which requests
were answered, what was published, the states of keys, and who waits for whom. Who owned a run stays
behind; that it was owned is told, since whatever its worker had begun may have happened.
"""

from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct, field

from everlong_engine.model.codec import decode_event
from everlong_engine.model.entities import EntityRow
from everlong_engine.model.events import Recorded
from everlong_engine.model.runs import AttemptRow, ItemRow, Link, LoadedRun, RunRow
from everlong_engine.model.writes import HistoryRow

__all__ = ["ExportedApproval", "ExportedExecution", "ExportedMail", "ExportedRun"]


class ExportedApproval(NamedTuple):
    """What a run asks of people; what is asked stands in the event `seq`."""

    number: int
    seq: int
    answer: bytes | None
    request: str | None


class ExportedMail(NamedTuple):
    """A message of the inbox, which gets a new place where it comes to."""

    kind: int
    body: bytes
    checksum: int


class ExportedRun(Struct, frozen=True, kw_only=True):
    row: RunRow
    history: tuple[HistoryRow, ...]
    attempts: tuple[AttemptRow, ...] = ()
    approvals: tuple[ExportedApproval, ...] = ()


class ExportedExecution(Struct, frozen=True, kw_only=True):
    runs: tuple[ExportedRun, ...]
    """The oldest first. Those before may have gone with their retention."""
    blobs: Mapping[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    """Spilled payloads by digest."""
    blob_uses: tuple[tuple[bytes, bytes], ...] = ()
    """(run or execution, digest)."""
    mail: tuple[ExportedMail, ...] = ()
    requests: tuple[tuple[str, bytes], ...] = ()
    items: tuple[ItemRow, ...] = ()
    entities: tuple[EntityRow, ...] = ()
    """States of keys, in their order."""
    links: tuple[Link, ...] = ()
    """Those that lead from here and to here."""
    held: tuple[int, str, str] | None = None
    """(since, by, reason) of what holds it; None also where it is held only to be moved."""

    @property
    def last(self) -> RunRow:
        """The run that the execution stands in."""
        return self.runs[-1].row

    def load(self, run: ExportedRun) -> LoadedRun:
        """A run as a worker would load it, without its mail.

        Raises:
            UndecodablePayload: an event cannot be read.
        """
        history = [
            Recorded(seq, at_us, decode_event(kind, body, self.blobs))
            for seq, kind, at_us, body, _ in run.history
        ]
        size = sum(len(row[3]) for row in run.history)
        return LoadedRun(run.row, history, [], list(run.attempts), size, dict(self.blobs))
