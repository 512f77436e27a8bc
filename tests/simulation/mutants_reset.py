"""Defects in how a run begins that repeats another one."""

from typing import Final

from everlong.client import _reset_plan, _resetting
from everlong_engine.machine import points
from everlong_engine.store.sqlite import resets
from tests.simulation.planting import Edit, Mutant, mutant

__all__ = ["RESETS"]

RESETS: Final[tuple[Mutant, ...]] = (
    # ------------------------------------------------------------------------------- what is kept
    mutant(
        "a reset keeps what was done behind its point",
        Edit(points._at, "return Point(number, None)", "return Point(last, None)"),  # pyright: ignore[reportPrivateUsage]
    ),
    mutant(
        "the input at the point of a reset is not fed again",
        Edit(points._kept, "Point(number - 1, number)", "Point(number - 1, None)"),  # pyright: ignore[reportPrivateUsage]
    ),
    mutant(
        "an activity that is open at the point of a reset has begun there",
        Edit(_reset_plan._copy, "replace(event, began=False)", "event"),  # pyright: ignore[reportPrivateUsage]
    ),
    mutant(
        "signals behind the point of a reset are lost",
        Edit(
            _reset_plan._keep,  # pyright: ignore[reportPrivateUsage]
            'if kept or "signals" in this.wanted.reapply:',
            "if kept:",
        ),
    ),
    mutant(
        "what lies in the inbox when a reset comes is lost",
        Edit(
            resets._unfed,  # pyright: ignore[reportPrivateUsage]
            "one.kind in wanted and one.position not in reset.dropped",
            "False",
        ),
    ),
    mutant(
        "who resets does not look at what was said meanwhile",
        Edit("message_behind", "seq >= ?", "seq > 1000000000 + ?"),
    ),
    # ---------------------------------------------------------------------------------- two runs
    mutant(
        "a request resets as often as it is sent",
        Edit(_resetting._known, "found is None or found[1] is None", "True"),  # pyright: ignore[reportPrivateUsage]
        Edit(resets._known, "if reset.request_id is None:", "if not reset.is_fork:"),  # pyright: ignore[reportPrivateUsage]
        Edit(resets.reset_run, 'SQL["insert_request"]', 'SQL["put_request"]'),
    ),
    mutant(
        "nobody is told to drive what a reset has begun",
        Edit(
            resets._begin,  # pyright: ignore[reportPrivateUsage]
            "len(rows) + 1, 0, None, reset.now_us, None",
            "len(rows) + 1, 0, None, None, None",
        ),
    ),
    # ------------------------------------------------------------------------------------- others
    mutant(
        "who waits at the point of a reset waits for nobody",
        Edit(resets.reset_run, "_reunite(tx, reset, created, one)", "pass"),
    ),
    mutant(
        "the end of a cancelled child that is waited for is forgotten by a reset",
        Edit(points.waiting_at, 'call.on_cancel != "wait"', "True"),
    ),
)
