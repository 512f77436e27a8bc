"""Programs at random.

What `Making` draws stands first; the further features of a seed are put in afterwards, each from
chance of its own, so that a seed without them stays as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final, Literal, TypeAlias

from tests.simulation.language import (
    Act,
    All,
    Anew,
    Ask,
    Bomb,
    Changed,
    Child,
    First,
    How,
    Later,
    Mistake,
    Note,
    OnCancel,
    Other,
    Program,
    Publish,
    Receive,
    Repeat,
    Sleep,
    Step,
    Within,
)

__all__ = [
    "APPROVERS",
    "CHANNELS",
    "FEATURES",
    "KIDS",
    "Feature",
    "grown",
    "in_a_hurry",
    "random_program",
    "with_last_words",
    "with_rivals",
]

Feature: TypeAlias = Literal["children", "approvals", "tokens", "outputs", "on_cancel"]
FEATURES: Final[tuple[Feature, ...]] = (
    "children",
    "approvals",
    "tokens",
    "outputs",
    "on_cancel",
)
APPROVERS: Final = ("ann", "bob")
CHANNELS: Final = ("rows", "news")
KIDS: Final = ("kid0", "kid1")
"""Workflow ids for which the children of several parents contend."""


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


def grown(
    program: Program, chance: Random, name: str, features: tuple[Feature, ...], others: list[str]
) -> Program:
    """The program with steps of further kinds put in, at any depth.

    Args:
        others: the workflow ids that there are.
    """
    return _Growing(chance, name, features, others).grow(program, 2)


def in_a_hurry(program: Program, chance: Random, name: str) -> Program:
    """With an end in which two things happen at once: one begins a child, the other is the end. So
    both are likely to be in one group of appends."""
    label = f"{name}!"
    child = Child(
        f"{label}c",
        Making(chance, f"{label}c.").program(steps_max=2),
        how=chance.choice(("call", "start", "leave")),
        on_parent_close=chance.choice(("terminate", "terminate", "cancel", "abandon")),
    )
    if chance.random() < 0.5:
        return (*program, First(((Receive(), child), (Receive(),))))
    return (*program, First(((Act(f"{label}a"), child), (Act(f"{label}b"),))))


def with_rivals(program: Program, name: str) -> Program:
    """With a beginning for which two activities contend, one of which is begun only once: if their
    worker dies, whoever takes over finds its loss, which ends the other, before that is in hand."""
    lost, other = Act(f"{name}%a", 6.0, how="once"), Act(f"{name}%b", 6.0)
    return (First(((lost,), (other,))), *program)


def with_last_words(program: Program, chance: Random, name: str) -> Program:
    """With an end that publishes, and shortly before it something else that does: who follows has
    been woken, and looks at what is there, when the last item and the end come."""
    channel = chance.choice(CHANNELS)
    pause = chance.choice((Sleep(0.001), Sleep(0.002), Act(f"{name}?a", 0.0)))
    words = (Publish(f"{name}?{n}", channel, 1 + chance.randrange(2)) for n in range(2))
    return (*program, next(words), pause, next(words))


@dataclass(slots=True)
class _Growing:
    chance: Random
    name: str
    features: tuple[Feature, ...]
    others: list[str]
    families: int = 2
    """How deep children may have children."""
    within_kid: bool = False
    """Who has an id for which others contend must not wait for one that was there before it: the
    two could wait for each other."""
    _labels: int = field(default=0)

    def grow(self, program: Program, depth: int) -> Program:
        chance = self.chance
        steps = [self._inside(step, depth) if depth else step for step in program]
        for feature in self.features:
            if chance.random() < (0.5 if depth == 2 else 0.2):
                steps.insert(chance.randrange(len(steps) + 1), self._step(feature))
        return tuple(steps)

    def _inside(self, step: Step, depth: int) -> Step:
        """With the same done to the programs that are parts of it."""
        changed: dict[str, Any] = {}
        if isinstance(step, All | First):
            changed["branches"] = tuple(self.grow(one, depth - 1) for one in step.branches)
        for part in ("body", "old", "new"):
            if hasattr(step, part):
                changed[part] = self.grow(getattr(step, part), depth - 1)
        return replace(step, **changed) if changed else step

    def _label(self) -> str:
        self._labels += 1
        return f"{self.name}+{self._labels}"

    def _step(self, feature: Feature) -> Step:
        match feature:
            case "children":
                return self._child() if self.chance.random() < 0.7 else self._other()
            case "approvals":
                return self._ask()
            case "tokens":
                return self._later()
            case "outputs":
                return Publish(
                    self._label(), self.chance.choice(CHANNELS), 1 + self.chance.randrange(3)
                )
            case "on_cancel":
                return self._cancelled()

    def _child(self) -> Child:
        chance = self.chance
        label = self._label()
        program = Making(chance, f"{label}.").program(steps_max=2)
        contended = chance.random() < 0.45
        if self.families:
            deeper = replace(
                self,
                name=f"{label}.",
                families=self.families - 1,
                within_kid=self.within_kid or contended,
                _labels=0,
            )
            program = deeper.grow(program, 1)
        if contended:  # It stays for a while, so that others find it.
            program = (*program, Sleep(5.0))
        policies: tuple[Literal["fail", "use", "terminate"], ...]
        policies = ("fail", "use", "use", "terminate")
        if self.within_kid:
            policies = ("fail", "terminate")
        return Child(
            label,
            program,
            how=chance.choice(("call", "call", "start", "leave")),
            on_parent_close=chance.choice(("terminate", "cancel", "abandon")),
            id=chance.choice(KIDS) if contended else "",
            if_open=chance.choice(policies) if contended else "fail",
            message=chance.choice(("", "letter", "cancel")),
        )

    def _ask(self) -> Ask:
        chance = self.chance
        seconds = chance.choice((None, None, 0.5, 5.0, 20.0))
        return Ask(self._label(), seconds, chance.choice(((), APPROVERS[:1], APPROVERS)))

    def _later(self) -> Step:
        chance = self.chance
        how: Literal["plain", "slow", "timed", "beats"]
        how = chance.choice(("plain", "slow", "timed", "beats"))
        on_cancel: OnCancel = chance.choice(("try", "try", "wait"))
        step = Later(self._label(), how, on_cancel)
        if chance.random() < 0.6:
            return step
        return Within("timeout", chance.choice((1.0, 4.0, 8.0)), (step,))

    def _cancelled(self) -> Step:
        """An activity that is likely to be cancelled in its middle."""
        chance = self.chance
        how: How = chance.choice(("plain", "once", "beats", "tidies", "tidies", "stubborn"))
        on_cancel: OnCancel = chance.choice(("wait", "wait", "abandon", "try"))
        seconds = chance.choice((0.0, 0.5, 1.0, 2.0))
        fails = chance.choice((0, 0, 0, 1)) if how == "plain" else 0
        step = Act(self._label(), seconds, fails, how, on_cancel)
        if chance.random() < 0.5:
            wait = chance.choice((0.2, 0.5, 1.0))
            return Within(chance.choice(("timeout", "move_on")), wait, (step,))
        return First(((step,), (self._rival(),)))

    def _rival(self) -> Step:
        """What may win against it: an activity of the same length, most of all."""
        chance = self.chance
        if chance.random() < 0.5:
            return Act(self._label(), chance.choice((0.0, 0.5, 1.0)))
        return Receive() if chance.random() < 0.3 else Sleep(chance.choice((0.0, 0.5, 1.0)))

    def _other(self) -> Other:
        chance = self.chance
        others = self.others if self.within_kid else [*self.others, *KIDS]
        target = chance.choice([one for one in others if one != self.name])
        kinds: tuple[Literal["letter", "cancel", "end"], ...] = ("letter", "cancel", "end")
        return Other(self._label(), target, chance.choices(kinds, (5, 1, 4))[0])
