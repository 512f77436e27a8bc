"""What simulated executions may do: programs, as plain data.

A program is a tuple of steps. `carrying` is the workflow that interprets it durably; `oracle` says
in plain Python what may come of it; `drawing` makes programs up. A step has a result that follows
from the program alone, however often it was interrupted, except where two things race: there the
oracle knows all results that are right.

Every call, side effect and clean-up has a label of its own, so that the ledger of effects can be
held against the result.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol, TypeAlias

from pydantic import Field

from everlong import ActivityInfo, Query, Signal, Update

__all__ = [
    "REFUSED",
    "Act",
    "All",
    "Anew",
    "Ask",
    "Bomb",
    "Broken",
    "Changed",
    "Child",
    "First",
    "Flaky",
    "How",
    "Later",
    "Mistake",
    "Note",
    "OnCancel",
    "Other",
    "Program",
    "Publish",
    "Receive",
    "Repeat",
    "Result",
    "Sleep",
    "Stage",
    "Step",
    "Within",
    "letters",
    "position",
    "stage",
    "wishes",
]


class Broken(Exception):
    """A failure for good."""


class Flaky(Exception):
    """A failure that passes."""


class Stage(Protocol):
    """What simulated code can see of the world that it runs in."""

    def attempt_begins(self, about: ActivityInfo, label: str, once: bool) -> None: ...
    def attempt_fails(self, about: ActivityInfo) -> None: ...
    def attempt_ends(self, about: ActivityInfo, label: str) -> None: ...
    def attempt_is_told(self, about: ActivityInfo) -> None: ...
    def attempt_stops(self, about: ActivityInfo) -> None: ...
    def hand_out(self, about: ActivityInfo, label: str, limit_s: float | None) -> None: ...
    def queue_of(self, label: str) -> dict[str, Any]: ...
    def version(self) -> int: ...
    def note(self) -> int: ...
    def explode(self) -> None: ...


stage: list[Stage] = []
"""The world of the seed that runs now, alone in here."""


# ------------------------------------------------------------------------------------ the steps

How: TypeAlias = Literal["plain", "once", "broken", "slow", "beats", "tidies", "stubborn"]
"""`tidies` takes a while to stop when it is asked to; `stubborn` does not stop at all."""
OnCancel: TypeAlias = Literal["try", "wait", "abandon"]


@dataclass(frozen=True, slots=True)
class Act:
    """An activity. It fails `fails` times, then succeeds; or fails for good, or is too slow."""

    label: str
    seconds: float = 0.0
    fails: int = 0
    how: How = "plain"
    on_cancel: OnCancel = "try"
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


@dataclass(frozen=True, slots=True)
class Child:
    """Another program as a child: called, or started and then waited for or left."""

    label: str
    program: "Program"
    how: Literal["call", "start", "leave"] = "call"
    on_parent_close: Literal["terminate", "cancel", "abandon"] = "terminate"
    id: str = ""
    """Its workflow id, for which others contend; else one of its own."""
    if_open: Literal["fail", "use", "terminate"] = "fail"
    message: Literal["", "letter", "cancel"] = ""
    """What one that was started is sent."""
    kind: Literal["child"] = "child"


@dataclass(frozen=True, slots=True)
class Other:
    """Something sent to another execution, or the wait for its end."""

    label: str
    target: str
    what: Literal["letter", "cancel", "end"]
    kind: Literal["other"] = "other"


@dataclass(frozen=True, slots=True)
class Ask:
    """An approval."""

    label: str
    seconds: float | None = None
    """How long it waits for an answer."""
    approvers: tuple[str, ...] = ()
    kind: Literal["ask"] = "ask"


@dataclass(frozen=True, slots=True)
class Later:
    """An activity that leaves its token to others."""

    label: str
    how: Literal["plain", "slow", "timed", "beats"] = "plain"
    """`slow` stays for a while behind handing it out; `timed` and `beats` have a limit."""
    on_cancel: OnCancel = "try"
    kind: Literal["later"] = "later"


@dataclass(frozen=True, slots=True)
class Publish:
    """Items on an output channel."""

    label: str
    channel: str
    count: int
    kind: Literal["publish"] = "publish"


Step: TypeAlias = Annotated[
    Act
    | Sleep
    | Receive
    | Note
    | All
    | First
    | Within
    | Repeat
    | Changed
    | Anew
    | Bomb
    | Mistake
    | Child
    | Other
    | Ask
    | Later
    | Publish,
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
