"""A worker that an environment can see into, and crash."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

from everlong._replay.modes import Modes
from everlong.client import Client
from everlong.exceptions import EverlongError
from everlong.testing._fakes import Fakes
from everlong.worker import Worker
from everlong.worker._attempts import Attempt
from everlong.worker._owned import OwnedRun

__all__ = ["WatchedWorker"]

_STOP_S: Final = 1.0


class WatchedWorker(Worker):
    """The production worker, with fakes in place of activities.

    Args:
        on_blocked: called with a run that is being parked, and its fault.
    """

    def __init__(
        self,
        client: Client,
        fakes: Fakes,
        modes: Modes,
        on_blocked: Callable[[OwnedRun, EverlongError], None],
        **options: Any,
    ) -> None:
        super().__init__(client, **options)
        self._fakes = fakes
        self._modes = modes
        self._on_blocked = on_blocked

    async def start(self) -> None:
        await super().start()
        keeper = self._keeper  # It has claimed nothing yet: that begins with the next turn.
        assert keeper is not None
        keeper.modes = self._modes
        keeper.on_blocked = self._on_blocked
        self._fakes.stand_in_for(keeper.activities)

    def at_work(self) -> Iterator[Attempt]:
        """Attempts that are under way."""
        keeper = self._keeper
        return iter(() if keeper is None else keeper.activities.bench.at_work)

    def tidy(self) -> None:
        """Time may be about to jump to the next deadline: let it be one that matters."""
        if self._keeper is not None:
            self._keeper.deadlines.tidy()

    async def crash(self) -> None:
        """Be gone at once, as after SIGKILL: nothing is handed back, nothing waited for.

        What an attempt in a thread or a process does goes on; it is nobody's any more.
        """
        engine = self._engine
        await engine.commits.drain()
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        tasks = [one.task for one in keeper.activities.bench.at_work if one.task is not None]
        if self._claims is not None:
            self._claims.cancel()
            tasks.append(self._claims)
        if self._taker is not None:
            self._taker.abandon()
        keeper.abandon()
        keeper.activities.close()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S)
        await self._leave(engine)
