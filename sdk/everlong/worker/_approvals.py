"""What an append says of approvals, and which mail goes first when one of them was answered.

An accepted answer is never lost to a timer or a cancellation that the code sees first: the append
that would withdraw the approval is refused, and the run is driven again with its answers in front.
"""

from collections.abc import Sequence

from everlong.worker._owned import Incoming, OwnedRun, Step
from everlong_engine import (
    CLOSING,
    ApprovalAnswered,
    ApprovalRequested,
    Approvals,
    ApprovalWithdrawn,
    Decision,
    Input,
)

__all__ = ["answers_first", "approvals_of", "approvals_to_close", "withdraws"]


def approvals_of(
    run: OwnedRun, event: Input, decisions: Sequence[Decision], base: int, *, ends: bool
) -> Approvals | None:
    """What becomes of approvals with the decisions behind the input at `base`.

    Answers are fed in the order in which they were accepted. So the first one may well make the
    code lose interest in another that has been answered since: two would refuse each other for
    ever.
    """
    requested = tuple(
        (decision.approval_id, seq)
        for seq, decision in enumerate(decisions, base + 1)
        if type(decision) is ApprovalRequested
    )
    withdrawn = tuple(one.approval_id for one in decisions if type(one) is ApprovalWithdrawn)
    if ends:
        withdrawn += run.code.approvals.numbers
    if not requested and not withdrawn:
        return None
    return Approvals(requested, withdrawn, forced=type(event) is ApprovalAnswered)


def approvals_to_close(run: OwnedRun) -> Approvals | None:
    """The run is closed by its time limit, whatever it waits for."""
    if not run.code.asks_people:
        return None
    approvals = run.code.approvals
    return Approvals((), approvals.numbers, forced=True) if approvals else None


def withdraws(step: Step) -> bool:
    """Whether an append may have been refused because an approval was answered."""
    return any(type(one) is ApprovalWithdrawn or type(one) in CLOSING for one in step.decisions)


def answers_first(mail: list[Incoming]) -> None:
    """Whatever else waits, an answer that was accepted is fed before it."""
    mail.sort(key=lambda one: not isinstance(one.event, ApprovalAnswered))
