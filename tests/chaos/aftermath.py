"""What must be true after a burst (`burst.live`) that a fault ended: read from store and log."""

import sqlite3
from contextlib import closing
from pathlib import Path

from everlong import Client
from tests.chaos import evidence, flows
from tests.chaos.arena import Arena
from tests.chaos.burst import steps
from tests.chaos.customer import lines

__all__ = [
    "acknowledged",
    "acknowledged_behind",
    "everything_came_out_right",
    "lost_of",
    "refusals",
]


def acknowledged(log: Path) -> set[str]:
    return {line["key"] for line in lines(log) if line["what"] == "acknowledged"}


def refusals(log: Path) -> list[str]:
    """The errors of what was asked and refused, while the store went on."""
    return [line["error"] for line in lines(log) if line["what"] == "refused"]


def acknowledged_behind(log: Path, what: str) -> int:
    """Acknowledgements after that line of the log. A burst does one thing at a time, so one of them
    may have been on its way to the log by then; it is not counted."""
    told = [line["what"] for line in lines(log)]
    return max(0, told[told.index(what) :].count("acknowledged") - 1)


async def lost_of(db: Path, wanted: set[str]) -> set[str]:
    """Operations that were acknowledged, and of which the store knows nothing.

    That what there is of it is not damaged is asserted.
    """
    log = db.with_name(db.name + "-wal")
    if not db.exists() or (db.stat().st_size == 0 and not log.exists()):
        return wanted
    await evidence.nothing_is_damaged(db)
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as file:
        text = "SELECT request_id FROM runs UNION SELECT request_id FROM requests"
        return wanted - {request_id for (request_id,) in file.execute(text)}


async def everything_came_out_right(arena: Arena, seed: int, count: int) -> None:
    """All is done, each thing once, with the results that it must have."""
    assert "done" in {line["what"] for line in lines(arena.log)}, arena.told()
    async with Client.connect(arena.db, create=False) as client:
        assert await evidence.unfinished(client) == set()
        await evidence.outcomes_are_recorded_once(client)
        await evidence.timers_fire_once_and_never_early(client)
        await evidence.effects_have_attempts(arena, client)
        for step in steps(seed, count):
            if step.number is None:
                result = await client.get_handle(step.workflow_id).result()
                right = flows.expected(step.kind, step.first)
                assert result == right or (step.kind == "chaos_careful" and result == 0), (
                    f"{step.workflow_id} in {arena.db}: {result!r}, not {right!r}"
                )
    evidence.at_most_once_is_kept(arena)
    await evidence.nothing_is_damaged(arena.db)
