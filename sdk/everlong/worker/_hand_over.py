"""How a file, and runs, go from one worker to the next.

Between processes the file goes first: the new one waits until the old one has handed back what it
had. Within one, a worker that finds a run in its hands that another version should drive hands it
back once nothing goes on in it.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from everlong.exceptions import StoreOwned
from everlong.worker._owned import OwnedRun
from everlong_engine import Engine

if TYPE_CHECKING:
    from everlong.worker._keeper import RunKeeper
    from everlong.worker._worker import Worker

__all__ = ["attach", "hand_over"]

_FREE_AGAIN_S: Final = 0.02
"""How often it is asked whether another process has left the file."""


async def attach(engine: Engine, worker: "Worker", wait_s: float) -> None:
    """Have the file, once the process that has it lets go of it.

    Raises:
        StoreOwned: it has not in time.
        StoreFailed: a write of this process met a store that can no longer be trusted.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while True:
        if engine.commits.failed is not None:
            raise engine.commits.failed
        try:
            engine.attach(worker)
        except StoreOwned:
            if loop.time() >= until:
                raise
            await asyncio.sleep(_FREE_AGAIN_S)
        else:
            return


async def hand_over(keeper: "RunKeeper") -> bool:
    """Let go of runs that sleep here and belong to another version, of which one may be in the
    store since the last look. Whether some are left that are at work now."""
    versions = keeper.versions
    asleep = [(run, run.next_seq, run.version) for run in keeper.cache if _sleeps(run, keeper)]
    pinned = dict(await keeper.engine.store.pinned_of(keeper.worker_id))
    for run, next_seq, known in asleep:
        if _sleeps(run, keeper) and (run.next_seq, run.version) == (next_seq, known):
            run.version = pinned.get(run.run_id)
            if not versions.may_drive(run):
                keeper.leaving.release(run, run.wake_us())
    for run in keeper.cache:
        run.code.moves_on = versions.may_move(run)
    return any(not versions.may_drive(run) or versions.may_move(run) for run in keeper.cache)


def _sleeps(run: OwnedRun, keeper: "RunKeeper") -> bool:
    return run.is_idle and not (
        run.paused or run.on_trial or run.tentative or keeper.cache.is_pinned(run)
    )
