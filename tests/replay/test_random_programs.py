"""Random programs under a random order of outcomes: the live run and its replay are one.

For each history that a program writes:

1. replay makes the recorded decisions at every prefix, and stands there as the live run stood: the
   same trace, the same open activities and timers, the same source of chance;
2. a run that is resumed behind any prefix and fed the remaining inputs decides as the first one;
3. a changed program is accepted if, and only if, it decides the same on every recorded input; the
   fault names an event of the first pair where it does not;
4. queries and validators change nothing, whatever they do;
5. a change behind `patched` is always accepted by histories from before it.
"""

import itertools
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from random import Random
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msgspec.structs import replace

from everlong import EverlongError, NondeterminismError, QueryFailed, WorkflowFault
from everlong._failures import ExceptionRegistry, encode_exception
from everlong._replay.history import replay
from everlong._replay.run import WorkflowRun
from everlong_engine import (
    DECISIONS,
    INPUTS,
    ActivityCancelled,
    ActivityLost,
    ActivityScheduled,
    ActivityTimedOut,
    ApprovalAnswered,
    ChildCancelRequested,
    ChildClosed,
    ChildScheduled,
    ChildStarted,
    ChildStartFailed,
    Event,
    ExternalAnswered,
    ExternalAwaited,
    ExternalCancelSent,
    Recorded,
    RunCancelled,
    RunContinuedAsNew,
    RunFailed,
    RunTerminated,
    RunTimedOut,
    SideEffectRecorded,
    SignalRejected,
    TimerStarted,
    UpdateFailed,
    UpdateReceived,
    encode_event,
    id_from_text,
    limits,
    pack,
)
from tests.proof.tally import Tally
from tests.support import programs
from tests.support.programs import (
    Broken,
    Patched,
    Program,
    changed,
    outcome_of,
    play,
    random_program,
)
from tests.support.run_by_hand import RunByHand, discard_all, new_code, pairs, replayed, started

INPUTS_MAX = 60
NEVER = 10**9

# The first kind shrinks to a small program, the second finds large ones sooner.
randoms = st.one_of(st.randoms(use_true_random=False), st.builds(Random, st.integers(0, 2**32 - 1)))
quickly = settings(
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


ENDS = ("ok", "ok", "fail")


@contextmanager
def world(checkpoint_events: int = 5) -> Generator[None, None, None]:
    """Where a checkpoint soon begins anew, and each look outside shows something else."""
    seen = itertools.count()

    def look(label: str) -> str:
        return f"saw {label} {next(seen)}"

    with (
        mock.patch.object(limits, "CHECKPOINT_EVENTS", checkpoint_events),
        mock.patch.object(programs, "look", [look]),
    ):
        try:
            yield
        finally:
            discard_all()


@pytest.fixture(name="tally", scope="module")
def tally_of_this_file() -> Generator[Tally]:
    tally = Tally()
    yield tally
    tally.record(
        "questions to random programs",
        invariants=[10],
        tried="random programs asked and judged at every prefix, beside a run that nobody asks",
        reproduce="make test ARGS='-k change_nothing'",
    )


def live(
    program: Program, source: Random, *, patience: bool = False
) -> tuple[RunByHand, list[Any]]:
    """The run at its end, or where nothing can happen any more, and how it stood at each pair.

    With patience, every other run waits for each activity that it cancels. Replays are not told: it
    is recorded.
    """
    perform = programs.perform
    if patience and source.randrange(2):
        perform = perform.options(on_cancel="wait")
    with mock.patch.object(programs, "perform", perform):
        return _live(program, source)


def _live(program: Program, source: Random) -> tuple[RunByHand, list[Any]]:
    run = RunByHand(play, list(program))
    stood = [standing(run.code)]
    signals, updates = 3, 2
    while run.closing is None and len(stood) < INPUTS_MAX:
        choices = [number for number in run.open_activities if not hangs(run, number)]
        choices += [-3] * bool(run.state.approvals) + [-4] * bool(run.others)
        choices += [0] * bool(run.pending_timers) + [-1] * bool(signals) + [-2] * bool(updates)
        may_cancel = not run.state.cancel_requested
        if may_cancel and (not choices or source.randrange(25) == 24):
            run.cancel()
        elif not choices:
            break
        elif (chosen := choices[source.randrange(len(choices))]) == 0:
            run.fire_next()
        elif chosen == -1:
            signals -= 1
            run.signal("programs.news", str(signals))
        elif chosen == -3:
            number = min(run.state.approvals)
            by = source.choice(("ann", "bob"))
            run.feed(ApprovalAnswered(number, bytes(16), by == "ann", by, pack(""), run.now_us))
        elif chosen == -4:
            hear(run, source.choice(run.others), source.randrange(6))
        elif chosen == -2:
            updates -= 1
            run.update(f"u{updates}", "programs.amend", f"u{updates}", source.choice(ENDS))
        else:
            finish(run, chosen, source.randrange(12))
        run.now_us += source.randrange(3) * 250_000
        stood.append(standing(run.code))
    return run, stood


def hear(run: RunByHand, of: Any, chance: int) -> None:
    """Something of a child or of another execution, as the store would tell it."""
    here = run.code.run_id
    by = id_from_text(here)
    match of:
        case ChildScheduled(wants_start=True) if chance < 2:
            run.feed(ChildStartFailed(of.child_id, by, "running"))
        case ChildScheduled(wants_start=True):
            run.feed(ChildStarted(of.child_id, by, bytes(16)))
        case ChildScheduled() | ChildStarted():
            run.feed(end_of(of.child_id, by, chance))
        case ExternalAwaited() if chance:
            run.feed(end_of(of.call_id, by, chance))
        case _:
            problem = ("not_found", "completed", "", "", "", "")[chance]
            run.feed(ExternalAnswered(of.call_id, by, problem))


def end_of(number: int, by: bytes, chance: int) -> ChildClosed:
    if chance == 1:
        return ChildClosed(number, by, "terminated", reason="enough")
    if chance == 2:
        failure = encode_exception(Broken("offspring"), ExceptionRegistry())
        return ChildClosed(number, by, "failed", failure=failure)
    return ChildClosed(number, by, "completed", pack("grew up"))


def hangs(run: RunByHand, number: int) -> bool:
    may_end = run.state.activities[number].cancel_requested
    return bool(run.arguments(number)["outcome"] == "hang") and not may_end


def finish(run: RunByHand, number: int, chance: int) -> None:
    if run.state.activities[number].cancel_requested:
        run.feed(ActivityCancelled(number, "stopped", 1))
        return
    if chance == 10:
        run.feed(ActivityTimedOut(number, "start_to_close", 1))
        return
    if chance == 11:
        run.feed(ActivityLost(number, 1))
        return
    result = outcome_of(**run.arguments(number))
    if isinstance(result, Broken):
        run.fail(number, result)
    else:
        run.complete(number, result)


def standing(code: WorkflowRun) -> Any:
    """Everything by which two runs of one program could differ."""
    numbers = range(1, 200)
    return (
        trace(code),
        list(filter(code.is_open, numbers)),
        list(filter(code.is_pending, numbers)),
        code.approvals.numbers,
        code.random.getstate(),
        code.now_us,
        code.closed,
        [repr(task) for task in code.loop.tasks if not task.done()],
    )


def trace(code: WorkflowRun) -> str:
    return repr(code.answer("programs.so_far", b"\x92\x90\x80"))


# ------------------------------------------------------------------------------------- 1 and 2


@quickly
@given(randoms)
def test_replay_stands_at_every_prefix_where_the_live_run_stood(source: Random) -> None:
    with world():
        run, stood = live(random_program(source), source, patience=True)
        programs.look.append(nobody_looks)
        ends = list(pairs(run.history))
        assert len(ends) == len(stood)
        for end, expected in zip(ends, stood, strict=True):
            code = replayed(play, run.history[:end])
            assert standing(code) == expected
            code.discard()


def nobody_looks(label: str) -> str:
    raise AssertionError(f"a replay looked outside: {label}")


@quickly
@given(randoms)
def test_feeding_goes_on_from_any_prefix_as_it_did(source: Random) -> None:
    with world():
        programs.look.append(str.upper)  # What is looked at again must look the same.
        run, stood = live(random_program(source), source)
        ends = list(pairs(run.history))
        for begin in range(0, len(ends), max(1, len(ends) // 4)):
            again = RunByHand.resumed(play, run.history[: ends[begin]])
            for end in ends[begin:-1]:
                again.feed(run.history[end].event, run.history[end].at_us)  # type: ignore[arg-type]
            assert bare(again.history) == bare(run.history)
            assert standing(again.code)[:-3] == stood[-1][:-3]


def bare(history: Sequence[Recorded]) -> list[tuple[int, int, int, bytes]]:
    """A history as bytes, without tracebacks, which name lines of this file."""
    rows: list[tuple[int, int, int, bytes]] = []
    for one in history:
        event = one.event
        if isinstance(event, RunFailed | UpdateFailed):
            event = replace(event, failure=replace(event.failure, traceback="", data=b""))
        kind, body = encode_event(event, {})
        rows.append((one.seq, one.at_us, kind, body))
    return rows


# ------------------------------------------------------------------------------------------- 3


def identity(event: Event) -> tuple[object, ...]:
    """What a decision is known by, said independently of `everlong._replay.matching`."""
    match event:
        case ActivityScheduled():
            return "activity", event.activity_id, event.activity, event.arguments
        case TimerStarted():
            return "timer", event.timer_id, event.due_us
        case SideEffectRecorded():
            return ("side effect",)
        case RunFailed():
            return "failed", event.failure.type
        case UpdateFailed():
            return "update failed", event.update_id, event.failure.type
        case RunCancelled():
            return ("cancelled",)
        case ChildCancelRequested():
            return "child cancelled", event.child_id, event.target  # Why is told in words.
        case ExternalCancelSent():
            return "cancel", event.call_id, event.target, event.execution
        case RunContinuedAsNew():
            return "anew", event.arguments, event.checkpoints
        case _:
            return type(event).__name__, encode_event(event, {})


# Patches and thresholds answer from the record on replay, and anew in the live run that is the
# measure here, so programs have none of them.


def first_difference(program: Program, history: Sequence[Recorded]) -> int | None:
    """The end of the first pair in which a program, fed live, decides otherwise; None: nowhere."""
    code = new_code(play)
    at = 0
    for end in pairs(history):
        code.history_events = at
        event: Any = history[at].event
        recorded = [identity(one.event) for one in history[at + 1 : end]]
        try:
            made = code.feed(event, history[at].at_us)
        except WorkflowFault:
            return end
        if [identity(one) for one in made] != recorded:
            return end
        at = end
    return None


@settings(quickly, max_examples=300)
@given(randoms)
def test_a_changed_program_is_found_where_its_decisions_differ(source: Random) -> None:
    with world(NEVER):
        programs.look.append(lambda _: "always the same")
        program = random_program(source, patches=False)
        run, _ = live(program, source)
        other = changed(program, source)
        begun = started(play, list(other))
        history = [replace(run.history[0], event=begun), *run.history[1:]]
        differs = first_difference(other, history)
        code = new_code(play)
        if differs is None:
            replay(code, history)
            return
        with pytest.raises(WorkflowFault) as caught:
            replay(code, history)
        if isinstance(caught.value, NondeterminismError) and caught.value.seq is not None:
            begin = max((end for end in pairs(history) if end < differs), default=0)
            assert begin < caught.value.seq <= differs + 1


def test_the_changes_are_really_found_and_really_harmless_at_times() -> None:
    """So that the test above cannot pass by never meeting one of its cases."""
    verdicts = {True: 0, False: 0}
    with world(NEVER):
        programs.look.append(lambda _: "always the same")
        for seed in range(60):
            source = Random(seed)
            program = random_program(source, patches=False)
            run, _ = live(program, source)
            other = changed(program, source)
            begun = replace(run.history[0], event=started(play, list(other)))
            verdicts[first_difference(other, [begun, *run.history[1:]]) is None] += 1
    assert min(verdicts.values()) >= 10, verdicts


# ------------------------------------------------------------------------------------------- 4


@quickly
@given(randoms)
def test_questions_and_judgements_change_nothing(tally: Tally, source: Random) -> None:
    """Asked at every prefix, also in a way that raises, beside a run that nobody asks anything."""
    with tally.trying(), world():
        programs.look.append(str.upper)  # Looked at twice, it must look the same.
        run, _ = live(random_program(source), source)
        history, ends = run.history, list(pairs(run.history))
        silent, asked = (RunByHand.resumed(play, history[: ends[0]]) for _ in range(2))
        for at in ends[:-1]:
            for _ in range(source.randrange(4)):
                question(asked.code, source)
            for one in (silent, asked):
                one.feed(history[at].event, history[at].at_us)  # type: ignore[arg-type]
            assert standing(asked.code) == standing(silent.code)
        assert bare(asked.history) == bare(silent.history) == bare(history)


_CALLS: list[list[Any]] = [[[], {}], [["x", "ok"], {}], [[1, 2, 3], {}]]
_NO_ARGUMENTS, _FITTING, _UNFIT = map(pack, _CALLS)


def question(code: WorkflowRun, source: Random) -> None:
    match source.randrange(4):
        case 0:
            trace(code)
        case 1:
            with suppress(QueryFailed):
                code.answer("programs.unknown", _NO_ARGUMENTS)
        case 2:
            code.updates.judge(UpdateReceived("j", "programs.amend", _FITTING))
        case _:
            with suppress(EverlongError):
                code.updates.judge(UpdateReceived("j", "programs.amend", _UNFIT))


# ------------------------------------------------------------------------------------------- 5


@quickly
@given(randoms)
def test_a_change_behind_patched_is_accepted_by_older_histories(source: Random) -> None:
    with world():
        # A checkpoint would have the program itself among its arguments.
        program = random_program(source, patches=False, checkpoints=False)
        run, stood = live(program, source)
        new = random_program(source, patches=False, checkpoints=False)
        other = changed(program, source, lambda step: (Patched("change", new, (step,)),))
        history = [
            replace(run.history[0], event=started(play, list(other))),
            *run.history[1:],
        ]
        code = replayed(play, history)
        assert standing(code) == stood[-1]


# -------------------------------------------------------------------------- in other processes


def digest(seeds: Sequence[int]) -> str:
    """One digest over the histories of many programs, which any process must come to."""
    total = sha256()
    for seed in seeds:
        with world():
            source = Random(seed)
            run, stood = live(random_program(source), source)
            total.update(repr([bare(run.history), stood]).encode())
    return total.hexdigest()


def test_histories_come_to_every_kind_of_event() -> None:
    """Of those that code can meet or make; the others come from outside at any time."""
    met: set[type[Event]] = {SignalRejected, RunTerminated, RunTimedOut}
    with world():
        for seed in range(150):
            source = Random(seed)
            run, _ = live(random_program(source), source, patience=True)
            met |= {type(one.event) for one in run.history}
    assert {kind.__name__ for kind in (INPUTS | DECISIONS) - met} == set()
