"""Random histories against changed code: what differs in them is found, and nothing else is.

A program stands for code: it is changed, the history is not. Whether the changed one decides
otherwise within the history is told by feeding it live (`first_difference`), independently of
replay. `EVERLONG_CODE_CHANGES=1000` is the full length; `make soak` and `make proof` run it.
"""

import os
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from random import Random
from typing import Final

import pytest
from msgspec.structs import replace

from everlong import NondeterminismError, WorkflowFault
from everlong._replay.history import replay
from everlong_engine import Recorded
from tests.proof.tally import Tally
from tests.replay.test_random_programs import NEVER, first_difference, live, world
from tests.support import programs
from tests.support.programs import Call, Program, Repeat, changed, play, random_program
from tests.support.run_by_hand import new_code, pairs, replayed, started

HISTORIES: Final = int(os.environ.get("EVERLONG_CODE_CHANGES", "40"))
NEW: Final = Call("new")

Mutation = Callable[[Program, Random], Program]


def reordered(program: Program, source: Random) -> Program:
    """Two neighbours have changed their places."""
    if len(program) < 2:
        return (*program, NEW)
    at = source.randrange(len(program) - 1)
    return (*program[:at], program[at + 1], program[at], *program[at + 2 :])


def other_step(program: Program, source: Random) -> Program:
    return changed(program, source, lambda _: (NEW,))


def removed(program: Program, source: Random) -> Program:
    return changed(program, source, lambda _: ())


def added(program: Program, source: Random) -> Program:
    return changed(program, source, lambda step: (NEW, step))


MUTATIONS: Final[dict[str, Mutation]] = {
    "changed": other_step,
    "removed": removed,
    "added": added,
    "reordered": reordered,
}


def under(program: Program, history: Sequence[Recorded]) -> list[Recorded]:
    """The history as one of this code: what it began with names the program."""
    return [replace(history[0], event=started(play, list(program))), *history[1:]]


def found_at(program: Program, history: Sequence[Recorded]) -> int | None:
    """How many events stand before the pair where replay refuses the code; None: nowhere."""
    code = new_code(play)
    fault: WorkflowFault | None = None
    try:
        replay(code, history)
    except WorkflowFault as caught:
        fault = caught
    finally:
        code.discard()
    if fault is None:
        return None
    begin = code.history_events
    if isinstance(fault, NondeterminismError) and fault.seq is not None:
        end = next(one for one in pairs(history) if one > begin)
        # One more is named where the code decides more than is recorded.
        assert begin < fault.seq <= end + 1
    return begin


@pytest.fixture(name="tally", scope="module")
def tally_of_this_file() -> Generator[Tally]:
    tally = Tally()
    yield tally
    tally.record(
        "histories against changed code",
        invariants=[7],
        tried="a history replayed against code in which a step was changed, removed, added or "
        "moved, which must be found, or that is equivalent within it, which must pass",
        reproduce="EVERLONG_CODE_CHANGES=1000 pytest tests/replay/test_changed_code.py",
    )


@pytest.mark.timeout(3600)
def test_a_step_that_differs_within_the_history_is_found_each_time(tally: Tally) -> None:
    verdicts: Counter[tuple[str, bool]] = Counter()
    for seed in range(HISTORIES):
        with world(NEVER):
            programs.look.append(lambda _: "always the same")
            source = Random(seed)
            program = random_program(source, patches=False)
            run, _ = live(program, source)
            for name, mutation in MUTATIONS.items():
                other = mutation(program, source)
                history = under(other, run.history)
                end = first_difference(other, history)
                with tally.trying("the same" if end is None else name):
                    begin = found_at(other, history)
                    assert (begin is None) is (end is None), (seed, name)
                    if begin is not None and end is not None:
                        behind = [one for one in pairs(history) if one > begin]
                        assert end in behind[:1], (seed, name)
                verdicts[name, end is None] += 1
    for name in MUTATIONS:
        assert min(verdicts[name, True], verdicts[name, False]) >= HISTORIES / 20, verdicts


@pytest.mark.timeout(3600)
def test_an_equivalent_refactoring_is_never_refused(tally: Tally) -> None:
    for seed in range(HISTORIES):
        with world(NEVER):
            source = Random(seed)
            program = random_program(source, patches=False, checkpoints=False)
            run, stood = live(program, source)
            other = changed(program, source, lambda step: (Repeat(1, (step,)),))
            with tally.trying("refactored"):
                code = replayed(play, under(other, run.history))
                assert code.closed == (run.closing is not None), seed
                assert repr(code.answer("programs.so_far", b"\x92\x90\x80")) == stood[-1][0], seed


@pytest.mark.timeout(3600)
def test_a_change_behind_the_end_of_the_history_is_never_refused(tally: Tally) -> None:
    behind = 0
    for seed in range(HISTORIES):
        with world(NEVER):
            source = Random(seed)
            program = random_program(source, patches=False, checkpoints=False)
            run, _ = live(program, source)
            ends = list(pairs(run.history))
            for end in ends if run.closing is None else ends[:-1]:
                other = (*program, NEW)
                with tally.trying("behind the end"):
                    replayed(play, under(other, run.history[:end])).discard()
                behind += 1
    assert behind >= HISTORIES
