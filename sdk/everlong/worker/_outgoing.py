"""What the decisions of one drive send to other executions, as data for their append."""

from collections.abc import Sequence
from typing import Final, cast

from everlong._records import Records
from everlong.worker._owned import OwnedRun
from everlong.worker._versions import Versions
from everlong_engine import (
    AwaitEnd,
    Blobs,
    CancelChild,
    CancelRequested,
    ChildCancelRequested,
    ChildScheduled,
    Decision,
    Engine,
    ExternalAwaited,
    ExternalCancelSent,
    ExternalSignalSent,
    IfClosed,
    IfOpen,
    Input,
    OnParentClose,
    Outgoing,
    RunContinuedAsNew,
    RunStarted,
    SendTo,
    SignalReceived,
    StartChild,
    Target,
    child_request_id,
)

__all__ = ["SENDING", "Sender"]

SENDING: Final = frozenset(
    {
        ChildScheduled,
        ChildCancelRequested,
        ExternalSignalSent,
        ExternalCancelSent,
        ExternalAwaited,
    }
)
"""Kinds that send something."""


class Sender:
    """Makes it for one worker's runs."""

    def __init__(self, engine: Engine, records: Records, versions: Versions, python: str) -> None:
        self._engine = engine
        self._records = records
        self._versions = versions
        self._python = python

    def outgoing(self, run: OwnedRun, decisions: Sequence[Decision]) -> tuple[Outgoing, ...]:
        """In the order of the decisions, of which one at least is in `SENDING`."""
        closing = run.code.closed and type(decisions[-1]) is not RunContinuedAsNew
        found = (self._of(run, one, closing=closing) for one in decisions)
        return tuple(one for one in found if one is not None)

    def _of(self, run: OwnedRun, decision: Decision, *, closing: bool) -> Outgoing | None:
        match decision:
            case ChildScheduled():
                if closing and decision.on_parent_close != "abandon":
                    return None  # It would end in the moment in which it begins.
                return self._child(run, decision)
            case ChildCancelRequested():
                target = self._engine.target(run.namespace, decision.target)
                kind, body = self._message(target, CancelRequested(decision.reason), {})
                return CancelChild(decision.child_id, kind, body, self._engine.clock.now_us())
            case ExternalSignalSent():
                event = SignalReceived(decision.signal, decision.payload)
                return self._send(run, decision, event)
            case ExternalCancelSent():
                return self._send(run, decision, CancelRequested(decision.reason))
            case ExternalAwaited():
                target = self._engine.target(run.namespace, decision.target)
                return AwaitEnd(decision.call_id, target)
            case _:
                return None

    def _send(
        self,
        run: OwnedRun,
        decision: ExternalSignalSent | ExternalCancelSent,
        event: SignalReceived | CancelRequested,
    ) -> SendTo:
        target = self._engine.target(run.namespace, decision.target, decision.execution)
        blobs: Blobs = {}
        kind, body = self._message(target, event, blobs)
        now_us = self._engine.clock.now_us()
        return SendTo(decision.call_id, target, kind, body, blobs, now_us)

    def _message(self, target: Target, event: Input, blobs: Blobs) -> tuple[int, bytes]:
        return self._records.message(target, event, blobs)

    def _child(self, run: OwnedRun, decision: ChildScheduled) -> StartChild:
        engine = self._engine
        definition = run.code.others.definition_of(decision.child_id)
        new = engine.new_run(
            run.namespace,
            decision.target,
            decision.workflow,
            run.queue,
            child_request_id(run.run_id, decision.child_id),
            decision.tags,
            version=self._versions.pin_of_child(run, decision.workflow),
        )
        timeout_us = decision.execution_timeout_us
        started = RunStarted(
            workflow=decision.workflow,
            arguments=decision.arguments,
            workflow_id=decision.target,
            seed=engine.random.getrandbits(60),
            code=definition.digest,
            python=self._python,
            run_timeout_us=decision.run_timeout_us,
            execution_deadline_us=None if timeout_us is None else new.started_us + timeout_us,
            parent=run.workflow_id,
            tags=decision.tags,
            memo=decision.memo,
            headers=decision.headers,
            retry=definition.retry if decision.retry is None else decision.retry,
        )
        blobs: Blobs = {}
        kind, body = self._records.start(new, started, blobs)
        return StartChild(
            decision.child_id,
            new,
            kind,
            body,
            blobs,
            cast("OnParentClose", decision.on_parent_close),
            cast("IfOpen", decision.if_open),
            cast("IfClosed", decision.if_closed),
            decision.wants_start,
            new.started_us,
        )
