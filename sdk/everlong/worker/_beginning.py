"""Starts executions in the process that will drive them.

The code runs ahead of the answer whether the workflow id is free, and what it decides is one
transaction with its row. What has no room there is left in the store instead, and claimed.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from everlong.exceptions import StoreError, WorkflowFault
from everlong.worker._appends import may_be_followed
from everlong.worker._owned import Incoming, OwnedRun, Step
from everlong_engine import (
    AppendResult,
    Blobs,
    Decision,
    IfClosed,
    IfOpen,
    NewRun,
    RunStarted,
    StartResult,
    StartRun,
    WriteResult,
)

if TYPE_CHECKING:
    from everlong.worker._keeper import RunKeeper

__all__ = ["RunBeginner"]


class RunBeginner:
    """Begins runs. One per keeper."""

    def __init__(self, keeper: "RunKeeper") -> None:
        self._keeper = keeper

    def begin(
        self,
        new: NewRun,
        started: RunStarted,
        if_open: IfOpen,
        if_closed: IfClosed,
        on_result: Callable[[StartResult | StoreError], None],
    ) -> None:
        """Start an execution here: its first drive and its row are one transaction.

        The code runs ahead of the answer whether the workflow id is free; nothing it decides takes
        effect before that.
        """
        keeper = self._keeper
        pin = keeper.versions.pin(new.type)
        if pin is not None:
            new = replace(new, version=pin)
        run = OwnedRun.of(new, 1, keeper.new_code(new.type, new.run_id))
        now_us = keeper.engine.clock.now_us()
        try:
            decisions: list[Decision] | None = run.code.feed(started, now_us)
        except WorkflowFault:
            decisions = None
        if decisions is None or (decisions and may_be_followed(started, decisions[-1])):
            # Stored undriven, then claimed: a fault is met again and stands there, visible; and a
            # run that begins anew at once gets its successor, for which a start has no room.
            run.code.discard()
            self._as_mail(new, started, if_open, if_closed, on_result)
            return
        step = Step(Incoming(started), decisions, run.generation)
        append = keeper.appends.of_step(run, step, now_us)
        run.inflight.append(step)
        run.tentative = True

        def settled(result: WriteResult | StoreError) -> None:
            assert isinstance(result, (StartResult, StoreError))
            run.tentative = False
            keeper.beginning.discard(run.execution_id)
            if isinstance(result, StartResult) and result.held:
                keeper.forget(run)
                self._as_mail(new, started, if_open, if_closed, on_result)
            elif isinstance(result, StartResult) and result.created:
                keeper.cache.hold(run)
                keeper.timers.watch_timeouts(run, started, now_us)
                on_result(result)
                keeper.settle(run, step, AppendResult(delivered=result.delivered))
            else:
                # An error may have come behind the commit: then it is ours, and nobody's here.
                keeper.loading.in_doubt |= isinstance(result, StoreError)
                keeper.forget(run)
                on_result(result)

        start = StartRun(new, if_open, if_closed, 0, b"", owner=keeper.worker_id, first=append)
        keeper.engine.commits.add(start, settled)
        if keeper.cache.find(new.namespace, new.workflow_id, None) is None:
            keeper.cache.hold(run)
        else:  # The id is most likely taken: it is held once it is ours.
            keeper.beginning.add(run.execution_id)

    def _as_mail(
        self,
        new: NewRun,
        started: RunStarted,
        if_open: IfOpen,
        if_closed: IfClosed,
        on_result: Callable[[StartResult | StoreError], None],
    ) -> None:
        keeper = self._keeper
        blobs: Blobs = {}
        kind, body = keeper.records.start(new, started, blobs)
        now_us = keeper.engine.clock.now_us()

        def settled(result: WriteResult | StoreError) -> None:
            assert isinstance(result, (StartResult, StoreError))
            on_result(result)
            keeper.on_room()

        start = StartRun(new, if_open, if_closed, kind, body, blobs=blobs, wake_us=now_us)
        keeper.engine.commits.add(start, settled)
