"""Resets and forks: a new run from an earlier point of a history."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

from everlong import registry
from everlong._definitions import WorkflowDefinition
from everlong._texts import check_request_id, checked_id, storable
from everlong.client._addressed import Addressed
from everlong.client._connected import require_here
from everlong.client._reset_plan import KEEPS_STATES, Wanted, plan
from everlong.exceptions import (
    CannotReset,
    InvalidArguments,
    MissingKey,
    PlainPayload,
    StoreError,
    TamperedPayload,
    UndecodablePayload,
    WorkflowAlreadyStarted,
    WorkflowNotFound,
)
from everlong_engine import (
    Engine,
    LoadedRun,
    NoSuchPoint,
    Point,
    ResetRefusal,
    ResetResult,
    ResetRun,
    RunRow,
    Target,
    WriteResult,
    find_point,
    id_text,
    name_of_reset,
)

if TYPE_CHECKING:
    from everlong.client._client import Client
    from everlong.client._handle import WorkflowHandle

__all__ = ["Reapply", "Resetting"]

R = TypeVar("R")
Reapply = bool | Literal["signals", "updates"]
_TRIES: Final = 50
_FAMILIES: Final[Mapping[object, tuple[str, ...]]] = {
    True: ("signals", "updates"),
    False: (),
    "signals": ("signals",),
    "updates": ("updates",),
}


class Resetting(Addressed, Generic[R]):
    """The part of a handle that begins runs anew."""

    async def reset(
        self,
        to: int | str,
        *,
        reason: str = "",
        arguments: Mapping[str, Any] | None = None,
        reapply: Reapply = True,
        request_id: str | None = None,
        run_id: str | None = None,
    ) -> "WorkflowHandle[R]":
        """Begin a new run of this execution from an earlier point, keeping what was done before.

        An open run is closed for it in the same transaction; one that has ended stays as it was.
        Needs no worker. What people get wrong: whatever ran behind the point runs again, with a new
        idempotency key, so its effects outside happen twice unless the point lies behind them.

            await handle.reset("last-activity:charge", reason="fixed the currency")

        Args:
            to: the number of an event: of an input, to decide anew what follows from it, or of the
                last decision behind one, to keep that too. Or "start", "last" (decide anew about
                the last input), "last-failure" (before the activity that failed last was
                scheduled), "retry" (before the activity whose failure ended the run, or else
                "last"), "last-activity:NAME", "first-activity:NAME" (before it was scheduled;
                without a name, any).
            reason: recorded with the reset.
            arguments: other ones, by name; only with a point before the first decision ("start").
            reapply: messages that came behind the point are fed once more: all of them, none, or
                only "signals" or "updates".
            request_id: a reset repeated with the same id begins one run.
            run_id: the run that you have looked at; refused unless it is the last one of its
                execution. An earlier one can be forked.

        Returns:
            a handle of the execution, with the new run's id.

        Raises:
            CannotReset: there is no such point, or no run can begin there; the message says why.
            InvalidArguments: the arguments do not fit the workflow.
            WorkflowNotFound: there is no such execution, or it went with its retention.
            WorkflowAlreadyStarted: another execution has the workflow id now; fork it instead.
        """
        return await self._begin_again(None, to, reason, arguments, reapply, request_id, run_id)

    async def fork(
        self,
        id: str,
        to: int | str,
        *,
        reason: str = "",
        arguments: Mapping[str, Any] | None = None,
        reapply: Reapply = True,
        request_id: str | None = None,
        run_id: str | None = None,
    ) -> "WorkflowHandle[R]":
        """The same as a new execution under another workflow id; this one is left as it is.

            copy = await handle.fork("order-17-again", to="last-activity:charge")

        Args:
            id: the workflow id of the fork.
            run_id: an earlier run of the execution, to begin from a point of its history; the last
                one unless given. The other arguments are those of `reset`.

        Raises:
            WorkflowAlreadyStarted: an open execution has that id.
            CannotReset, InvalidArguments, WorkflowNotFound: as `reset`.
        """
        checked_id(id)
        return await self._begin_again(id, to, reason, arguments, reapply, request_id, run_id)

    async def _begin_again(
        self,
        new_id: str | None,
        to: int | str,
        reason: str,
        arguments: Mapping[str, Any] | None,
        reapply: Reapply,
        request_id: str | None,
        run_id: str | None,
    ) -> "WorkflowHandle[R]":
        families = _check(to, reason, reapply, request_id)
        if request_id is not None and new_id is None:
            known = await _known(self._engine, self._target(), request_id)
            if known is not None:
                return self._handle_of(None, known)
        row, is_last = await self._repeated(run_id, new_id)
        if new_id is None:
            require_here(row)
        first = row.run_id
        if new_id == row.workflow_id:
            raise CannotReset(f"a fork needs a workflow id of its own: {new_id!r} is taken by this")
        definition = self._definition or _definition_of(row.type)
        for _ in range(_TRIES):
            loaded = await _load(self._client, row)
            if loaded.row.run_id != first:
                break
            wanted = Wanted(
                point=_point(loaded, to),
                new_id=new_id,
                reason=reason,
                arguments=arguments or {},
                reapply=families,
                request_id=request_id,
                takes_inbox=is_last,
            )
            engine = self._client.engine
            write = await plan(engine, self._client.records, loaded, wanted, definition)
            result = await _put(engine, write)
            if result.refusal is None:
                return self._handle_of(new_id, result)
            if result.refusal is ResetRefusal.TAKEN:
                status = "?" if result.status is None else result.status.text
                taken = new_id or row.workflow_id
                raise WorkflowAlreadyStarted(workflow_id=taken, status=status)
            if result.refusal is ResetRefusal.STATES:
                raise CannotReset(KEEPS_STATES, workflow_id=self.workflow_id)
            row, is_last = await self._repeated(run_id, new_id)
            if row.run_id != first:
                break
        else:
            raise CannotReset(
                f"{self.workflow_id!r} is sent messages faster than its history can be read: stop "
                "who sends them, or terminate it first",
                workflow_id=self.workflow_id,
            )
        raise CannotReset(
            f"{self.workflow_id!r} has begun another run meanwhile: look at its history again",
            workflow_id=self.workflow_id,
        )

    async def _repeated(self, run_id: str | None, new_id: str | None) -> tuple[RunRow, bool]:
        """The run from which another begins, and whether it is the last of its execution."""
        last = await self._row()
        if run_id is None:
            return last, True
        row = await self._client.run_row(run_id)
        if row is None or (row.namespace, row.workflow_id) != (last.namespace, last.workflow_id):
            raise CannotReset(
                f"{last.workflow_id!r} has no run {run_id!r}, or it went with its retention: "
                f"`everlong list --id {last.workflow_id}` shows those that there are",
                workflow_id=last.workflow_id,
            )
        if new_id is None and row.run_id != last.run_id:
            raise CannotReset(
                f"{run_id!r} is not the last run of {last.workflow_id!r}: a reset would undo "
                f"all that the runs behind it have done, up to {id_text(last.run_id)!r}. Reset the "
                "last run, or begin a new execution from this one: fork(NEW_ID, to, run_id=…), "
                "`everlong fork ID NEW_ID --run RUN_ID`",
                workflow_id=last.workflow_id,
            )
        return row, row.run_id == last.run_id

    def _handle_of(self, new_id: str | None, result: ResetResult) -> "WorkflowHandle[R]":
        kind: Any = type(self)
        made: WorkflowHandle[R] = kind(
            self._client,
            new_id or self.workflow_id,
            execution_id=result.execution_id,
            run_id=result.run_id,
            definition=self._definition,
        )
        return made


def _check(to: object, reason: str, reapply: object, request_id: str | None) -> tuple[str, ...]:
    if isinstance(to, bool) or not isinstance(to, int | str):
        raise CannotReset(f"to={to!r}: give the number of an event, or the name of a point")
    if isinstance(to, str):
        storable(to, "to")
    storable(reason, "reason")
    check_request_id(request_id)
    if not isinstance(reapply, bool | str) or reapply not in _FAMILIES:
        raise InvalidArguments(f'reapply={reapply!r}: choose True, False, "signals" or "updates"')
    return _FAMILIES[reapply]


def _point(loaded: LoadedRun, to: int | str) -> Point:
    try:
        return find_point(loaded.history, to)
    except NoSuchPoint as error:
        name = loaded.row.workflow_id
        raise CannotReset(f"{name!r} cannot begin there: {error}", workflow_id=name) from error


def _definition_of(kind: str) -> WorkflowDefinition | None:
    found = registry.workflows.get(kind)
    return None if found is None else found.definition


async def _known(engine: Engine, target: Target, request_id: str) -> ResetResult | None:
    """What a reset with this request id has begun; its point may not be there any more."""
    found = await engine.store.told(target, name_of_reset(request_id))
    if found is None or found[1] is None:
        return None
    return ResetResult(None, found[1], found[0].execution_id)


async def _load(client: "Client", row: RunRow) -> LoadedRun:
    """The run with its history, as the code wrote it."""
    try:
        loaded = await client.engine.store.load(row.shard, row.run_id)
        if loaded is None:
            raise WorkflowNotFound(workflow_id=row.workflow_id)
        return client.records.opened(loaded)
    except (MissingKey, TamperedPayload, PlainPayload):
        raise
    except UndecodablePayload as error:
        raise CannotReset(
            f"{row.workflow_id!r} cannot be repeated, because its history cannot be read: {error}",
            workflow_id=row.workflow_id,
        ) from error


async def _put(engine: Engine, write: ResetRun) -> ResetResult:
    """Store it; the workers of this process hear of it before they can claim the new run."""
    future: asyncio.Future[ResetResult] = asyncio.get_running_loop().create_future()

    def settled(result: WriteResult | StoreError) -> None:
        if isinstance(result, ResetResult) and result.refusal is None:
            if not write.is_fork:
                engine.replaced(result.execution_id, write.source.run_id)
            engine.wake_hosts()
            engine.mail_arrived()
        if future.done():
            return
        if isinstance(result, StoreError):
            future.set_exception(result)
        else:
            assert isinstance(result, ResetResult)
            future.set_result(result)

    engine.commits.add(write, settled)
    return await future
