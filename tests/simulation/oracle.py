"""What may come of a program, in plain Python that shares nothing with the engine."""

from collections.abc import Iterable, Iterator
from typing import Final, TypeGuard

from tests.simulation.language import (
    Act,
    All,
    Anew,
    Ask,
    Bomb,
    Changed,
    Child,
    First,
    Later,
    Mistake,
    Note,
    Other,
    Program,
    Publish,
    Receive,
    Repeat,
    Result,
    Sleep,
    Step,
    Within,
)

__all__ = [
    "answers_of",
    "items_of",
    "labels_that_ran",
    "notes_of",
    "received_by",
    "verdicts_of",
    "wrong",
]

_ENDS: Final = ("WorkflowCancelled", "WorkflowTerminated", "WorkflowClosed")


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
        case Ask() | Later() | Publish(), _:
            return _wrong_answer(step, result)
        case Child(), _:
            return _wrong_child(step, result)
        case Other(what="end"), _:
            right = ("waited",)
            if _is_end(result, (*_ENDS, "WorkflowNotFound")):
                return None
        case Other(), _:
            right = (f"sent {step.label}",)
            if result in (["end", "WorkflowClosed"], ["end", "WorkflowNotFound"]):
                return None
        case _:
            right = ()
    return None if result in right else f"{step} gave {result!r}"


def _wrong_answer(step: Ask | Later | Publish, result: Result) -> str | None:
    match step, result:
        case Ask(), ["verdict", str() as label, bool(), str() as by, str()]:
            right = label == step.label and (not step.approvers or by in step.approvers)
        case Ask(), _:
            right = result == "unanswered" and step.seconds is not None
        case Later(), ["answered", str() as label, str()]:
            right = label == step.label
        case Later(), _:
            limited = step.how in ("timed", "beats")
            right = limited and result in (f"late {step.label}", f"lost {step.label}")
        case Publish(), ["published", str() as channel, inner] if _several(inner):
            texts = [f"{step.label}:{n}" for n in range(step.count)]
            right = channel == step.channel and [one[1] for one in inner] == texts
        case _:
            right = False
    return None if right else f"{step} gave {result!r}"


def _wrong_child(step: Child, result: Result) -> str | None:
    right: tuple[str, ...] = ("left",) if step.how == "leave" else ()
    if step.id:
        right += ("taken", "its own")
    match result:
        case str() if result in right:
            return None
        case ["child", str() as end] if end in _ENDS:
            return None
        case ["child", [*inner]] if step.how != "leave":
            # One that was there before may have had another program.
            return None if step.if_open == "use" else wrong(step.program, inner)
        case _:
            return f"{step} gave {result!r}"


def _is_end(result: Result, ends: tuple[str, ...]) -> bool:
    match result:
        case ["end", str() as end]:
            return end in ends
        case ["end", list()]:
            return True
        case _:
            return False


def _several(result: Result) -> TypeGuard[list[Result]]:
    return isinstance(result, list)


def _first_wrong(pairs: Iterable[tuple[Program, Result]]) -> str | None:
    return next((problem for one in pairs if (problem := wrong(*one)) is not None), None)


def received_by(result: Result) -> list[str]:
    """The letters that a result says were received, as they stand in it."""
    return [one[1] for one in _parts(result) if _several(one) and len(one) == 2 and one[0] == "got"]


def notes_of(result: Result) -> list[str]:
    """The values of side effects that stand in a result."""
    return [one for one in _parts(result) if isinstance(one, str) and one.startswith("noted ")]


def labels_that_ran(result: Result) -> list[str]:
    """The labels of the activities that a result says were done."""
    return [
        one.removeprefix("did ")
        for one in _parts(result)
        if isinstance(one, str) and one.startswith("did ")
    ]


def verdicts_of(result: Result) -> list[tuple[bool, str, str]]:
    """The answers to approvals that stand in a result: (approved, by, comment)."""
    return [(one[2], one[3], one[4]) for one in _marked(result, "verdict", 5)]


def answers_of(result: Result) -> list[str]:
    """What others have answered by token, as it stands in a result."""
    return [one[2] for one in _marked(result, "answered", 3)]


def items_of(result: Result) -> list[tuple[str, int, str]]:
    """What a result says was published: (channel, number, text)."""
    return [
        (one[1], number, text) for one in _marked(result, "published", 3) for number, text in one[2]
    ]


def _marked(result: Result, mark: str, length: int) -> list[list[Result]]:
    found = [one for one in _parts(result) if _several(one)]
    return [one for one in found if len(one) == length and one[0] == mark]


def _parts(result: Result) -> Iterator[Result]:
    """A result and all that is in it, but for what others say that they did."""
    yield result
    if _several(result) and result[:1] not in (["child"], ["end"]):
        for inner in result:
            yield from _parts(inner)
