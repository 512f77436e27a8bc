"""Whether the decision that code makes now is the one that was recorded.

A decision's identity is its kind, its name or number, and its arguments. Arguments that differ in
bytes may still mean the same: if the recorded ones, decoded and encoded by today's types, give
today's bytes, only the types have grown (a new field with a default); that is no change of mind.
Options, source lines and the wording of failures are not part of it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from everlong.exceptions import EverlongError, NondeterminismError
from everlong_engine import (
    ActivityCancelRequested,
    ActivityScheduled,
    ApprovalRequested,
    ApprovalWithdrawn,
    ChildCancelRequested,
    ChildScheduled,
    Decision,
    ExternalAwaited,
    ExternalCancelSent,
    ExternalSignalSent,
    ItemPublished,
    MemoSet,
    PatchMarked,
    RunCancelled,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunTerminated,
    RunTimedOut,
    SideEffectRecorded,
    TagsSet,
    TimerCancelled,
    TimerStarted,
    UpdateCompleted,
    UpdateFailed,
    same_tags,
    unpack,
)

__all__ = ["Canonical", "check", "describe", "forgotten"]

SHOWN_LENGTH_MAX: Final = 80

Sent: TypeAlias = (
    ChildScheduled
    | ChildCancelRequested
    | ExternalSignalSent
    | ExternalCancelSent
    | ExternalAwaited
)
ToPeople: TypeAlias = ApprovalRequested | ApprovalWithdrawn | ItemPublished | TagsSet | MemoSet
_WITH_ARGUMENTS: Final = (ActivityScheduled, ChildScheduled)

Canonical = Callable[[Decision, bytes], bytes]
"""(decision made now, recorded bytes) -> the bytes as today's types write them."""


def check(
    recorded: Sequence[Decision], made: Sequence[Decision], first_seq: int, canonical: Canonical
) -> None:
    """Raise NondeterminismError at the first decision that is not the recorded one."""
    for at, (old, new) in enumerate(zip(recorded, made, strict=False)):
        if not _same(old, new, canonical):
            raise _mismatch(first_seq + at, old, new)
    if len(made) > len(recorded):
        raise _mismatch(first_seq + len(recorded), None, made[len(recorded)])
    if len(recorded) > len(made):
        raise _mismatch(first_seq + len(made), recorded[len(made)], None)


def _same(old: Decision, new: Decision, canonical: Canonical) -> bool:
    if type(old) is not type(new):
        return False
    if isinstance(old, Sent) and isinstance(new, Sent):
        return _same_sent(old, new, canonical)
    # What has few parts is told here: more kinds in one match than these no type checker follows.
    if isinstance(old, ToPeople):
        return _same_to_people(old, new, canonical)
    if isinstance(new, ToPeople):
        return False
    match old, new:
        case ActivityScheduled(), ActivityScheduled():
            return (
                old.activity_id == new.activity_id
                and old.activity == new.activity
                and _same_bytes(old.arguments, new.arguments, new, canonical)
            )
        case TimerStarted(), TimerStarted():
            return old.timer_id == new.timer_id and old.due_us == new.due_us
        case RunCompleted(), RunCompleted():
            return _same_bytes(old.result, new.result, new, canonical)
        case RunContinuedAsNew(), RunContinuedAsNew():
            return old.checkpoints == new.checkpoints and _same_bytes(
                old.arguments, new.arguments, new, canonical
            )
        case UpdateCompleted(), UpdateCompleted():
            return old.update_id == new.update_id and _same_bytes(
                old.result, new.result, new, canonical
            )
        case UpdateFailed(), UpdateFailed():
            return old.update_id == new.update_id and old.failure.type == new.failure.type
        case RunFailed(), RunFailed():
            return old.failure.type == new.failure.type
        case SideEffectRecorded() | RunCancelled(), _:
            return True
        case (
            (
                ActivityCancelRequested()
                | TimerCancelled()
                | PatchMarked()
                | RunTerminated()
                | RunTimedOut()
            ),
            _,
        ):
            return old == new
        case _:
            return False


def _same_sent(old: Sent, new: Sent, canonical: Canonical) -> bool:
    """Of what goes to other executions: apart, so that the type checkers can follow."""
    match old, new:
        case ChildScheduled(), ChildScheduled():
            known = (old.child_id, old.workflow, old.target, old.wants_start)
            return known == (
                new.child_id,
                new.workflow,
                new.target,
                new.wants_start,
            ) and _same_bytes(old.arguments, new.arguments, new, canonical)
        case ExternalSignalSent(), ExternalSignalSent():
            sent = (old.call_id, old.target, old.execution, old.signal)
            return sent == (
                new.call_id,
                new.target,
                new.execution,
                new.signal,
            ) and _same_bytes(old.payload, new.payload, new, canonical)
        case ExternalCancelSent(), ExternalCancelSent():
            asked = (old.call_id, old.target, old.execution)
            return asked == (new.call_id, new.target, new.execution)
        case ExternalAwaited(), ExternalAwaited():
            return (old.call_id, old.target) == (new.call_id, new.target)
        case ChildCancelRequested(), ChildCancelRequested():
            return (old.child_id, old.target) == (new.child_id, new.target)
        case _:
            return False


def _same_to_people(old: ToPeople, new: Decision, canonical: Canonical) -> bool:
    """What is meant for somebody outside: asked, taken back, published, or set beside the run."""
    if isinstance(old, ApprovalRequested) and isinstance(new, ApprovalRequested):
        return replace(old, where=new.where) == new
    if isinstance(old, ItemPublished) and isinstance(new, ItemPublished):
        same_place = (old.channel, old.number) == (new.channel, new.number)
        return same_place and _same_bytes(old.payload, new.payload, new, canonical)
    if isinstance(old, TagsSet) and isinstance(new, TagsSet):
        return same_tags(old.tags, new.tags)
    if isinstance(old, MemoSet) and isinstance(new, MemoSet):
        return old.memo == new.memo
    return old == new


def _same_bytes(old: bytes, new: bytes, decision: Decision, canonical: Canonical) -> bool:
    if old == new:
        return True
    try:
        return canonical(decision, old) == new
    except EverlongError:
        return False  # Today's types cannot even read it.


def _mismatch(seq: int, old: Decision | None, new: Decision | None) -> NondeterminismError:
    recorded = describe(old) if old is not None else "nothing: the code then waited"
    made = describe(new) if new is not None else "nothing: the code waits"
    if isinstance(old, _WITH_ARGUMENTS) and isinstance(new, _WITH_ARGUMENTS):
        # The number and the name may be the same: then only this tells what has changed.
        recorded += f" with {_shown(old.arguments)}"
        made += f" with {_shown(new.arguments)}"
    if isinstance(old, ItemPublished) and isinstance(new, ItemPublished):
        recorded += f" holding {_shown(old.payload)}"
        made += f" holding {_shown(new.payload)}"
    return NondeterminismError(
        seq=seq,
        recorded=recorded,
        made=made,
        recorded_at=getattr(old, "where", ""),
        made_at=getattr(new, "where", ""),
    )


def _shown(arguments: bytes) -> str:
    try:
        text = repr(unpack(arguments))
    except EverlongError:
        return f"{len(arguments)} unreadable bytes"
    return text if len(text) <= SHOWN_LENGTH_MAX else f"{text[:SHOWN_LENGTH_MAX]}…"


def describe(decision: Decision) -> str:
    """One line for people: what, and where in the source."""
    match decision:
        case ActivityScheduled():
            what = f"activity {decision.activity!r} (number {decision.activity_id})"
        case ChildScheduled():
            name = f"{decision.workflow!r} as {decision.target!r}"
            what = f"child {name} (number {decision.child_id})"
        case ChildCancelRequested():
            what = f"cancellation of child {decision.target!r}"
        case ExternalSignalSent():
            what = f"signal {decision.signal!r} to {decision.target!r}"
        case ExternalCancelSent():
            what = f"a request to cancel, to {decision.target!r}"
        case ExternalAwaited():
            what = f"the wait for the end of {decision.target!r}"
        case TimerStarted():
            what = f"timer {decision.timer_id} due at {decision.due_us / 1e6:.6f}"
        case TimerCancelled():
            what = f"cancellation of timer {decision.timer_id}"
        case ActivityCancelRequested():
            what = f"cancellation of activity number {decision.activity_id}"
        case PatchMarked():
            what = f"patch {decision.patch!r}"
        case SideEffectRecorded():
            what = "a side effect"
        case UpdateCompleted():
            what = f"the result of update {decision.update_id!r}"
        case UpdateFailed():
            what = f"update {decision.update_id!r} failed with {decision.failure.type}"
        case ApprovalRequested():
            what = f"approval {decision.title!r} (number {decision.approval_id})"
        case ApprovalWithdrawn():
            what = f"withdrawing approval {decision.approval_id}"
        case ItemPublished():
            what = f"item {decision.number} of output {decision.channel!r}"
        case TagsSet():
            what = f"tags {_listed(decision)}"
        case MemoSet():
            what = f"memo {_shown(decision.memo)}"
        case RunFailed():
            what = f"the workflow failed with {decision.failure.type}"
        case _:
            what = _ENDS[type(decision)]
    where: Any = getattr(decision, "where", "")
    return f"{what} at {where}" if where else what


def _listed(decision: TagsSet) -> str:
    text = ", ".join(f"{name}={value!r}" for name, value in decision.tags)
    return text if len(text) <= SHOWN_LENGTH_MAX else f"{text[:SHOWN_LENGTH_MAX]}…"


_ENDS: dict[type[Decision], str] = {
    RunCompleted: "the workflow returned a result",
    RunCancelled: "the workflow was cancelled",
    RunContinuedAsNew: "the workflow began anew (continue-as-new)",
    RunTerminated: "the workflow was terminated",
    RunTimedOut: "the workflow timed out",
}


def forgotten(coroutine: Any) -> str:
    """Which call was never awaited, and where, as far as it can be told."""
    frame = getattr(coroutine, "cr_frame", None)
    call: dict[str, Any] = frame.f_locals if frame is not None else {}
    name = getattr(
        call.get("definition"), "name", getattr(coroutine, "__qualname__", "a coroutine")
    )
    where = f" at {call['where']}" if "where" in call else ""
    return (
        f"{name}(…){where} was called and never awaited, so it did not run: write `await {name}(…)`"
    )
