"""What activities really did: each attempt that began, failed and ended, as its body told it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from everlong import ActivityInfo
from everlong_engine.model.events import ActivityCancelled
from everlong_engine.model.runs import AttemptState
from tests.simulation.journal import Journal

__all__ = ["Ledger"]

_DELAY_US = 500_000
_DELAY_MAX_US = 4_000_000


@dataclass(slots=True)
class AtWork:
    """An attempt whose body runs."""

    process: str
    token: int
    """Of the lease under which it began."""
    is_told: bool = False
    """To end."""


class Ledger:
    """Checks each beginning against the journal: durable before visible."""

    def __init__(self, journal: Journal, true_us: Callable[[], int]) -> None:
        self._journal = journal
        self._true_us = true_us
        self.done: Counter[str] = Counter()
        self.at_work: dict[tuple[str, int], dict[int, AtWork]] = {}
        """By activity and attempt: of a stopped process's the next may run beside it."""
        self.ended: set[tuple[str, int]] = set()
        self.begun: Counter[tuple[str, int]] = Counter()
        self._attempts: set[tuple[str, int, int]] = set()
        self._failed_us: dict[tuple[str, int, int], tuple[int, int]] = {}

    def begins(
        self,
        now_us: int,
        run_id: bytes,
        about: ActivityInfo,
        once: bool,
        zombie: bool,
        process: str,
    ) -> None:
        must = self._journal.must
        key = (about.run_id, about.activity_id)
        name = f"{about.workflow_id}: attempt {about.attempt} of activity {about.activity_id}"
        book = self._journal.runs.get(run_id)
        must(book is not None, f"{name} began, and its run was never accepted")
        if book is None:
            return
        marked = book.marked.get((about.activity_id, about.attempt))
        taken = marked == AttemptState.TAKEN
        must(marked == 0 or taken or zombie, f"{name} began before that was stored")
        must((*key, about.attempt) not in self._attempts, f"{name} began twice")
        # What was taken by another worker may be cancelled in the moment in which it begins.
        must(about.activity_id not in book.over or taken or zombie, f"{name} began behind its end")
        ending = about.activity_id in book.ending
        must(not ending or taken or zombie, f"{name} began, and is cancelled")
        others = self.at_work.setdefault(key, {})
        beside = (one for one in others.values() if one.process == process and not one.is_told)
        must(not any(beside), f"{name} began beside one of this process that was not told to end")
        others[about.attempt] = AtWork(process, book.token)
        self._attempts.add((*key, about.attempt))
        self.begun[key] += 1
        must(not once or self.begun[key] == 1, f"{name} began again, and is at most once")
        failed_us = self._failed_us.get((*key, about.attempt - 1))
        # A failure that its worker did not live to write down counts as a loss: repeated at once.
        if failed_us is not None and book.marked.get((about.activity_id, about.attempt - 1)) == 1:
            wait_us = min(_DELAY_US << (about.attempt - 2), _DELAY_MAX_US)
            # By the clock of the process, which may be another than the one before, or in truth.
            clock_us, true_us = failed_us
            waited_us = max(now_us - clock_us, self._true_us() - true_us)
            must(waited_us >= wait_us, f"{name} began before its back-off was over")

    def fails(self, now_us: int, about: ActivityInfo) -> None:
        key = (about.run_id, about.activity_id, about.attempt)
        self._failed_us[key] = now_us, self._true_us()
        self.stops(about)

    def ends(self, about: ActivityInfo, label: str) -> None:
        self.done[label] += 1
        self.ended.add((about.run_id, about.activity_id))
        self.stops(about)

    def is_told(self, about: ActivityInfo) -> None:
        """Its body is asked to end."""
        one = self.at_work.get((about.run_id, about.activity_id), {}).get(about.attempt)
        if one is not None:
            one.is_told = True

    def stops(self, about: ActivityInfo) -> None:
        """Its body is left, whatever for."""
        key = about.run_id, about.activity_id
        attempts = self.at_work.get(key, {})
        attempts.pop(about.attempt, None)
        if not attempts:
            self.at_work.pop(key, None)

    def end_is_recorded(
        self, process: str | None, token: int, run_id: str, event: ActivityCancelled, *, apart: bool
    ) -> None:
        """Somebody waited for the end of an activity, and goes on: it must have ended. Of an
        attempt that began under a lease that was lost meanwhile, nobody knows."""
        key = run_id, event.activity_id
        what = f"activity {event.activity_id}, {event.outcome}"
        must = self._journal.must
        # Of one that went through a queue it may be said that it is lost, by whoever goes on here.
        at_work = self.at_work.get(key, {}).values()
        here = any(one.process == process and (apart or one.token == token) for one in at_work)
        ended = not here or (apart and event.outcome == "lost")
        must(ended, f"the end of {what}, is recorded, and it is at work")
        if event.outcome == "not_begun" and event.attempts == 0:
            must(not self.begun[key], f"the end of {what}, is recorded, and it has begun")
        if event.outcome == "completed":
            must(key in self.ended, f"the end of {what}, is recorded, and it has not completed")
