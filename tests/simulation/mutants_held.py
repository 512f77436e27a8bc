"""Defects in what holds executions, and in which code may drive them."""

from typing import Final

from everlong.worker._keeper import RunKeeper
from everlong.worker._versions import Versions
from everlong_engine.store.sqlite import leases, pauses, starts
from tests.simulation.planting import Edit, Mutant, mutant

__all__ = ["HELD"]

HELD: Final[tuple[Mutant, ...]] = (
    # -------------------------------------------------------------------------------------- pauses
    mutant(
        "what is paused is appended to",
        Edit("advance_runs", " AND runs.status = 0", " AND runs.status < 10"),
        Edit("close_runs", " AND runs.status = 0", " AND runs.status < 10"),
    ),
    mutant(
        "an attempt of what is paused begins",
        Edit(
            leases.mark_attempts,
            "(mark.begins and found[0] != RunStatus.RUNNING)",
            "False",
        ),
    ),
    mutant(
        "what is started while all is held begins",
        Edit(
            starts._begin_alone,  # pyright: ignore[reportPrivateUsage]
            "held = is_held(tx, run.shard, run.execution_id, run.namespace, run.type)",
            "held = False",
        ),
    ),
    mutant(
        "a resume wakes nobody",
        Edit("unpause_run", "CASE WHEN owner IS NULL THEN ? END", "CASE WHEN 0 THEN ? END"),
        Edit("unpause_runs", "CASE WHEN owner IS NULL THEN ?3 END", "CASE WHEN 0 THEN ?3 END"),
    ),
    mutant(
        "a resume lets go what somebody else holds",
        Edit(
            pauses._go_on,  # pyright: ignore[reportPrivateUsage]
            "held = is_held(tx, row.shard, row.execution_id, row.namespace, row.type)",
            "held = False",
        ),
    ),
    # ------------------------------------------------------------------------------------ versions
    mutant(
        "what is pinned is claimed by any code",
        Edit("due_runs", " AND version IS NULL", ""),
    ),
    mutant(
        "a run that begins anew is not pinned any more",
        Edit(Versions.pin_of_successor, "run.version if", "None if"),
    ),
    mutant(
        "a child does not go with its parent",
        Edit(Versions.pin_of_child, "return self.pin(kind)", "return None"),
    ),
    mutant(
        "what begins with the first drive of a run knows of no pin",
        Edit(
            RunKeeper._feed,  # pyright: ignore[reportPrivateUsage]
            "run.version = pin  # What begins with this drive goes with it.",
            "pass",
        ),
    ),
)
