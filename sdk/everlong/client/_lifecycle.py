"""How an execution's life is changed from outside: terminated, paused, let go on."""

import logging
from functools import partial

from msgspec.structs import replace

from everlong._texts import check_request_id
from everlong.client._addressed import Addressed
from everlong.client._intercepting import around_terminate
from everlong.client._pauses import checked_reason
from everlong_engine import (
    MessageResult,
    Pause,
    Resume,
    RunStatus,
    RunTerminated,
    Terminate,
    name_of_termination,
)

__all__ = ["Lifecycle"]

logger = logging.getLogger("everlong")

_MENDED = (
    "%s: its row in the store could not be read (%s). It was mended as far as its history tells, "
    "to be closed; what else it said is not known"
)


class Lifecycle(Addressed):
    """The part of a handle that ends an execution, or holds it."""

    async def terminate(self, reason: str = "", *, request_id: str | None = None) -> None:
        """Close the execution at once: no clean-up runs. Needs no worker.

        In a SQLite file it also ends an execution whose row is damaged, and logs what was wrong.

        Args:
            reason: recorded with it.
            request_id: a repetition with the same id ends nothing more, also when another execution
                has the workflow id by then.

        Raises:
            WorkflowClosed, WorkflowNotFound: there is nothing to terminate.
        """
        check_request_id(request_id)
        hooks = self._client.hooks
        reason = reason or "no reason was given"
        if hooks.terminate_workflow:
            terminate = partial(self._terminate, request_id=request_id)
            await around_terminate(hooks, self.workflow_id, reason, terminate)
        else:
            await self._terminate(reason, request_id)

    async def _terminate(self, reason: str, request_id: str | None) -> None:
        engine = self._engine
        event = RunTerminated(reason)
        target = self._target()
        kind, body = self._client.records.message(target, event, {})
        now_us, append_id = engine.clock.now_us(), engine.new_append_id()
        request = name_of_termination(request_id, append_id)
        terminate = Terminate(target, kind, body, RunStatus.TERMINATED, now_us, append_id, request)
        result = await engine.commits.put(terminate)
        assert isinstance(result, MessageResult)
        if result.mended:
            logger.warning(_MENDED, self.workflow_id, result.mended)
        await self._require_accepted(result)
        if result.duplicate:  # It may have been reset since.
            engine.look_at([result.execution_id])
            engine.departed(result.execution_id)
        else:
            engine.terminated(result.execution_id, result.run_id, event)
        engine.mail_arrived()  # Of whoever waits for it, and of its children.

    async def pause(self, *, reason: str = "", by: str = "", request_id: str | None = None) -> None:
        """Hold the execution until `resume`. Needs no worker.

        Once it returns, nothing more is recorded of it and no attempt of an activity begins; those
        at work go on to their ends, which are fed when it goes on. Signals, updates and
        cancellations are stored and wait, so `update` waits too; queries are answered; timers that
        come due fire when it goes on; `terminate` ends it at once.

            await handle.pause(reason="asked by the customer", by="ann")

        Args:
            reason, by: why, and who says so; shown wherever it is said to be paused.
            request_id: a repetition with the same id changes nothing, whatever happened between.

        Raises:
            WorkflowClosed, WorkflowNotFound: there is nothing to pause.
        """
        checked_reason(reason, by)
        check_request_id(request_id)
        engine, target = self._engine, self._target()
        if request_id is not None:
            known = await engine.store.told(target, request_id)
            if known is not None and known[1] is not None:
                return
        row = await self._row()  # A reason is bound to its execution.
        target = replace(target, execution_id=row.execution_id)
        records = self._client.records
        stored = records.pause_reason(target.namespace, row.execution_id, reason)
        sent = engine.sent() if request_id is None else None
        pause = Pause(target, engine.clock.now_us(), by, stored, request_id, sent)
        result = await engine.commits.put(pause)
        engine.look_at([await self._open(result)])

    async def resume(self, *, request_id: str | None = None) -> None:
        """Let it go on: takes its own pause away, and lets a blocked run be tried again, after its
        code was fixed. A running one is left alone.

        What people get wrong: where its type is paused too (or everything), it stays held;
        `describe` tells by whom, and `client.resume(type=…)` lets go of that.

        Args:
            request_id: a repetition with the same id changes nothing, whatever happened between.

        Raises:
            WorkflowClosed, WorkflowNotFound: there is nothing to resume.
        """
        check_request_id(request_id)
        engine = self._engine
        sent = engine.sent() if request_id is None else None
        resume = Resume(self._target(), engine.clock.now_us(), request_id, sent)
        result = await engine.commits.put(resume)
        engine.look_at([await self._open(result)])
