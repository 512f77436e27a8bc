"""Recorded bytes of a decision, as today's types write them: whether only the types have grown."""

from typing import Any, Protocol

from everlong._definitions import ActivityDefinition, WorkflowDefinition
from everlong_engine import (
    ActivityScheduled,
    ChildScheduled,
    Decision,
    ExternalSignalSent,
    ItemPublished,
    RunCompleted,
    RunContinuedAsNew,
    UpdateCompleted,
)

__all__ = ["canonical"]


class Run(Protocol):
    """The types that a run knows."""

    definition: WorkflowDefinition

    @property
    def outputs(self) -> Any: ...
    @property
    def others(self) -> Any: ...
    @property
    def updates(self) -> Any: ...
    def activity_definition(self, activity_id: int) -> ActivityDefinition | None: ...
    def canonical_signal(self, name: str, recorded: bytes) -> bytes: ...


def canonical(run: Run, decision: Decision, recorded: bytes) -> bytes:
    """What of the record is compared with the decision that the code makes now."""
    written: bytes = recorded
    match decision:
        case ActivityScheduled():
            activity = run.activity_definition(decision.activity_id)
            if activity is not None:
                written = activity.parameters.canonical(recorded)
                if activity.terms:
                    args, _ = activity.parameters.decode(decision.arguments)
                    now = dict(zip(activity.parameters.names, args, strict=True))
                    terms = {name: now[name] for name in activity.terms}
                    written = activity.parameters.merge(written, terms)
        case ItemPublished():
            written = run.outputs.canonical(decision.channel, recorded)
        case ChildScheduled():
            written = run.others.canonical(decision, recorded)
        case ExternalSignalSent():
            written = run.canonical_signal(decision.signal, recorded)
        case RunContinuedAsNew():
            written = run.definition.parameters.canonical(recorded)
        case RunCompleted():
            result = run.definition.result
            written = result.encode(result.decode(recorded))
        case UpdateCompleted():
            written = run.updates.canonical(decision.update_id, recorded)
        case _:
            pass
    return written
