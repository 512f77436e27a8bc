"""Each wrong use has its own error, which names the fix; a fault parks a run until it is fixed."""

# tidy: this file sleeps because its functions are bodies of workflows: those are durable timers

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Activity,
    Client,
    DefinitionError,
    EverlongError,
    Output,
    Query,
    Retry,
    Signal,
    Update,
    Worker,
    Workflow,
    WorkflowFailed,
    activity,
    checkpoint,
    continue_as_new,
    heartbeat,
    registry,
    workflow,
)
from tests.support.hosting import described, hosting, kinds

word: Signal[str] = Signal("word", str)


@activity
async def fetch(number: int = 0) -> int:
    return number


@activity
async def store(number: int = 0) -> int:
    return number


# ------------------------------------------------------------- faults: blocked, then fixed, then on


async def sleeps_for_real() -> None:
    time.sleep(1)


async def opens_a_file() -> None:
    with Path(__file__).open() as file:
        file.read()


async def exits() -> None:
    sys.exit(3)


async def interrupts() -> None:
    raise KeyboardInterrupt


async def spins() -> None:
    while True:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def starts_a_thread() -> None:
    threading.Thread(target=print).start()


async def swallows_the_fault() -> None:
    try:
        time.sleep(1)
    except BaseException:
        await fetch(1)


async def carries_what_is_no_parameter() -> None:
    await checkpoint(nonsense=1)


async def continues_with_what_is_no_parameter() -> None:
    continue_as_new(nonsense=1)


async def checkpoints_in_a_task() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(checkpoint())


async def returns_what_cannot_be_stored() -> object:
    return object()


async def returns_too_much() -> str:
    return "x" * 2_000_001


FAULTS: list[tuple[Callable[[], Coroutine[Any, Any, Any]], str]] = [
    (sleeps_for_real, r"ForbiddenCall: time\.sleep\(\) cannot be called inside a workflow"),
    (sleeps_for_real, r"Write `await asyncio\.sleep\(seconds\)`"),
    (opens_a_file, r"ForbiddenCall: .*open"),
    (starts_a_thread, r"ForbiddenCall: .*Thread\.start\(\)"),
    (swallows_the_fault, r"ForbiddenCall: time\.sleep\(\)"),
    (exits, r"SystemExit"),
    (interrupts, r"KeyboardInterrupt"),
    (spins, r"EndlessDrive: The workflow ran 100000 callbacks without waiting"),
    (carries_what_is_no_parameter, r"nonsense.*has no such parameter"),
    (continues_with_what_is_no_parameter, r"nonsense"),
    (checkpoints_in_a_task, r"checkpoint\(\) belongs in the workflow's main task"),
    (returns_what_cannot_be_stored, r"the result of workflow flow.*object"),
    (returns_too_much, r"the result of workflow flow holds 2\d+ bytes"),
]


def declared(program: Callable[[], Coroutine[Any, Any, Any]]) -> Workflow[[], Any]:
    """The workflow `flow` with this program: another one is the next version of the code."""
    registry.workflows.clear()

    @workflow(name="flow")
    async def flow() -> Any:
        await word.receive()
        return await program()

    return flow


@pytest.mark.parametrize(("program", "text"), FAULTS)
async def test_a_fault_parks_the_run_and_it_goes_on_after_the_fix(
    path: Path, program: Callable[[], Coroutine[Any, Any, Any]], text: str
) -> None:
    async def fixed() -> str:
        return f"fixed {await fetch(1)}"

    wrong = declared(program)
    async with Client.connect(path) as client:
        handle = await client.start(wrong)
        await handle.signal(word, "go")
        async with Worker(client, workflows=[wrong]):
            blocked = await described(handle, lambda d: d.status == "blocked")
            assert blocked.reason is not None
            assert _matches(text, blocked.reason)
            # What it decided in the drive that met the fault never happened.
            assert await kinds(handle) == ["RunStarted"]
            assert not any(run.status == "failed" for run in (await client.list()).items)
        async with Worker(client, workflows=[declared(fixed)]):
            assert await handle.result() == "fixed 1"
        assert list(await client.verify()) == []


def _matches(pattern: str, text: str) -> bool:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)
    return True


async def test_one_blocked_run_does_not_stop_the_others(path: Path) -> None:
    wrong = declared(exits)

    @workflow
    async def healthy() -> int:
        return await fetch(5)

    async with Client.connect(path) as client, Worker(client, workflows=[wrong, healthy]):
        stuck = await client.start(wrong)
        await client.get_handle(stuck.workflow_id).signal(word, "go", request_id="r")
        await described(stuck, lambda d: d.status == "blocked")
        assert await client.run(healthy) == 5


async def test_resume_tries_a_blocked_run_again_without_a_restart(path: Path) -> None:
    broken = True

    async def sometimes() -> str:
        if broken:
            sys.exit(1)
        return "well again"

    flow = declared(sometimes)
    async with Client.connect(path) as client, Worker(client, workflows=[flow]):
        handle = await client.start(flow)
        await handle.signal(word, "go", request_id="r")
        await described(handle, lambda d: d.status == "blocked")
        broken = False
        await handle.resume()
        assert await handle.result() == "well again"


async def test_a_signal_that_meets_a_fault_is_kept_for_the_fixed_code(path: Path) -> None:
    """Or its sender is told that it was not: nothing between."""
    broken = True

    async def sometimes() -> str:
        if broken:
            sys.exit(1)
        return "well again"

    flow = declared(sometimes)
    async with Client.connect(path) as client, Worker(client, workflows=[flow]):
        handle = await client.start(flow)
        told: str | None = None
        try:
            await handle.signal(word, "go")
        except EverlongError as error:
            told = str(error)
        await described(handle, lambda d: d.status == "blocked")
        broken = False
        if told is not None:
            assert "blocked" in told
            await handle.signal(word, "go")
        await handle.resume()
        assert await handle.result() == "well again"


# ----------------------------------------------------------------- code that changed under a run


async def test_changed_code_is_told_with_both_source_lines(path: Path) -> None:
    async def old() -> int:
        first = await fetch(1)
        await asyncio.sleep(3600)
        return first

    async def new() -> int:
        first = await store(1)
        await asyncio.sleep(3600)
        return first

    async with Client.connect(path) as client:
        before = declared(old)
        handle = await client.start(before)
        await handle.signal(word, "go")
        async with Worker(client, workflows=[before]):
            await described(handle, lambda d: d.timers)
        history = await kinds(handle)
        async with Worker(client, workflows=[declared(new)]):
            await handle.signal(word, "wakes it")
            blocked = await described(handle, lambda d: d.status == "blocked")
            reason = blocked.reason or ""
            assert reason.startswith("NondeterminismError: At event 3 ")
            assert "activity 'fetch'" in reason
            assert "activity 'store'" in reason
            old_line = old.__code__.co_firstlineno + 1
            new_line = new.__code__.co_firstlineno + 1
            assert f"test_wrong_uses.py:{old_line}" in reason
            assert f"test_wrong_uses.py:{new_line}" in reason
            assert "patched()" in reason
            assert await kinds(handle) == history
        async with Worker(client, workflows=[declared(old)]):
            back = await described(handle, lambda d: d.status == "running" and d.timers)
            assert back.reason is None


async def nothing() -> int:
    return 0


async def one_more() -> int:
    await fetch(1)
    await fetch(2)
    await asyncio.sleep(3600)
    return 0


async def other_argument() -> int:
    await fetch(2)
    await asyncio.sleep(3600)
    return 0


async def other_sleep() -> int:
    await fetch(1)
    await asyncio.sleep(1800)
    return 0


async def no_sleep() -> int:
    return await fetch(1)


@pytest.mark.parametrize(
    "changed", [nothing, one_more, other_argument, other_sleep, no_sleep], ids=lambda f: f.__name__
)
async def test_every_change_of_what_was_decided_is_found(
    path: Path, changed: Callable[[], Coroutine[Any, Any, int]]
) -> None:
    async def old() -> int:
        await fetch(1)
        await asyncio.sleep(3600)
        return 0

    async with Client.connect(path) as client:
        before = declared(old)
        handle = await client.start(before)
        await handle.signal(word, "go")
        async with Worker(client, workflows=[before]):
            await described(handle, lambda d: d.timers)
        async with Worker(client, workflows=[declared(changed)]):
            await handle.signal(word, "wakes it")
            blocked = await described(handle, lambda d: d.status == "blocked")
            assert (blocked.reason or "").startswith("NondeterminismError: At event")
        async with Worker(client, workflows=[declared(old)]):
            await described(handle, lambda d: d.status == "running")


async def test_a_change_behind_what_was_decided_is_none(path: Path) -> None:
    async def old() -> int:
        await fetch(1)
        return await fetch(int(await word.receive()))

    async def new() -> int:
        await fetch.options(timeout=5)(1)
        return await store(int(await word.receive()) * 2)

    async with Client.connect(path) as client:
        before = declared(old)
        handle = await client.start(before)
        await handle.signal(word, "go")
        async with Worker(client, workflows=[before]):
            await described(handle, lambda d: d.history_events == 4)
        async with Worker(client, workflows=[declared(new)]):
            await handle.signal(word, "21")
            assert await handle.result() == 42


# --------------------------------------------------------------------- errors of the user's code


async def test_heartbeat_in_a_workflow_says_where_it_belongs(path: Path) -> None:
    @workflow
    async def flow() -> None:
        heartbeat()

    async with hosting(path) as client:
        with pytest.raises(WorkflowFailed, match=r"heartbeat\(\) belongs in an activity"):
            await client.run(flow)


@pytest.mark.once
async def test_logging_in_a_workflow_is_no_fault(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def flow() -> int:
        logging.getLogger("mine").warning("from the workflow")
        return await fetch(1)

    async with hosting(path) as client:
        assert await client.run(flow) == 1
    assert [r.getMessage() for r in caplog.records if r.name == "mine"] == ["from the workflow"]


async def test_signals_and_queries_are_used_inside_a_workflow_only() -> None:
    with pytest.raises(EverlongError, match="'word' is received and handled inside a workflow"):
        await word.receive()
    question = Query("question", int)
    with pytest.raises(EverlongError, match=r"handle\.query"):

        @question.handler
        def _() -> int:
            return 1


async def async_handler(question: Query[int]) -> None:
    @question.handler
    async def _() -> int:
        return 1


async def handler_that_yields(question: Query[int]) -> None:
    @question.handler
    def _() -> Iterator[int]:
        yield 1


@pytest.mark.parametrize("register", [async_handler, handler_that_yields])
async def test_a_query_handler_that_cannot_answer_at_once_is_refused_before_anyone_asks(
    path: Path, register: Callable[[Query[int]], Awaitable[None]]
) -> None:
    question = Query("question", int)

    @workflow
    async def flow() -> None:
        with suppress(Exception):  # Not to be swallowed.
            await register(question)
        await word.receive()

    async with hosting(path) as client:
        handle = await client.start(flow)
        blocked = await described(handle, lambda d: d.status == "blocked")
        assert blocked.reason is not None
        assert "the handler of query 'question' must be a plain def" in blocked.reason


# ------------------------------------------------------------------------------ bad declarations


def a_plain_workflow() -> Any:
    def flow() -> None: ...

    make: Any = workflow
    return make(flow)


def a_generator() -> Any:
    @activity
    def rows() -> Any:
        yield 1

    return rows


def a_class() -> Any:
    make: Any = activity
    return make(Path)


def an_async_process() -> Any:
    @activity(process=True)
    async def work() -> None: ...

    return work


def twice() -> Any:
    make: Any = activity
    return make(fetch)


def two_of_a_name() -> Any:
    @activity(name="same")
    async def first() -> None: ...

    @activity(name="same")
    async def second() -> None: ...

    return first, second


def one_signal_of_two_types() -> Any:
    return Signal("word", int)


def no_name() -> Any:
    return Signal(""), Query("")


def a_clock_in_a_workflow() -> Any:
    from datetime import datetime

    @workflow
    async def flow() -> object:
        return datetime.now()  # noqa: DTZ005

    return flow


@pytest.mark.parametrize(
    ("declare", "text"),
    [
        (a_plain_workflow, "@workflow goes on an async def function"),
        (a_generator, "yields: an activity returns one result"),
        (a_class, "@activity goes on a function"),
        (an_async_process, "process=True is for a plain def"),
        (twice, "is an activity already: decorate it once"),
        (two_of_a_name, "two activities are called 'same'.*Rename one"),
        (one_signal_of_two_types, "two signals are called 'word'"),
        (no_name, "a Signal needs a name"),
        (a_clock_in_a_workflow, r"datetime\.now"),
    ],
)
def test_a_bad_declaration_is_refused_where_it_stands(
    declare: Callable[[], Any], text: str
) -> None:
    with pytest.raises(DefinitionError, match=text):
        declare()


def a_workflow_called(name: Any) -> Any:
    @workflow(name=name)
    async def flow() -> None: ...

    return flow


def an_activity_called(name: Any) -> Any:
    @activity(name=name)
    async def step() -> None: ...

    return step


@pytest.mark.parametrize(
    "declare", [Signal, Query, Update, Output, a_workflow_called, an_activity_called]
)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "'' is empty"),
        ("x" * 201, r"'x{79}… has 201 characters, and a name at most 200"),
        ("half \ud800", "half a surrogate pair"),
        ("two\nlines", "control character"),
        ("\x1b[2J", "control character"),
        (5, "5 is no text"),
    ],
)
def test_a_name_that_nothing_can_store_or_show_is_refused_where_it_is_declared(
    declare: Callable[[Any], Any], name: Any, text: str
) -> None:
    with pytest.raises(DefinitionError, match=text):
        declare(name)


def test_names_of_different_kinds_have_nothing_to_do_with_each_other() -> None:
    name = "größe von 20 · 3"
    assert [Signal(name, int).name, Output(name, str).name] == [name, name]
    # Two workflows may answer the same question with different types.
    assert [Query(name, int).name, Query(name, str).name] == [name, name]
    assert [Update(name, int).name, Update(name, str).name] == [name, name]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_attempts": 0}, ValueError, "give 1 or more, or None"),
        ({"backoff": 0.5}, ValueError, "give a factor from 1 to 1000"),
        ({"jitter": 2}, ValueError, "give a share from 0 to 1"),
        ({"delay": -1}, ValueError, "must be between 0 seconds and 100 years"),
        ({"delay_max": "1m"}, TypeError, "must be seconds"),
        ({"delay": 100, "delay_max": 99}, ValueError, "shorter than delay=100"),
        ({"non_retryable": "ValueError"}, TypeError, "give a tuple of exception classes or names"),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    make: Callable[..., Retry] = Retry
    with pytest.raises(error, match=text):
        make(**options)


@pytest.mark.parametrize(
    "option", ["timeout", "schedule_to_close", "schedule_to_start", "heartbeat_timeout"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_a_timeout_that_makes_no_sense_is_named(option: str, value: float) -> None:
    changed: Callable[..., Activity[Any, Any]] = fetch.options
    with pytest.raises(ValueError, match=option):
        changed(**{option: value})
