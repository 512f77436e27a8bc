"""Follows one execution to its end, over all its runs, and shows its steps.

Looking reads the whole history of a run, so it may take a tenth of the time and no more.
"""

import asyncio
from typing import Any, Final

from everlong.cli._outcomes import Outcome, outcome_of
from everlong.cli._progress import Progress
from everlong.cli._steps import StepReader
from everlong.client import Client, ExecutionDescription, ExecutionSummary
from everlong.exceptions import EverlongError, WorkflowNotFound

__all__ = ["Follower"]

_LOOK_S: Final = 0.1
_LOOK_MAX_S: Final = 2.0
_LOOKING_SHARE: Final = 0.1


class Follower:
    """Reads an execution step by step."""

    def __init__(self, client: Client, workflow_id: str) -> None:
        self._client = client
        self._handle = client.get_handle(workflow_id)
        self._reader = StepReader()
        self._run_id: str | None = None

    async def skip_to_now(self, run: ExecutionDescription) -> int:
        """Count what is behind already, so that it is not shown again."""
        self._run_id = run.run_id
        self._reader.read(await self._handle.history(run.run_id))
        return self._reader.done

    async def follow(self, progress: Progress | None) -> tuple[ExecutionSummary, Outcome]:
        """Look until it is closed or blocked."""
        loop = asyncio.get_running_loop()
        closed = loop.create_task(self._until_closed())
        try:
            while True:
                began = loop.time()
                run = await self._latest()
                if progress is not None:
                    await self._show(run, progress)
                if run.status not in ("running", "continued_as_new", "retried"):
                    return run, outcome_of(run, await self._handle.history(run.run_id))
                wait_s = max(_LOOK_S, (loop.time() - began) / _LOOKING_SHARE)
                # When it closes, there is something to see at once.
                await asyncio.wait([closed], timeout=min(wait_s, _LOOK_MAX_S))
        finally:
            closed.cancel()

    async def _until_closed(self) -> Any:
        try:
            await self._handle.result()
        except EverlongError:
            return

    async def _latest(self) -> ExecutionSummary:
        page = await self._client.list(workflow_id=self._handle.workflow_id, limit=1)
        if not page.items:
            raise WorkflowNotFound(workflow_id=self._handle.workflow_id)
        return page.items[0]

    async def _show(self, run: ExecutionSummary, progress: Progress) -> None:
        if self._run_id is not None and self._run_id != run.run_id:
            # First the end of the run that began this one.
            progress.show(self._reader.read(await self._handle.history(self._run_id)), ())
            self._reader = StepReader()
        self._run_id = run.run_id
        history = await self._handle.history(run.run_id)
        progress.show(self._reader.read(history), self._reader.open_steps())
