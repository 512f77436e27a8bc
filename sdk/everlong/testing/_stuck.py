"""Keeps a test from waiting in vain: for a run that is blocked, or for nothing at all."""

import asyncio
from typing import Final

from everlong.client import Client
from everlong.exceptions import EverlongError, WorkflowFault
from everlong.worker._owned import OwnedRun
from everlong_engine.virtual import VirtualEngine

__all__ = ["Stuck", "Watch"]

_SHOWN_MAX: Final = 5


class Stuck(EverlongError):
    """Nothing will ever happen, and the test waits all the same."""


class Watch:
    """One per environment.

    Args:
        patience_s: how long it may stay so, in real seconds: another task of the test may be about
            to send something. None for ever.
    """

    def __init__(self, client: Client, engine: VirtualEngine, patience_s: float | None) -> None:
        self._client = client
        self._engine = engine
        self._patience_s = patience_s
        self._blocked: dict[bytes, WorkflowFault] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None
        self._seen = (-1, -1)
        engine.time.on_stuck = self._is_stuck

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._telling is not None:
            self._telling.cancel()

    # ---------------------------------------------------------------------------------- blocked

    def blocked(self, run: OwnedRun, fault: EverlongError) -> None:
        """A run is being parked."""
        if not isinstance(fault, WorkflowFault):
            cause, fault = fault, WorkflowFault(f"{run.workflow_id} is blocked: {fault}")
            fault.__cause__ = cause
        self._blocked[run.execution_id] = fault

    def forget_blocked(self) -> None:
        """There is another worker, perhaps with other code."""
        self._blocked.clear()

    def tell_of_blocked(self) -> bool:
        """Fail whoever waits for a blocked run; whether anybody did."""
        found = self._blocked.keys() & self._engine.awaited_executions()
        for execution_id in found:
            self._engine.fail_waiting(self._blocked[execution_id], execution_id)
        return bool(found)

    # ------------------------------------------------------------------------------------ stuck

    def _is_stuck(self) -> None:
        if self._blocked:
            # Somebody's child, or whoever was to send a signal: what it was is the last fault.
            self._engine.fail_waiting(list(self._blocked.values())[-1])
        elif self._patience_s is not None and self._timer is None:
            self._begin_to_wait(self._patience_s)

    def _begin_to_wait(self, patience_s: float) -> None:
        self._seen = self._engine.progress()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(patience_s, self._look_again, patience_s)

    def _look_again(self, patience_s: float) -> None:
        self._timer = None
        if not self._engine.time.is_awaited():
            return  # Should it be so again, there is news before.
        if self._engine.progress() != self._seen or self._engine.time.is_busy():
            self._begin_to_wait(patience_s)
            return
        self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        text = "nothing will ever happen, and the test waits all the same. "
        if not self._engine.time.is_skipping:
            text = "time stands still, and the test waits: env.skipping(False) is in force. "
        page = await self._client.list(status="running", limit=_SHOWN_MAX)
        lines: list[str] = []
        for one in page.items:
            found = await self._client.get_handle(one.workflow_id).describe()
            steps = [f"{activity.name} ({activity.state})" for activity in found.activities]
            steps += [f"child {child.workflow_id}" for child in found.children]
            steps += [f"a timer until {timer.due_at:%Y-%m-%d %H:%M:%S}" for timer in found.timers]
            waits = ", ".join(steps) or "a message or a condition"
            if not found.hosted:
                waits = "a worker: this environment began before the workflow was defined, or it "
                waits += "hosts others"
            lines.append(f"{one.workflow_id} ({one.type}) waits for {waits}")
        text += "; ".join(lines) or "No workflow is running"
        self._engine.fail_waiting(Stuck(text))
