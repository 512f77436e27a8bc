"""Many seeds on several cores, and what they came to together."""

import gc
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final

from tests.simulation.plan import draw
from tests.simulation.seed import Verdict, run_plan

__all__ = ["MUST_BE_REACHED", "Batch", "run_seeds"]

_SLICE: Final = 25
_PER_POOL: Final = 1_000

MUST_BE_REACHED: Final = (
    "Append refused: FENCED",
    "Append refused: MAIL",
    "MarkAttempts refused: FENCED",
    "Release refused: MAIL",
    "acknowledged: cancel",
    "acknowledged: drain",
    "acknowledged: fork",
    "acknowledged: garbage",
    "acknowledged: letter",
    "acknowledged: pause",
    "acknowledged: reset",
    "acknowledged: resume",
    "acknowledged: rewind",
    "acknowledged: savepoint",
    "acknowledged: start",
    "acknowledged: terminate",
    "activity cancelled: abandon",
    "activity cancelled: wait",
    "activity ended: completed",
    "activity ended: not_begun",
    "activity ended: stopped",
    "activity ended: timed_out",
    "answer by token taken",
    "answer by token told",
    "answer to a killed process dropped",
    "approval answered",
    "approval withdrawn",
    "approval: acknowledged",
    "approval: answered before",
    "approval: not an approver",
    "approval: not there",
    "bomb",
    "bomb parked",
    "broker: acknowledged",
    "broker: forgot acknowledgements",
    "broker: gave a message again",
    "broker: reader gone between commit and acknowledgement",
    "broker: reader gone between fetch and commit",
    "broker: second reader waits",
    "broker: slow",
    "broker: went away",
    "broker: what was stored came again",
    "cancelled",
    "child: abandon behind its parent",
    "child: begun in the commit of its parent's end",
    "child: cancel behind its parent",
    "child: found and used",
    "child: its caller was cancelled",
    "child: its cancelled caller waits for it",
    "child: its id is taken",
    "child: made room for it",
    "child: started",
    "child: terminate behind its parent",
    "claim with mail",
    "completed",
    "end of another execution, behind it",
    "fork in mid-activity",
    "fork of a closed run",
    "fork of an open run",
    "fork: requested before",
    "hand over",
    "hand over to new code",
    "item published",
    "item seen",
    "letter unread",
    "lock of a stopped owner given away",
    "message to an execution that has ended",
    "new process waits for the file",
    "output followed for a while",
    "output followed to its end",
    "paused: a type",
    "paused: everything",
    "paused: one",
    "pinned anew",
    "pinned run driven",
    "poison parked",
    "query answered",
    "request applied twice",
    "request applied, and its answer lost",
    "request late",
    "request lost before it was applied",
    "process killed with writes on their way",
    "request of a killed process dropped",
    "request of a partitioned process",
    "request refused: no room",
    "request refused: the disk failed",
    "request torn in its middle",
    "reset in mid-activity",
    "reset of a closed run",
    "reset of an open run",
    "reset: letters in flight",
    "reset: letters in flight left out",
    "resumed: a type",
    "resumed: everything",
    "resumed: one",
    "rolled over",
    "second owner refused",
    "set clock",
    "signal to another execution",
    "store failed: process ended",
    "stream: batch of what was read before",
    "stream: batch recorded",
    "stream: begun anew",
    "stream: dead letter recorded",
    "stream: drained",
    "stream: flow ended early",
    "stream: letters in the loop",
    "stream: read again behind a rewind",
    "stream: read on behind a reset or as a fork",
    "stream: rows beside batches",
    "stream: ticks in the loop",
    "takeover in mid-activity",
    "terminated",
    "token: complete acknowledged",
    "token: complete refused",
    "token: fail acknowledged",
    "token: heartbeat acknowledged",
    "told again: ChildClosed",
    "told again: ChildStarted",
    "told again: ExternalAnswered",
    "told: ChildClosed",
    "told: ChildStartFailed",
    "told: ChildStarted",
    "told: ExternalAnswered",
    "waits again for another execution",
    "went on behind a reset",
    "wish granted",
    "wish refused",
    "wish unfinished",
    "zombie refused",
)
"""A batch that never came here has shown nothing about it."""


@dataclass(slots=True)
class Batch:
    """What many seeds came to."""

    seeds: int = 0
    accepted: int = 0
    simulated_s: float = 0.0
    seconds: float = 0.0
    counters: Counter[str] = field(default_factory=Counter[str])
    broken: list[Verdict] = field(default_factory=list[Verdict])

    def add(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            self.seeds += 1
            self.accepted += verdict.accepted
            self.simulated_s += verdict.simulated_s
            self.counters += verdict.counters
            if verdict.broken:
                self.broken.append(verdict)

    @property
    def never_reached(self) -> list[str]:
        return [what for what in MUST_BE_REACHED if not self.counters[what]]


def run_seeds(seeds: range, workers: int) -> Batch:
    """Run them all, some hundred in a process, so that nothing grows over a long batch."""
    batch = Batch()
    began = time.perf_counter()
    context = get_context("spawn")
    for first in range(0, len(seeds), _PER_POOL * workers):
        some = seeds[first : first + _PER_POOL * workers]
        slices = [some[at : at + _SLICE] for at in range(0, len(some), _SLICE)]
        # A pool for each part: one that replaces its processes (max_tasks_per_child) can hang.
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for verdicts in pool.map(_slice, slices):
                batch.add(verdicts)
    batch.seconds = time.perf_counter() - began
    return batch


def _slice(seeds: range) -> list[Verdict]:
    gc.freeze()  # What is here now stays: each seed's collection need not look at it.
    return list(_verdicts(seeds))


def _verdicts(seeds: range) -> Iterator[Verdict]:
    for seed in seeds:
        yield run_plan(draw(seed))
