"""What the code asks once and is told for ever: side effects, and which way a patched run goes."""

from collections.abc import Callable
from typing import Any

from everlong._replay.ledger import Ledger
from everlong._replay.live_only import call_live
from everlong.exceptions import NondeterminismError, WorkflowFault
from everlong_engine import PatchMarked, SideEffectRecorded, pack, unpack

__all__ = ["patched", "side_effect"]


def side_effect(run: Ledger, function: Callable[[], Any], where: str) -> Any:
    run.require_live()
    if run.recorded is None:
        value = _call(run, function, where)
    else:
        number = sum(type(one) is SideEffectRecorded for one in run.made)
        made = [one for one in run.recorded if type(one) is SideEffectRecorded]
        if number >= len(made):
            run.stop_with(NondeterminismError(recorded="no side effect", made=f"one at {where}"))
        value = made[number].value
    run.made.append(SideEffectRecorded(value, where))
    return unpack(value)


def _call(run: Ledger, function: Callable[[], Any], where: str) -> bytes:
    """Only what it returns is recorded, so an exception that the code caught would be decided
    upon once and never again: it is a fault."""
    try:
        return pack(call_live(function))
    except Exception as error:
        fault = WorkflowFault(
            f"the side effect at {where} raised {type(error).__name__}: {error}. Only a plain "
            "value can be recorded; what may fail belongs in an activity"
        )
        fault.__cause__ = error
        run.stop_with(fault)


def patched(run: Ledger, known: dict[str, bool], name: str, *, deprecated: bool) -> bool:
    """Memoised per run: the first answer is recorded, and is the answer for ever.

    A deprecated one makes no new mark, and takes those that older code has made.
    """
    run.require_live()
    if name not in known:
        if run.recorded is None:
            marks, known[name] = not deprecated, True
        else:
            marks = PatchMarked(name) in run.recorded
            known[name] = marks or deprecated
        if marks:
            run.made.append(PatchMarked(name))
    return known[name]
