"""What activities really did: each attempt that began, failed and ended, as its body told it."""

from collections import Counter
from collections.abc import Callable

from everlong import ActivityInfo
from tests.simulation.journal import Journal

__all__ = ["Ledger"]

_DELAY_US = 500_000
_DELAY_MAX_US = 4_000_000


class Ledger:
    """Checks each beginning against the journal: durable before visible."""

    def __init__(self, journal: Journal, true_us: Callable[[], int]) -> None:
        self._journal = journal
        self._true_us = true_us
        self.done: Counter[str] = Counter()
        self.begun: Counter[tuple[str, int]] = Counter()
        self._attempts: set[tuple[str, int, int]] = set()
        self._failed_us: dict[tuple[str, int, int], tuple[int, int]] = {}

    def begins(
        self, now_us: int, run_id: bytes, about: ActivityInfo, once: bool, zombie: bool
    ) -> None:
        must = self._journal.must
        key = (about.run_id, about.activity_id)
        name = f"{about.workflow_id}: attempt {about.attempt} of activity {about.activity_id}"
        book = self._journal.runs.get(run_id)
        must(book is not None, f"{name} began, and its run was never accepted")
        if book is None:
            return
        must(
            book.marked.get((about.activity_id, about.attempt)) == 0 or zombie,
            f"{name} began before that was stored",
        )
        must((*key, about.attempt) not in self._attempts, f"{name} began twice")
        must(about.activity_id not in book.over or zombie, f"{name} began behind its outcome")
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

    def ends(self, label: str) -> None:
        self.done[label] += 1
