"""Who may not go on, and with which code: a book of its own.

It follows from what the store said it has done: from the commit of a pause until that of the resume
nothing of the execution is recorded and no attempt begins, and a run that is pinned to a version is
claimed and appended to by workers of that version only.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from everlong_engine.model.runs import NewRun
from everlong_engine.model.writes import (
    ManyResult,
    MessageResult,
    Pause,
    PauseMany,
    Pin,
    Resume,
    ResumeMany,
    Write,
    WriteResult,
)

if TYPE_CHECKING:
    from tests.simulation.journal import Journal, RunBook

__all__ = ["Holds"]


class Holds:
    """The pauses and the pins of one world."""

    def __init__(self, journal: "Journal", reached: Callable[[str], None]) -> None:
        self._must = journal.must
        self._reached = reached
        self._journal = journal
        self._single: set[bytes] = set()
        self._types: set[str] = set()
        """Of types; "" is everything."""
        self.version_of: Callable[[str], str] = lambda process: ""
        """The version of the code that a process runs."""
        self.successors_stay = False
        """Whether the next run of a pinned execution is pinned to the same version."""

    def written(self, write: Write, result: WriteResult) -> None:
        """A write that is neither a start nor an append."""
        match write, result:
            case Pause(), MessageResult(duplicate=False) if _is_open(result):
                self._single.add(result.execution_id)
                self._reached("paused: one")
            case Resume(), MessageResult(duplicate=False) if _is_open(result):
                self._single.discard(result.execution_id)
                self._reached("resumed: one")
            case PauseMany(), ManyResult(duplicate=False):
                self._types.add(write.type)
                self._reached(f"paused: {'a type' if write.type else 'everything'}")
            case ResumeMany(), ManyResult(duplicate=False):
                self._types.discard(write.type)
                self._reached(f"resumed: {'a type' if write.type else 'everything'}")
            case Pin(), MessageResult() if _is_open(result):
                self._journal.runs[result.run_id].version = write.version
                self._reached("pinned anew")
            case _:
                pass

    def ends(self, book: "RunBook") -> None:
        """With an execution goes what holds it alone."""
        self._single.discard(book.execution_id)

    def holds(self, execution_id: bytes) -> bool:
        kind = self._journal.executions[execution_id][0].type
        return bool(self._types & {"", kind}) or execution_id in self._single

    def acts(self, book: "RunBook", what: str, process: str) -> None:
        """Something of a run was accepted from its owner."""
        held = self.holds(book.execution_id)
        self._must(not held, f"{book.workflow_id}: {what}, and it is paused")
        if book.version is not None:
            self._reached("pinned run driven")
            self.is_taken(book, what, process)

    def is_taken(self, book: "RunBook", what: str, process: str) -> None:
        own = self.version_of(process)
        self._must(
            book.version in (None, own),
            f"{book.workflow_id}: {what} by code {own}, and it is pinned to {book.version}",
        )

    def follows(self, book: "RunBook", following: NewRun) -> None:
        """A run begins anew."""
        stays = following.version == book.version or not self.successors_stay
        how = f"pinned to {book.version}, and its next run to {following.version}"
        self._must(stays, f"{book.workflow_id}: {how}")

    def begins_child(self, parent: "RunBook", child: NewRun) -> None:
        """A child goes with the version of its parent."""
        right = parent.version is None or child.version == parent.version
        self._must(
            right, f"{child.workflow_id}: {child.version}, and its parent has {parent.version}"
        )


def _is_open(result: MessageResult) -> bool:
    return result.status is not None and result.status.is_open
