"""Pausing executions, whole types of workflows, or everything; and letting them go on."""

from typing import Any

from everlong._texts import check_request_id, storable
from everlong.client._connected import Connected
from everlong.client._pauses import checked_reason, shown
from everlong.client._views import Pause
from everlong.exceptions import InvalidArguments
from everlong.workflow import Workflow
from everlong_engine import ManyResult, PauseMany, ResumeMany

__all__ = ["Pausing"]

_SHOWN_MAX = 1_000


class Pausing(Connected):
    """The part of a client that holds many executions at once."""

    async def pause(
        self,
        *,
        type: "Workflow[..., Any] | str | None" = None,
        reason: str = "",
        by: str = "",
        request_id: str | None = None,
    ) -> int:
        """Hold all executions of a workflow, or everything in the namespace, until `resume`.

        Once it returns, nothing more of them is recorded and no attempt of an activity begins;
        those at work go on to their ends. It holds what is started later, too: it is stored, and
        waits. What people get wrong: a pause holds, it ends nothing; deadlines pass meanwhile.

            await client.pause(type=charge_cards, reason="the bank is down", by="ann")
            await client.pause(reason="the database moves")       # everything

        Args:
            type: a workflow, or its name; everything unless given.
            reason, by: why, and who says so; shown wherever it is said to be paused. What is paused
                already keeps its first reason.
            request_id: a repetition with the same id changes nothing, whatever happened between.

        Returns:
            How many executions it holds that nothing had held before.
        """
        reason, by = checked_reason(reason, by)
        check_request_id(request_id)
        kind, engine = _name(type), self.engine
        stored = self.records.pause_reason(self.namespace, kind, reason)
        pause = PauseMany(self.namespace, kind, engine.clock.now_us(), by, stored, request_id)
        result = await engine.commits.put(pause)
        assert isinstance(result, ManyResult)
        engine.look_at(result.owned)
        return result.executions

    async def resume(
        self,
        *,
        type: "Workflow[..., Any] | str | None" = None,
        blocked: bool = False,
        request_id: str | None = None,
    ) -> int:
        """Take such a pause away. What something else holds (its type, or a pause of its own) stays
        held.

            await client.resume(type=charge_cards)
            await client.resume(type=charge_cards, blocked=True)   # after its code was fixed

        Args:
            type: as it was given to `pause`; without it, the pause of everything.
            blocked: also let its blocked runs be tried again, those that count as poison too. Not
                without being asked: a run that kills its workers would be let loose by whoever
                only ends a pause.
            request_id: a repetition with the same id changes nothing, whatever happened between.

        Returns:
            How many executions go on.

        Raises:
            InvalidArguments: nobody has paused that, and `blocked` was not asked for.
        """
        check_request_id(request_id)
        kind, engine = _name(type), self.engine
        resume = ResumeMany(self.namespace, kind, engine.clock.now_us(), blocked, request_id)
        result = await engine.commits.put(resume)
        assert isinstance(result, ManyResult)
        if not (result.found or blocked):
            what = f"no pause of the workflow {kind!r}" if kind else "no pause of everything"
            raise InvalidArguments(f"there is {what}; client.paused() lists what is paused")
        engine.look_at(result.owned)
        engine.wake_hosts()
        return result.executions

    async def paused(self, *, limit: int = 100) -> list[Pause]:
        """What somebody has paused: whole types first, then single executions, the oldest first.

            for one in await client.paused():
                print(one.workflow_id or one.type or "everything", one.by, one.reason)

        Raises:
            ValueError: a limit outside 1 to 1000.
        """
        if not 1 <= limit <= _SHOWN_MAX:
            raise ValueError(f"limit={limit}: choose 1 to {_SHOWN_MAX}")
        rows = await self.engine.store.pauses(self.namespace, limit)
        return [shown(self.records, row) for row in rows]


def _name(workflow: object) -> str:
    if workflow is None:
        return ""
    if isinstance(workflow, Workflow):
        return workflow.definition.name
    if isinstance(workflow, str) and workflow:
        return storable(workflow, "type")
    raise InvalidArguments(
        f"type={workflow!r}: give a function decorated with @workflow, or its name"
    )
