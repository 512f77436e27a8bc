"""The programs that simulated executions carry out, and the oracle that knows what they must do.

A program is a tuple of steps; `carry_out` is the workflow that interprets it durably. A step has a
result that follows from the program alone, however often it was interrupted, except where two
things race: there the oracle knows all results that are right. `wrong` compares a result with the
program, step by step, in plain Python that shares nothing with the engine.

Every call, side effect and clean-up has a label of its own, so that the ledger of effects can be
held against the result.
"""

# tidy: this file sleeps because workflows interpret it, and their time is the run's.
import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Any, Final, Literal, Protocol, TypeAlias, TypeGuard, assert_never

import anyio
from pydantic import Field

from everlong import (
    ActivityInfo,
    ActivityLost,
    ActivityTimeout,
    Query,
    Retry,
    Signal,
    Update,
    activity,
    all_handlers_finished,
    checkpoint,
    heartbeat,
    info,
    patched,
    side_effect,
    wait_condition,
    workflow,
)

__all__ = [
    "Broken",
    "Program",
    "Stage",
    "Step",
    "act",
    "carry_out",
    "labels_that_ran",
    "letters",
    "notes_of",
    "position",
    "random_program",
    "received_by",
    "stage",
    "wishes",
    "wrong",
]


class Broken(Exception):
    """A failure for good."""


class Flaky(Exception):
    """A failure that passes."""


class Stage(Protocol):
    """What simulated code can see of the world that it runs in."""

    def attempt_begins(self, about: ActivityInfo, label: str, once: bool) -> None: ...
    def attempt_fails(self, about: ActivityInfo) -> None: ...
    def attempt_ends(self, label: str) -> None: ...
    def version(self) -> int: ...
    def note(self) -> int: ...
    def explode(self) -> None: ...


stage: list[Stage] = []
"""The world of the seed that runs now, alone in here."""


# ------------------------------------------------------------------------------------ the steps

How: TypeAlias = Literal["plain", "once", "broken", "slow", "beats"]


@dataclass(frozen=True, slots=True)
class Act:
    """An activity. It fails `fails` times, then succeeds; or fails for good, or is too slow."""

    label: str
    seconds: float = 0.0
    fails: int = 0
    how: How = "plain"
    kind: Literal["act"] = "act"


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float
    kind: Literal["sleep"] = "sleep"


@dataclass(frozen=True, slots=True)
class Receive:
    kind: Literal["receive"] = "receive"


@dataclass(frozen=True, slots=True)
class Note:
    """A side effect."""

    label: str
    kind: Literal["note"] = "note"


@dataclass(frozen=True, slots=True)
class All:
    """Branches side by side, until all have ended."""

    how: Literal["gather", "group", "anyio"]
    branches: "tuple[Program, ...]"
    kind: Literal["all"] = "all"


@dataclass(frozen=True, slots=True)
class First:
    """Branches side by side, until one has ended; the others are cancelled."""

    branches: "tuple[Program, ...]"
    kind: Literal["first"] = "first"


@dataclass(frozen=True, slots=True)
class Within:
    """The body, for so many seconds at most."""

    how: Literal["timeout", "move_on"]
    seconds: float
    body: "Program"
    kind: Literal["within"] = "within"


@dataclass(frozen=True, slots=True)
class Repeat:
    times: int
    body: "Program"
    kind: Literal["repeat"] = "repeat"


@dataclass(frozen=True, slots=True)
class Changed:
    """Code of version 1 and of version 2, behind a patch marker."""

    name: str
    old: "Program"
    new: "Program"
    kind: Literal["changed"] = "changed"


@dataclass(frozen=True, slots=True)
class Anew:
    """A checkpoint that begins the function anew. Only among the outermost steps."""

    kind: Literal["anew"] = "anew"


@dataclass(frozen=True, slots=True)
class Bomb:
    """Kills the process that drives it."""

    kind: Literal["bomb"] = "bomb"


@dataclass(frozen=True, slots=True)
class Mistake:
    """Version 2 of the code does something else here without saying so; version 3 has mended it."""

    label: str
    kind: Literal["mistake"] = "mistake"


Step: TypeAlias = Annotated[
    Act | Sleep | Receive | Note | All | First | Within | Repeat | Changed | Anew | Bomb | Mistake,
    Field(discriminator="kind"),
]
Program: TypeAlias = tuple[Step, ...]
Result: TypeAlias = Any
"""A step's result: a text, or a list of such."""

letters: Signal[str] = Signal("simulation.letters", str)
wishes: Update[str] = Update("simulation.wishes", str)
REFUSED: Final = "no"
"""How a wish begins that its validator refuses."""
position: Query[int] = Query("simulation.position", int)


# ------------------------------------------------------------------------------- carrying it out


@activity(
    name="simulation.act",
    retry=Retry(delay=0.5, backoff=2.0, delay_max=4.0, jitter=0.1, non_retryable=(Broken,)),
    raises=[Broken, Flaky],
)
async def act(label: str, seconds: float, fails: int, how: str) -> str:
    about = info(ActivityInfo)
    stage[-1].attempt_begins(about, label, how == "once")
    if how == "beats":
        for _ in range(3):
            heartbeat(seconds)
            await asyncio.sleep(seconds / 3)
    elif seconds:
        await asyncio.sleep(seconds)
    if how == "broken":
        raise Broken(label)
    if about.attempt <= fails:
        stage[-1].attempt_fails(about)
        raise Flaky(label)
    stage[-1].attempt_ends(label)
    return f"did {label}"


_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "once": {"at_most_once": True},
    "slow": {"timeout": 1.0, "retry": Retry(max_attempts=2, delay=0.5)},
    "beats": {"heartbeat_timeout": 5.0},
}


@workflow(name="simulation.carry_out", raises=[Broken])
async def carry_out(
    program: list[Step], done: int = 0, results: list[Any] | None = None
) -> list[Any]:
    """Carry a program out, from step number `done` on; the list of results is the result."""
    results = [] if results is None else results

    @position.handler
    def _() -> int:  # pyright: ignore[reportUnusedFunction]
        return len(results)

    @wishes.handler
    async def _(wish: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return await act(f"wish {wish}", 0.3, 0, "plain")

    @wishes.validator
    def _(wish: str) -> None:  # pyright: ignore[reportUnusedFunction]
        if wish.startswith(REFUSED):
            raise ValueError(wish)

    try:
        for index in range(done, len(program)):
            step = program[index]
            if isinstance(step, Anew):
                results.append("anew")
                await checkpoint(done=index + 1, results=results)
            else:
                results.append(await _step(step))
    except asyncio.CancelledError:
        await act("cleanup", 0.2, 0, "plain")
        raise
    if len(program) % 2:  # The others leave in a hurry.
        await wait_condition(all_handlers_finished)
    return results


async def _all(program: Program) -> list[Result]:
    return [await _step(step) for step in program]


async def _step(step: Step) -> Result:
    match step:
        case Act():
            return await _act(step)
        case Sleep():
            await asyncio.sleep(step.seconds)
            return "slept"
        case Receive():
            return ["got", await letters.receive()]
        case Note():
            # Another value each time, so that one that is worked out anew is seen.
            return await side_effect(lambda: f"noted {step.label} {stage[-1].note()}")
        case All():
            return ["all", *await _side_by_side(step)]
        case First():
            return await _first(step)
        case Within():
            return await _within(step)
        case Repeat():
            return ["times", *[await _all(step.body) for _ in range(step.times)]]
        case Changed():
            return await _changed(step)
        case Bomb():
            stage[-1].explode()
            return "survived"
        case Mistake():
            if stage[-1].version() == 2:
                await asyncio.sleep(0.25)
            return await _act(Act(step.label))
        case Anew():
            raise AssertionError("a checkpoint stands among the outermost steps only")
        case _:
            assert_never(step)


async def _act(step: Act) -> Result:
    once = act.options(**_OPTIONS[step.how]) if step.how in _OPTIONS else act
    try:
        return await once(step.label, step.seconds, step.fails, step.how)
    except Broken:
        return f"broke {step.label}"
    except ActivityLost:
        return f"lost {step.label}"
    except ActivityTimeout:
        return f"late {step.label}"


async def _side_by_side(step: All) -> list[list[Result]]:
    if step.how == "gather":
        return list(await asyncio.gather(*map(_all, step.branches)))
    results: dict[int, list[Result]] = {}

    async def keep(index: int, branch: Program) -> None:
        results[index] = await _all(branch)

    if step.how == "group":
        async with asyncio.TaskGroup() as group:
            for index, branch in enumerate(step.branches):
                group.create_task(keep(index, branch))
    else:
        async with anyio.create_task_group() as tasks:
            for index, branch in enumerate(step.branches):
                tasks.start_soon(keep, index, branch)
    return [results[index] for index in range(len(step.branches))]


async def _first(step: First) -> Result:
    tasks = [asyncio.ensure_future(_all(branch)) for branch in step.branches]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    index = min(tasks.index(task) for task in done)
    return ["first", index, tasks[index].result()]


async def _within(step: Within) -> Result:
    if step.how == "timeout":
        try:
            async with asyncio.timeout(step.seconds):
                return ["in time", await _all(step.body)]
        except TimeoutError:
            return ["late"]
    with anyio.move_on_after(step.seconds):
        return ["in time", await _all(step.body)]
    return ["late"]


async def _changed(step: Changed) -> Result:
    if stage[-1].version() > 1 and patched(step.name):
        return ["new", await _all(step.new)]
    return ["old", await _all(step.old)]


# ------------------------------------------------------------------------------------ the oracle


def wrong(program: Program, results: Result) -> str | None:
    """How the results of a program that ran to its end differ from any that are right."""
    if not _several(results) or len(results) != len(program):
        return f"{len(program)} steps gave {results!r}"
    for index, step in enumerate(program):
        problem = _wrong_step(step, results[index])
        if problem is not None:
            return f"step {index}: {problem}"
    return None


def _wrong_step(step: Step, result: Result) -> str | None:
    right: tuple[str, ...]
    match step, result:
        case Act(how="once"), str():
            right = (f"did {step.label}", f"lost {step.label}")
        case Act(how="broken"), str():
            right = (f"broke {step.label}",)
        case Act(how="slow"), str():
            right = (f"late {step.label}", f"lost {step.label}")
        case Act(), _:
            right = (f"did {step.label}",)
        case Mistake(), _:
            right = (f"did {step.label}",)
        case Sleep(), _:
            right = ("slept",)
        case Note(), str() if result.startswith(f"noted {step.label} "):
            return None
        case Anew(), _:
            right = ("anew",)
        case Bomb(), _:
            right = ("survived",)  # Once it was disarmed.
        case Receive(), ["got", str()]:
            return None
        case All(), ["all", *results] if len(result) == len(step.branches) + 1:
            return _first_wrong(zip(step.branches, results, strict=True))
        case First(), ["first", int() as index, inner] if 0 <= index < len(step.branches):
            return wrong(step.branches[index], inner)
        case Within(), ["late"]:
            return None
        case Within(), ["in time", inner]:
            return wrong(step.body, inner)
        case Repeat(), ["times", *results] if len(results) == step.times:
            return _first_wrong((step.body, inner) for inner in results)
        case Changed(), ["old", inner]:
            return wrong(step.old, inner)
        case Changed(), ["new", inner]:
            return wrong(step.new, inner)
        case _:
            right = ()
    return None if result in right else f"{step} gave {result!r}"


def _several(result: Result) -> TypeGuard[list[Result]]:
    return isinstance(result, list)


def _first_wrong(pairs: Iterable[tuple[Program, Result]]) -> str | None:
    return next((problem for one in pairs if (problem := wrong(*one)) is not None), None)


def received_by(result: Result) -> list[str]:
    """The letters that a result says were received, as they stand in it."""
    if _several(result):
        if len(result) == 2 and result[0] == "got":
            return [result[1]]
        return [letter for inner in result for letter in received_by(inner)]
    return []


def notes_of(result: Result) -> list[str]:
    """The values of side effects that stand in a result."""
    if _several(result):
        return [note for inner in result for note in notes_of(inner)]
    return [result] if isinstance(result, str) and result.startswith("noted ") else []


def labels_that_ran(result: Result) -> list[str]:
    """The labels of the activities that a result says were done."""
    if _several(result):
        return [label for inner in result for label in labels_that_ran(inner)]
    if isinstance(result, str) and result.startswith("did "):
        return [result.removeprefix("did ")]
    return []


# ------------------------------------------------------------------------------------ at random


_HOW: Final[tuple[How, ...]] = ("plain", "once", "broken", "slow", "beats")


@dataclass(slots=True)
class Making:
    """Draws programs. `name` makes every label unique."""

    chance: Random
    name: str
    bombs: bool = False
    mistakes: bool = False
    _labels: int = field(default=0)

    def program(self, steps_max: int = 5) -> Program:
        steps: list[Step] = [
            Anew() if self.chance.random() < 0.12 else self._step(2)
            for _ in range(1 + self.chance.randrange(steps_max))
        ]
        if self.bombs:
            steps.insert(self.chance.randrange(len(steps) + 1), Bomb())
        if self.mistakes:
            steps.insert(self.chance.randrange(len(steps) + 1), Mistake(self._label()))
        return tuple(steps)

    def _label(self) -> str:
        self._labels += 1
        return f"{self.name}.{self._labels}"

    def _step(self, depth: int) -> Step:
        chance = self.chance
        if depth == 0 or chance.random() < 0.5:
            return self._leaf()
        inner = depth - 1
        kinds: tuple[Callable[[], Step], ...] = (
            lambda: All(chance.choice(("gather", "group", "anyio")), self._branches(inner)),
            lambda: First(self._branches(inner)),
            lambda: Within(
                chance.choice(("timeout", "move_on")), self._seconds(), self._some(inner)
            ),
            lambda: Repeat(1 + chance.randrange(3), self._some(inner)),
            lambda: Changed(self._label(), self._some(inner), self._some(inner)),
        )
        return chance.choice(kinds)()

    def _leaf(self) -> Step:
        chance = self.chance
        kind = chance.random()
        if kind < 0.6:
            how = chance.choices(_HOW, (10, 2, 1, 1, 1))[0]
            seconds = 4.0 if how == "slow" else chance.choice((0.0, 0.0, 0.1, 1.0, 3.0))
            fails = chance.choice((0, 0, 0, 0, 1, 2)) if how == "plain" else 0
            return Act(self._label(), seconds, fails, how)
        if kind < 0.8:
            return Sleep(self._seconds())
        if kind < 0.92:
            return Receive()
        return Note(self._label())

    def _some(self, depth: int) -> Program:
        return tuple(self._step(depth) for _ in range(1 + self.chance.randrange(2)))

    def _branches(self, depth: int) -> tuple[Program, ...]:
        return tuple(self._some(depth) for _ in range(2 + self.chance.randrange(2)))

    def _seconds(self) -> float:
        return self.chance.choice((0.0, 0.2, 1.0, 2.0, 5.0))


def random_program(chance: Random, name: str, *, bomb: bool, mistake: bool) -> Program:
    """A program whose labels begin with `name`."""
    return Making(chance, name, bombs=bomb, mistakes=mistake).program()
