"""What `make proof` runs: one line a part.

A part is a command that calls `tests.proof.record.record` for each thing that it tried. To add one,
add a line. `{python}` is this interpreter and `{seeds}` the number of simulated seeds.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from typing import Final

__all__ = ["FULL", "MUTANTS", "PARTS", "Part"]

FULL: Final = (("EVERLONG_CHAOS", "full"),)
MUTANTS: Final = "mutants"
"""The part whose figures are a planted bug each: its name, and what found it."""

_PYTEST: Final = "{python} -m pytest -q -p no:cacheprovider"


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    invariants: tuple[int, ...]
    """What it tries to break: said on the page, too, where the part has not run."""
    full: str
    quick: str | None = None
    """With less of everything; None where `full` is short anyway."""
    environment: tuple[tuple[str, str], ...] = ()
    """For the full length."""

    def command(self, *, quick: bool) -> list[str]:
        text = (self.quick or self.full) if quick else self.full
        seeds = os.environ.get("EVERLONG_SOAK_SEEDS", "20000")
        return shlex.split(text.format(python=sys.executable, seeds=seeds))


# fmt: off
PARTS: Final = (
    Part("chaos", (1, 2, 3, 4, 5, 6, 8, 13, 14),
         f"{_PYTEST} tests/chaos -m chaos --timeout=7200", environment=FULL),
    Part("simulation", (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14),
         "{python} -m tests.simulation --seeds {seeds} --workers 2",
         "{python} -m tests.simulation --seeds 200 --workers 2"),
    Part(MUTANTS, (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14),
         "{python} -m tests.simulation --mutants"),
    Part("hostile", (7, 13, 14),
         f"{_PYTEST} tests/hostile tests/fuzz/test_command_line.py --timeout=7200",
         environment=FULL),
    Part("fuzz", (13,),
         "{python} -m tests.fuzz --seconds 120",
         "{python} -m tests.fuzz --seconds 5"),
    Part("questions", (10,),
         f"{_PYTEST} tests/replay/test_random_programs.py -k change_nothing"),
    Part("changes", (7,), f"{_PYTEST} tests/replay/test_changed_code.py",
         environment=(("EVERLONG_CODE_CHANGES", "1000"),)),
    Part("uncached", (7,), f"{_PYTEST} tests/acceptance",
         environment=(("EVERLONG_HARDER", "cache-off"),)),
    Part("prefixes", (7,), f"{_PYTEST} tests/acceptance",
         environment=(("EVERLONG_HARDER", "every-prefix"),)),
    Part("upgrades", (1, 2, 7),
         f"{_PYTEST} tests/stores tests/histories"),
)
# fmt: on
