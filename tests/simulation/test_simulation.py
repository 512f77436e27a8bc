"""Six hundred seeds and a few planted defects with every change; `make soak` runs many more."""

import inspect
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.batch import run_seeds
from tests.simulation.hunt import hunt_all
from tests.simulation.mutants import MUTANTS
from tests.simulation.plan import draw
from tests.simulation.planting import Edit, Mutant, planted
from tests.simulation.seed import Verdict
from tests.simulation.shrink import shrink

_ROOT = Path(__file__).resolve().parents[2]
_SEEDS = range(600)
_PLANTED = (
    "an append needs no lease",
    "the tasks of who is dead stay with the dead",
    "effects begin before their commit",
    "a request id is not looked for",
    "an activity that begins at most once is repeated",
    "a checkpoint begins anew with the old arguments",
    "a child that should end with its parent lives on",
    "an attempt that is over is answered",
    "who waits for the end of an attempt goes on before",
    "what is paused is appended to",
    "what begins with the first drive of a run knows of no pin",
    "a reset keeps what was done behind its point",
    "signals behind the point of a reset are lost",
    "a batch is acknowledged before its commit",
    "how far a stream was read does not go with a run that begins anew",
)


@pytest.mark.timeout(300)
def test_no_seed_breaks_an_invariant_and_all_faults_are_met() -> None:
    batch = run_seeds(_SEEDS, os.cpu_count() or 1)
    broken = [f"seed {one.plan.seed}: {one.broken}" for one in batch.broken]
    assert broken == []
    assert batch.never_reached == []
    assert batch.counters["completed"] > len(_SEEDS)
    assert batch.accepted > 18 * len(_SEEDS)


@pytest.mark.timeout(300)
def test_planted_defects_are_found() -> None:
    chosen = [mutant for mutant in MUTANTS if mutant.name in _PLANTED]
    assert len(chosen) == len(_PLANTED)
    for kill in hunt_all(chosen, range(200), os.cpu_count() or 1):
        assert kill.seed is not None, f"not found: {kill.mutant}"


def test_every_defect_can_be_planted_and_is_gone_afterwards() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) > 20
    for mutant in MUTANTS:
        places = [edit.where for edit in mutant.edits if not isinstance(edit.where, str)]
        functions: list[Any] = [inspect.unwrap(place) for place in places]
        before = [function.__code__ for function in functions]
        with planted(mutant):
            assert all(
                function.__code__ is not code
                for function, code in zip(functions, before, strict=True)
            )
        assert [function.__code__ for function in functions] == before


def test_a_defect_whose_text_is_gone_is_refused() -> None:
    stale = Mutant("stale", (Edit("check_lease", "no such text", ""),))
    with pytest.raises(LookupError, match="no longer says 'no such text'"), planted(stale):
        pass


def _shrunk(name: str, seed: int) -> Verdict:
    with planted(next(mutant for mutant in MUTANTS if mutant.name == name)):
        return shrink(draw(seed, "sqlite"))


@pytest.mark.timeout(120)
def test_a_failure_is_made_small() -> None:
    """In a process of its own, as all that simulates."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        small = pool.submit(_shrunk, "one attempt more than allowed", 1).result()
    assert small.broken
    (errand,) = (one for errands in small.plan.errands for one in errands)
    assert errand.what == "start"
    program = small.plan.programs[errand.workflow_id]
    assert len(program) == 1
    assert small.plan.mishaps == ()
    assert len(small.trace) < 100


def _simulated(seed: int, hash_seed: str) -> str:
    """What one seed prints in a process of its own; it fails when a rule was broken."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", str(seed)],
        cwd=_ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


# Seeds that break a rule without the fix that they led to, and what they found: 37 appends refused
# that were stored; 63 a claim whose answer was lost; 715 an attempt that is called off; 1635 a
# start that is over at once, beside an open execution; 1739 an outcome that is fed while its run is
# loaded; 18 and 44 what begins with the first drive of a pinned run, a child or the next run, and
# knew nothing of the pin. The others have children, approvals, tokens, outputs and cancellations.
@pytest.mark.parametrize("seed", [18, 37, 44, 63, 715, 1635, 1739, 4280, 9296])
def test_a_seed_is_right_and_the_same_whatever_the_hash_seed(seed: int) -> None:
    assert _simulated(seed, "1") == _simulated(seed, "2")
