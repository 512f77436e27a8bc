"""Random workflow programs: data that one workflow function interprets.

A program is a tuple of steps, a closed union of frozen structs. `random_program` makes one from a
source of chance (hypothesis has such a source, too: `st.randoms()`); `play` is the workflow that
carries it out, and `perform` the activity that its `Call` steps run. What a program did is told by
its trace, which is the workflow's result and, at any time before, the answer of the query `so_far`.

    program = random_program(Random(1))
    await client.run(play, list(program))

A `Call` says itself how it ends, so whoever carries activities out needs no other knowledge:
`perform` really does it in a worker, `outcome_of` tells it to a test that has none. Nothing in a
program is endless but the waiting: for a signal that nobody sends, or for a call that hangs.
"""

# tidy: this file sleeps because workflows interpret it, and their time is the run's.

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Annotated, Any, Final, Literal, TypeAlias, assert_never, cast

import anyio
from pydantic import Field

from everlong import (
    Query,
    Retry,
    Signal,
    TooManyFailures,
    Update,
    WorkflowAlreadyStarted,
    WorkflowClosed,
    WorkflowFailed,
    WorkflowInfo,
    WorkflowNotFound,
    WorkflowTerminated,
    activity,
    approval,
    checkpoint,
    get_handle,
    info,
    map_all,
    now,
    patched,
    publish,
    random,
    saga,
    set_memo,
    set_tags,
    side_effect,
    uuid4,
    wait_condition,
    workflow,
)

__all__ = [
    "Broken",
    "Program",
    "Step",
    "amend",
    "changed",
    "news",
    "outcome_of",
    "perform",
    "play",
    "random_program",
    "so_far",
]


class Broken(Exception):
    """What failing calls and `Fail` steps raise."""


# ------------------------------------------------------------------------------------ the steps


@dataclass(frozen=True, slots=True)
class Call:
    """Run an activity. `hang` never ends by itself."""

    label: str
    outcome: Literal["ok", "fail", "hang"] = "ok"
    kind: Literal["call"] = "call"


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float
    kind: Literal["sleep"] = "sleep"


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for the signal `news`."""

    kind: Literal["receive"] = "receive"


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the run for something that must be the same on replay."""

    what: Literal["now", "random", "uuid", "info"]
    kind: Literal["ask"] = "ask"


@dataclass(frozen=True, slots=True)
class SideEffect:
    label: str
    kind: Literal["side_effect"] = "side_effect"


@dataclass(frozen=True, slots=True)
class Label:
    """Change a tag, or take it away, and tell how far it has come."""

    name: str
    value: str | int | bool | None
    kind: Literal["label"] = "label"


@dataclass(frozen=True, slots=True)
class Beget:
    """A child: called in the three ways to be cancelled, or begun and then waited for, or begun and
    left alone."""

    label: str
    how: Literal["wait", "try", "abandon", "start", "leave"]
    kind: Literal["beget"] = "beget"


@dataclass(frozen=True, slots=True)
class Meet:
    """Another execution: a word to it, or a wait for its end."""

    label: str
    how: Literal["signal", "cancel", "wait"]
    kind: Literal["meet"] = "meet"


@dataclass(frozen=True, slots=True)
class AskPeople:
    label: str
    seconds: float
    kind: Literal["ask_people"] = "ask_people"


@dataclass(frozen=True, slots=True)
class Publish:
    channel: str
    label: str
    kind: Literal["publish"] = "publish"


@dataclass(frozen=True, slots=True)
class Fail:
    label: str
    kind: Literal["fail"] = "fail"


@dataclass(frozen=True, slots=True)
class Patched:
    """The new steps where `patched(name)` says so, else the old ones."""

    name: str
    new: "Program"
    old: "Program"
    kind: Literal["patched"] = "patched"


@dataclass(frozen=True, slots=True)
class Repeat:
    times: int
    body: "Program"
    kind: Literal["repeat"] = "repeat"


@dataclass(frozen=True, slots=True)
class Parallel:
    """All branches at once, until each has ended or one has failed."""

    how: Literal["gather", "gather_all", "group", "anyio", "as_completed"]
    branches: "tuple[Program, ...]"
    kind: Literal["parallel"] = "parallel"


@dataclass(frozen=True, slots=True)
class Race:
    """The first branch to end wins; the others are cancelled."""

    branches: "tuple[Program, ...]"
    kind: Literal["race"] = "race"


@dataclass(frozen=True, slots=True)
class Within:
    """The body, for so many seconds at most."""

    how: Literal["timeout", "wait_for", "move_on"]
    seconds: float
    body: "Program"
    kind: Literal["within"] = "within"


@dataclass(frozen=True, slots=True)
class Try:
    """`handler` runs for what `catch` catches, `cleanup` in any case."""

    body: "Program"
    catch: Literal["nothing", "exception", "cancelled", "base"]
    handler: "Program"
    cleanup: "Program"
    kind: Literal["try"] = "try"


@dataclass(frozen=True, slots=True)
class Cancel:
    """The body in a task of its own, which is cancelled behind the steps of `meanwhile`."""

    body: "Program"
    meanwhile: "Program"
    kind: Literal["cancel"] = "cancel"


@dataclass(frozen=True, slots=True)
class Shielded:
    body: "Program"
    kind: Literal["shielded"] = "shielded"


@dataclass(frozen=True, slots=True)
class Locked:
    """The body under one of the run's two permits; inside itself it may wait for ever."""

    body: "Program"
    kind: Literal["locked"] = "locked"


@dataclass(frozen=True, slots=True)
class Until:
    """Wait until the trace has so many entries, for so many seconds at most (0: for ever)."""

    entries: int
    seconds: float
    kind: Literal["until"] = "until"


@dataclass(frozen=True, slots=True)
class Undoable:
    """The body in a saga; each letter of `labels` is an activity that undoes a step."""

    labels: str
    body: "Program"
    kind: Literal["undoable"] = "undoable"


@dataclass(frozen=True, slots=True)
class Map:
    """Calls over many items, a few at once; each letter is one, and "f" is one that fails."""

    items: str
    limit: int
    tolerate: int
    kind: Literal["map"] = "map"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Only among the outermost steps, for there `play` knows how to begin anew."""

    kind: Literal["checkpoint"] = "checkpoint"


Step: TypeAlias = Annotated[
    Call
    | Sleep
    | Receive
    | Ask
    | SideEffect
    | Publish
    | AskPeople
    | Label
    | Beget
    | Meet
    | Fail
    | Patched
    | Repeat
    | Parallel
    | Race
    | Within
    | Try
    | Cancel
    | Shielded
    | Locked
    | Until
    | Undoable
    | Map
    | Checkpoint,
    Field(discriminator="kind"),
]
Program: TypeAlias = tuple[Step, ...]


# ------------------------------------------------------------------------------- the definitions

news: Signal[str] = Signal("programs.news", str)
amend: Update[str] = Update("programs.amend", str)
so_far: Query[list[str]] = Query("programs.so_far", list[str])

look: list[Callable[[str], str]] = [lambda label: f"saw {label}"]
"""What side effects see; a test puts its own last."""


@activity(name="programs.perform", retry=Retry(max_attempts=1), raises=[Broken])
async def perform(label: str, outcome: str) -> str:
    if outcome == "hang":
        await asyncio.Event().wait()
    result = outcome_of(label, outcome)
    if isinstance(result, Broken):
        raise result
    return result


def outcome_of(label: str, outcome: str) -> str | Broken:
    """What `perform` returns or raises."""
    return Broken(label) if outcome == "fail" else f"did {label}"


@workflow(name="programs.offspring")
async def offspring(label: str) -> str:
    return f"grew {label}"


@workflow(name="programs.play", raises=[Broken])
async def play(program: list[Step], done: int = 0) -> list[str]:
    """Carry a program out, from its step number `done` on; the trace is the result."""
    playing = _Playing()

    @so_far.handler
    def _() -> list[str]:  # pyright: ignore[reportUnusedFunction]
        return list(playing.trace)

    @amend.handler
    async def _(label: str, outcome: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return await playing.amend(label, outcome)

    for index in range(done, len(program)):
        step = program[index]
        if isinstance(step, Checkpoint):
            await checkpoint(done=index + 1)
        else:
            await playing.step(step)
    return playing.trace


class _Playing:
    """One run of a program."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self._permits = asyncio.Semaphore(2)

    def _note(self, what: object) -> None:
        self.trace.append(str(what))

    async def amend(self, label: str, outcome: str) -> str:
        """An update: it goes on beside the program."""
        self._note(f"amends {label}")
        told = await perform(label, outcome)
        self._note(f"amended {label}")
        return told

    async def all(self, program: Program) -> None:
        for step in program:
            await self.step(step)

    async def step(self, step: Step) -> None:
        match step:
            case Call():
                self._note(await perform(step.label, step.outcome))
            case Sleep():
                await asyncio.sleep(step.seconds)
                self._note(f"slept {step.seconds}")
            case Receive():
                self._note(f"received {await news.receive()}")
            case Ask():
                self._note(_ANSWERS[step.what]())
            case SideEffect():
                self._note(await side_effect(lambda: look[-1](step.label)))
            case Beget():
                await self._beget(step)
            case Meet():
                await self._meet(step)
            case AskPeople():
                await self._ask_people(step)
            case Publish():
                self._note(str(await publish(step.channel, [step.label, len(self.trace)])))
            case Label():
                set_tags({step.name: step.value})
                set_memo([step.name, len(self.trace)])
                self._note(sorted(info(WorkflowInfo).tags.items()))
            case Fail():
                raise Broken(step.label)
            case Patched():
                await self.all(step.new if patched(step.name) else step.old)
            case Repeat():
                for _ in range(step.times):
                    await self.all(step.body)
            case Parallel():
                await self._parallel(step)
            case Race():
                await self._race(step)
            case Within():
                await self._within(step)
            case Try():
                await self._try(step)
            case Cancel():
                await self._cancel(step)
            case Shielded():
                await asyncio.shield(self.all(step.body))
            case Locked():
                async with self._permits:
                    await self.all(step.body)
            case Until():
                await self._until(step)
            case Undoable():
                async with saga() as taken:
                    for label in step.labels:
                        taken.undo(self._undo, label)
                    await self.all(step.body)
            case Map():
                await self._map(step)
            case Checkpoint():
                raise AssertionError("a checkpoint stands among the outermost steps only")
            case _:
                assert_never(step)

    async def _until(self, step: Until) -> None:
        wanted = len(self.trace) + step.entries
        try:
            await wait_condition(lambda: len(self.trace) >= wanted, timeout=step.seconds or None)
        except TimeoutError:
            self._note("too few")
        else:
            self._note("enough")

    async def _beget(self, step: Beget) -> None:
        try:
            if step.how == "wait" or step.how == "try" or step.how == "abandon":
                self._note(await offspring.options(on_cancel=step.how)(step.label))
                return
            child = await offspring.start(step.label)
            self._note("has a child")
            if step.how == "start":
                self._note(await child.result())
        except (WorkflowFailed, WorkflowTerminated, WorkflowAlreadyStarted) as error:
            self._note(f"no child: {type(error).__name__}")

    async def _meet(self, step: Meet) -> None:
        other = get_handle(f"other-{step.label}", offspring)
        try:
            match step.how:
                case "signal":
                    await other.signal(news, step.label)
                case "cancel":
                    await other.cancel(step.label)
                case "wait":
                    self._note(await other.result())
        except (WorkflowFailed, WorkflowTerminated, WorkflowNotFound, WorkflowClosed) as error:
            self._note(f"nobody: {type(error).__name__}")
        else:
            self._note(f"met {step.label}")

    async def _ask_people(self, step: AskPeople) -> None:
        try:
            verdict = await approval(step.label, data=[step.label], timeout=step.seconds or None)
        except TimeoutError:
            self._note("nobody answered")
        else:
            self._note(f"{verdict.approved} says {verdict.by} at {verdict.at}")

    async def _undo(self, label: str) -> None:
        self._note(f"undid {label} {await perform(label, 'ok')}")

    async def _map(self, step: Map) -> None:
        async def call(item: str) -> str:
            return await perform(item, "fail" if item == "f" else "ok")

        try:
            done = await map_all(call, step.items, limit=step.limit, tolerate=step.tolerate)
        except TooManyFailures as error:
            self._note(f"too many: {error}")
        else:
            self._note(f"{done.results} {[failure.index for failure in done.failures]}")

    async def _parallel(self, step: Parallel) -> None:
        branches = step.branches
        match step.how:
            case "gather":
                await asyncio.gather(*map(self.all, branches))
            case "gather_all":
                ends = await asyncio.gather(*map(self.all, branches), return_exceptions=True)
                self._note([type(end).__name__ for end in ends])
            case "group":
                async with asyncio.TaskGroup() as group:
                    for branch in branches:
                        group.create_task(self.all(branch))
            case "anyio":
                async with anyio.create_task_group() as tasks:
                    for branch in branches:
                        tasks.start_soon(self.all, branch)
            case "as_completed":
                for end in asyncio.as_completed(list(map(self.all, branches))):
                    await _kept(end, self._note)
        self._note(f"{step.how} of {len(branches)}")

    async def _race(self, step: Race) -> None:
        tasks = [asyncio.ensure_future(self.all(branch)) for branch in step.branches]
        try:
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        self._note(f"won by {[tasks.index(task) for task in done]} of {len(tasks)}")
        for task in pending:
            await _kept(task, self._note)

    async def _within(self, step: Within) -> None:
        match step.how:
            case "timeout":
                with suppress(TimeoutError):
                    async with asyncio.timeout(step.seconds):
                        await self.all(step.body)
            case "wait_for":
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.all(step.body), step.seconds)
            case "move_on":
                with anyio.move_on_after(step.seconds) as scope:
                    await self.all(step.body)
                self._note(f"cut short: {scope.cancelled_caught}")
        self._note(f"within {step.seconds}")

    async def _try(self, step: Try) -> None:
        try:
            await self.all(step.body)
        except _CAUGHT[step.catch] as error:
            self._note(f"caught {type(error).__name__} {error}")
            await self.all(step.handler)
        finally:
            await self.all(step.cleanup)

    async def _cancel(self, step: Cancel) -> None:
        task = asyncio.ensure_future(self.all(step.body))
        try:
            await self.all(step.meanwhile)
        finally:
            task.cancel("not needed any more")
        await _kept(task, self._note)


async def _kept(task: Awaitable[None], note: Callable[[str], None]) -> None:
    """Note how a task ends, without ending with it."""
    try:
        await task
    except (Exception, asyncio.CancelledError) as error:
        note(f"ended with {type(error).__name__} {error}")


def _about_the_run() -> str:
    about = info(WorkflowInfo)
    return f"{about.workflow_id} {about.started_us} {about.history_events} {about.cancel_reason}"


_ANSWERS: Final[dict[str, Callable[[], str]]] = {
    "now": lambda: now().isoformat(),
    "random": lambda: str(random().random()),
    "uuid": lambda: str(uuid4()),
    "info": _about_the_run,
}
_CAUGHT: Final[dict[str, tuple[type[BaseException], ...]]] = {
    "nothing": (),
    "exception": (Exception,),
    "cancelled": (asyncio.CancelledError,),
    "base": (BaseException,),
}


# ------------------------------------------------------------------------------------ at random

_DEPTH_MAX: Final = 3


def random_program(source: Random, *, patches: bool = True, checkpoints: bool = True) -> Program:
    """A program of one to six outermost steps."""
    making = _Making(source, patches)
    return tuple(
        Checkpoint() if source.randrange(5) == 4 and checkpoints else making.step(_DEPTH_MAX)
        for _ in range(1 + source.randrange(6))
    )


class _Making:
    def __init__(self, source: Random, patches: bool) -> None:
        self._source = source
        kinds: list[Callable[[int], Step]] = [
            lambda inner: Repeat(1 + self._below(2), self._some(inner)),
            lambda inner: Parallel(
                self._of(("gather", "gather_all", "group", "anyio", "as_completed")),
                self._branches(inner),
            ),
            lambda inner: Race(self._branches(inner)),
            lambda inner: Within(
                self._of(("timeout", "wait_for", "move_on")), self._seconds(), self._some(inner)
            ),
            lambda inner: Try(
                self._some(inner),
                self._of(("nothing", "exception", "cancelled", "base")),
                self._some(0),
                self._some(inner),
            ),
            lambda inner: Cancel(self._some(inner), self._some(0)),
            lambda inner: Shielded(self._some(inner)),
            lambda inner: Locked(self._some(inner)),
            lambda inner: Undoable(
                "".join(self._of("rst") for _ in range(self._below(3))), self._some(inner)
            ),
            lambda _: Map(
                "".join(self._of("gof") for _ in range(self._below(5))),
                1 + self._below(3),
                self._below(3),
            ),
        ]
        if patches:
            kinds.append(
                lambda inner: Patched(self._of("pq"), self._some(inner), self._some(inner))
            )
        self._kinds = kinds

    def step(self, depth: int) -> Step:
        if depth == 0 or not self._below(3):
            return self.leaf()
        kind: Callable[[int], Step] = self._of(self._kinds)
        return kind(depth - 1)

    def leaf(self) -> Step:
        match self._below(22):
            case 0 | 1 | 2 | 3 | 4 | 5:
                outcomes = *["ok"] * 7, "fail", "hang"
                return Call(self._of("abcdef"), self._of(outcomes))
            case 6 | 7 | 8 | 9:
                return Sleep(self._seconds())
            case 10:
                return Receive()
            case 11 | 12:
                return Ask(self._of(("now", "random", "uuid", "info")))
            case 13 | 14:
                return SideEffect(self._of("xyz"))
            case 15:
                return Until(self._below(3), self._seconds())
            case 16:
                return Publish(self._of("uv"), self._of("abc"))
            case 18:
                return Beget(
                    self._of("mn"), self._of(("wait", "try", "abandon", "start", "start", "leave"))
                )
            case 19:
                return Meet(self._of("op"), self._of(("signal", "cancel", "wait")))
            case 20:
                return Label(self._of("ij"), self._of(("c1", 7, True, None)))
            case 17:
                return AskPeople(self._of("st"), self._seconds())
            case _:
                return Fail(self._of("abc"))

    def _some(self, depth: int) -> Program:
        return tuple(self.step(depth) for _ in range(self._of((1, 2, 0, 1, 2, 3))))

    def _branches(self, depth: int) -> tuple[Program, ...]:
        return tuple(self._some(depth) for _ in range(2 + self._below(2)))

    def _seconds(self) -> float:
        seconds: float = self._of((1.0, 0.0, 0.5, 2.0, 3.0))
        return seconds

    def _below(self, end: int) -> int:
        return self._source.randrange(end)

    def _of(self, choices: Any) -> Any:
        return choices[self._source.randrange(len(choices))]


# -------------------------------------------------------------------------------------- changes

Change: TypeAlias = Callable[[Step], Program]
"""What stands in the place of a step."""


def changed(program: Program, source: Random, change: Change | None = None) -> Program:
    """The program with one of its steps, at any depth, changed, removed, or given a neighbour."""
    leaf = _Making(source, patches=False).leaf()
    changes: tuple[Change, ...] = (
        lambda _: (),
        lambda _: (leaf,),
        lambda step: (leaf, step),
        lambda step: (step, leaf),
    )
    at = source.randrange(sum(1 for _ in _every(program)))
    return _replaced(program, iter(range(at, -1, -1)), change or changes[source.randrange(4)])


def _every(program: Program) -> Iterator[Step]:
    for step in program:
        yield step
        for inner in _programs_in(step):
            yield from _every(inner)


def _programs_in(step: Step) -> Iterator[Program]:
    for value in (getattr(step, field.name) for field in fields(step)):
        if isinstance(value, tuple):
            yield from value if step.kind in ("parallel", "race") else (value,)


def _replaced(program: Program, countdown: Iterator[int], change: Change) -> Program:
    """The program with the change made where the countdown comes to 0."""
    made: list[Step] = []
    for step in program:
        if next(countdown, -1) == 0:
            made += change(step)
        else:
            made.append(_inside(step, countdown, change))
    return tuple(made)


def _inside(step: Any, countdown: Iterator[int], change: Change) -> Any:
    values = {field.name: getattr(step, field.name) for field in fields(step)}
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name == "branches":
            branches: tuple[Program, ...] = value
            made[name] = tuple(_replaced(branch, countdown, change) for branch in branches)
        elif isinstance(value, tuple):
            made[name] = _replaced(cast("Program", value), countdown, change)
    return replace(step, **made) if made else step
