"""Defects of task queues and pools: who takes what, who may settle it, who may begin."""

from typing import Final

from everlong.worker._activities import ActivityRunner
from everlong.worker._appends import _task_ends  # pyright: ignore[reportPrivateUsage]
from everlong.worker._tasks import TaskTaker
from everlong.worker._turns import TurnDesk
from everlong_engine.machine.lanes import Dealer
from everlong_engine.machine.tasks import marks_ahead
from tests.simulation.planting import Edit, Mutant, mutant

__all__ = ["QUEUES"]

QUEUES: Final[tuple[Mutant, ...]] = (
    mutant(
        "what was offered to others is begun here, too",
        Edit(
            ActivityRunner._take_slot,  # pyright: ignore[reportPrivateUsage]
            " or not attempt.in_line",
            "",
        ),
    ),
    mutant(
        "what workers have does not count against a queue's limit",
        Edit(Dealer.room_of_queue, "limits.concurrency - self._in_queue.get(queue, 0)", "9"),
    ),
    mutant(
        "what workers have does not count against a key's limit",
        Edit(
            Dealer._room_of_key,  # pyright: ignore[reportPrivateUsage]
            "limits.key_concurrency - self._taken.get((queue, key), 0)",
            "9",
        ),
    ),
    mutant(
        "slots that are dealt at once are not counted together",
        Edit(
            Dealer._share_out,  # pyright: ignore[reportPrivateUsage]
            "promised[whole] = promised.get(whole, 0) + quota",
            "promised[whole] = 0",
        ),
    ),
    mutant(
        "what is under way does not count in its pool",
        Edit("turns_begun", "state > 0", "state > 5"),
    ),
    mutant(
        "what has ended counts in its pool for ever",
        Edit("forget_turns", "state > 0", "state > 5"),
    ),
    mutant(
        "an execution begins before its turn",
        Edit(TurnDesk.asks, "if rule is None or", "if True or"),
    ),
    mutant(
        "nobody looks who may begin when another one has ended",
        Edit(TurnDesk._look_at, "if self._wanted or", "if not self._wanted and"),  # pyright: ignore[reportPrivateUsage]
    ),
    mutant(
        "whoever has had a task may settle it",
        Edit("task_held", "AND worker_id = ? AND token = ?", "AND ? <> '' AND ? > 0"),
    ),
    mutant(
        "a settlement that is repeated settles what was taken since",
        Edit("task_held", "AND token = ?", "AND ? > 0"),
    ),
    mutant(
        "a cancelled activity is taken from its queue",
        Edit(_task_ends, "found[event.activity_id] = TaskEnd.ASK", "pass"),
    ),
    mutant(
        "a task is ended before it is there",
        Edit(marks_ahead, "ahead.add(at)", "pass"),
    ),
    mutant(
        "the tasks of who is dead stay with the dead",
        Edit("orphaned_tasks", "w.dead = 0", "1"),
    ),
    mutant(
        "a task of a paused execution is taken",
        Edit("due_tasks", "AND r.status = 0", ""),
        Edit("next_task", "AND r.status = 0", ""),
    ),
    mutant(
        "what a claim of tasks took whose answer was lost is forgotten",
        Edit(TaskTaker._take, "self._in_doubt = True", "pass"),  # pyright: ignore[reportPrivateUsage]
    ),
    mutant(
        "an owner that lets go withdraws what it has put into a queue",
        Edit(
            ActivityRunner._go_on,  # pyright: ignore[reportPrivateUsage]
            "not (run.dropped or run.releasing)",
            "not run.dropped",
        ),
    ),
)
