"""One line of evidence for each thing that was tried.

A test or a tool that tries to break an invariant calls `record` at its end, whatever it found. The
line goes to the file that `EVERLONG_PROOF` names, so that a normal test run leaves nothing behind;
`python -m tests.proof` collects the lines into `docs/reliability.md`.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["INVARIANTS", "record"]

INVARIANTS: Final = range(1, 15)
"""By their numbers on the scoreboard."""


def record(
    part: str,
    *,
    invariants: Sequence[int],
    tried: str,
    times: int,
    broken: int,
    seconds: float,
    figures: dict[str, int | float | str] | None = None,
    reproduce: str,
) -> None:
    """Say what was tried, how often, and how often an invariant broke.

    Args:
        part: a stable name, such as "kill -9 of workers"; a later record of a part replaces it.
        invariants: which of the fourteen it tries to break.
        tried: one sentence for the reader of the scoreboard.
        times: how often, in the unit that `tried` names (kills, crash points, seeds, cuts).
        broken: how often an invariant did not hold; anything but 0 is a defect.
        seconds: how long it took.
        figures: what else was counted, by name.
        reproduce: the command that does it again.
    """
    assert set(invariants) <= set(INVARIANTS), invariants
    line = {
        "part": part,
        "invariants": sorted(invariants),
        "tried": tried,
        "times": times,
        "broken": broken,
        "seconds": round(seconds, 1),
        "figures": figures or {},
        "reproduce": reproduce,
    }
    target = os.environ.get("EVERLONG_PROOF")
    if target is not None:
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
