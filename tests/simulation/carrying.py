"""The workflow that carries a program out, and the activities that it calls.

Its code has versions: what `Changed` and `Mistake` do depends on the one that its process runs.
"""

# tidy: this file sleeps because workflows interpret it, and their time is the run's.
import asyncio
import random
from typing import Any, Final, assert_never

import anyio

from everlong import (
    ActivityInfo,
    ActivityLost,
    ActivityTimeout,
    ApplicationError,
    InvalidArguments,
    Retry,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowNotFound,
    WorkflowTerminated,
    activity,
    all_handlers_finished,
    approval,
    checkpoint,
    complete_later,
    get_handle,
    heartbeat,
    info,
    patched,
    publish,
    side_effect,
    wait_condition,
    workflow,
)
from tests.simulation.language import (
    REFUSED,
    Act,
    All,
    Anew,
    Ask,
    Bomb,
    Broken,
    Changed,
    Child,
    First,
    Flaky,
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
    letters,
    position,
    stage,
    wishes,
)

__all__ = ["act", "carry_out", "later"]


@activity(
    name="simulation.act",
    retry=Retry(delay=0.5, backoff=2.0, delay_max=4.0, jitter=0.1, non_retryable=(Broken,)),
    raises=[Broken, Flaky],
)
async def act(label: str, seconds: float, fails: int, how: str) -> str:
    about = info(ActivityInfo)
    stage[-1].attempt_begins(about, label, how == "once")
    try:
        return await _attempt(about, label, seconds, fails, how)
    except asyncio.CancelledError:
        stage[-1].attempt_is_told(about)
        if how == "stubborn":
            try:
                await asyncio.sleep(1.0)
            except asyncio.CancelledError:
                stage[-1].attempt_stops(about)
                raise
            stage[-1].attempt_ends(about, label)
            return f"did {label}"
        try:
            if how == "tidies":
                await asyncio.sleep(4.0)
        finally:  # A worker that stops waits no longer.
            stage[-1].attempt_stops(about)
        raise


async def _attempt(about: ActivityInfo, label: str, seconds: float, fails: int, how: str) -> str:
    if how == "beats":
        for _ in range(3):
            heartbeat(seconds)
            await asyncio.sleep(seconds / 3)
    elif seconds:
        await asyncio.sleep(seconds)
    if how == "broken":
        stage[-1].attempt_stops(about)
        raise Broken(label)
    if about.attempt <= fails:
        stage[-1].attempt_fails(about)
        raise Flaky(label)
    stage[-1].attempt_ends(about, label)
    return f"did {label}"


LIMITS: Final = {"timed": 6.0, "beats": 5.0}
"""How long the world may take with a token."""


@activity(name="simulation.later", retry=Retry(delay=0.5, jitter=0.0))
async def later(label: str, how: str) -> str:
    about = info(ActivityInfo)
    stage[-1].attempt_begins(about, label, False)
    stage[-1].hand_out(about, label, LIMITS.get(how))
    try:
        if how == "slow":
            await asyncio.sleep(1.0)
    finally:
        stage[-1].attempt_stops(about)
    complete_later()


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
        if len(program) % 2:  # The others leave in a hurry.
            await wait_condition(all_handlers_finished)
    except asyncio.CancelledError:
        await act("cleanup", 0.2, 0, "plain")
        raise
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
        case Child():
            return await _child(step)
        case Other():
            return await _other(step)
        case Ask():
            return await _ask(step)
        case Later():
            return await _later(step)
        case Publish():
            channel = step.channel
            items = [f"{step.label}:{n}" for n in range(step.count)]
            return ["published", channel, [[await publish(channel, one), one] for one in items]]
        case Anew():
            raise AssertionError("a checkpoint stands among the outermost steps only")
        case _:
            assert_never(step)


async def _act(step: Act) -> Result:
    options: dict[str, Any] = dict(_OPTIONS.get(step.how, {}))
    if step.on_cancel != "try":
        options["on_cancel"] = step.on_cancel
    options |= stage[-1].queue_of(step.label)
    once = act.options(**options) if options else act
    try:
        return await once(step.label, step.seconds, step.fails, step.how)
    except Broken:
        return f"broke {step.label}"
    except ActivityLost:
        return f"lost {step.label}"
    except ActivityTimeout:
        return f"late {step.label}"


async def _ask(step: Ask) -> Result:
    try:
        verdict = await approval(
            step.label,
            data={"label": step.label},
            approvers=step.approvers or None,
            timeout=step.seconds,
        )
    except TimeoutError:
        return "unanswered"
    return ["verdict", step.label, verdict.approved, verdict.by, verdict.comment]


_TWICE: Final = Retry(max_attempts=2, delay=0.5, jitter=0.0)
_LATER: Final[dict[str, dict[str, Any]]] = {
    "timed": {"timeout": LIMITS["timed"], "retry": _TWICE},
    "beats": {"heartbeat_timeout": LIMITS["beats"], "retry": _TWICE},
}


async def _later(step: Later) -> Result:
    queue = stage[-1].queue_of(step.label)
    call = later.options(on_cancel=step.on_cancel, **_LATER.get(step.how, {}), **queue)
    try:
        return ["answered", step.label, await call(step.label, step.how)]
    except ApplicationError as error:
        return ["answered", step.label, str(error)]
    except ActivityTimeout:
        return f"late {step.label}"
    except ActivityLost:
        return f"lost {step.label}"


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


async def _child(step: Child) -> Result:
    child = carry_out.options(
        id=step.id or None,
        on_parent_close=step.on_parent_close,
        on_cancel="try" if step.on_parent_close == "abandon" else "wait",
        if_open=step.if_open,
    )
    program = list(step.program)
    try:
        if step.how == "call":
            return ["child", await child(program)]
        handle = await child.start(program)
        if step.message == "letter":
            await handle.signal(letters, _letter(step.label))
        elif step.message == "cancel":
            await handle.cancel(f"by {step.label}")
        return "left" if step.how == "leave" else ["child", await handle]
    except WorkflowAlreadyStarted:
        return "taken"
    except InvalidArguments:
        return "its own"  # The workflow id of this very execution.
    except (WorkflowCancelled, WorkflowTerminated, WorkflowClosed) as error:
        return ["child", type(error).__name__]


async def _other(step: Other) -> Result:
    """A wait for an end is bounded: two may wait for each other."""
    handle = get_handle(step.target, carry_out)
    try:
        match step.what:
            case "letter":
                await handle.signal(letters, _letter(step.label))
                return f"sent {step.label}"
            case "cancel":
                await handle.cancel(f"by {step.label}")
                return f"sent {step.label}"
            case _:
                async with asyncio.timeout(5.0):
                    return ["end", await handle]
    except TimeoutError:
        return "waited"
    except (WorkflowCancelled, WorkflowTerminated, WorkflowClosed, WorkflowNotFound) as error:
        return ["end", type(error).__name__]


def _letter(label: str) -> str:
    """Another one each time that the step is done, and the same on replay."""
    return f"{label}:{random.getrandbits(40):x}"
