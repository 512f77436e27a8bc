"""A workflow's loop behaves as asyncio's own: one program, two loops, the same trace.

Each program below keeps a log of what it sees, with the time at which it sees it. It runs under
asyncio's real loop, whose clock jumps to the next timer, and as a workflow. That the
histories are the same in every process is tested in `test_fresh_processes`.

No two timers of a program are due together: a run is fed one after the other and comes to rest in
between, where asyncio would fire both and only then go on.
"""

# tidy: this file sleeps because both loops have clocks that jump.

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import pytest

from everlong import workflow
from tests.support.run_by_hand import RunByHand, discard_all

Program = Callable[["Log"], Awaitable[object]]
programs: dict[str, Program] = {}


class Log:
    """What a program saw, and when."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, *what: object) -> None:
        time = asyncio.get_running_loop().time()
        self.lines.append(f"{time:g} {' '.join(map(str, what))}")

    async def work(self, name: object, seconds: float, error: Exception | None = None) -> str:
        """Say hello, take some time, and end in one of three ways."""
        self(name, "begins")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError as cancelled:
            self(name, "cancelled", *cancelled.args)
            raise
        if error is not None:
            self(name, "fails")
            raise error
        self(name, "ends")
        return f"result of {name}"


def program(function: Program) -> Program:
    programs[getattr(function, "__name__", "")] = function
    return function


def ends(tasks: Iterable["asyncio.Future[Any]"]) -> list[str]:
    return [
        "cancelled" if one.cancelled() else repr(one.exception() or one.result()) for one in tasks
    ]


# ------------------------------------------------------------------------------------- asyncio


@program
async def sleeping(log: Log) -> None:
    log(await asyncio.sleep(1, "value"))
    await asyncio.sleep(0)
    log(await asyncio.sleep(-3, "at once"))
    await asyncio.gather(*(log.work(n, (7 * n) % 5 + n / 8) for n in range(5)))


@program
async def timeouts(log: Log) -> None:
    outer = asyncio.timeout(2)
    try:
        async with outer:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await log.work("a", 5)
            log("inner is over", outer.expired())
            await log.work("b", 5)
    except TimeoutError as error:
        log("outer is over", outer.expired(), repr(error))
    async with asyncio.timeout(1) as moved:
        moved.reschedule(asyncio.get_running_loop().time() + 4)
        await log.work("c", 3)
    log(moved.when() is not None, moved.expired())
    async with asyncio.timeout(None):
        await log.work("d", 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(0):
            await log.work("e", 1)
    with pytest.raises(ValueError, match="own"):
        async with asyncio.timeout(2):
            await log.work("f", 1, ValueError("own"))


@program
async def waiting_for(log: Log) -> None:
    log(await asyncio.wait_for(log.work("a", 1), 2))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(log.work("b", 3), 2)
    with pytest.raises(ValueError, match="c"):
        await asyncio.wait_for(log.work("c", 1, ValueError("c")), 2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(log.work("d", 1), 0)
    task = asyncio.create_task(asyncio.wait_for(log.work("e", 9), 5))
    await asyncio.sleep(1)
    task.cancel("enough")
    await asyncio.wait([task])
    log(ends([task]))


nobody: list[Awaitable[object]] = []


@program
async def gathering(log: Log) -> None:
    log(await asyncio.gather(log.work("a", 3), log.work("b", 1), log.work("c", 2)))
    failing = [log.work("d", 2), log.work("e", 1, ValueError("e")), log.work("f", 3)]
    with pytest.raises(ValueError, match="e"):
        await asyncio.gather(*failing)
    log("the others go on")
    await asyncio.sleep(5)
    both: tuple[object, object] = await asyncio.gather(
        log.work("g", 1, ValueError("g")), log.work("h", 2), return_exceptions=True
    )
    log(both)
    group = asyncio.gather(log.work("i", 3), log.work("j", 4))
    await asyncio.sleep(1)
    log(group.cancel(), group.done())
    with pytest.raises(asyncio.CancelledError):
        await group
    nothing: list[object] = await asyncio.gather(*nobody)
    log(nothing)


@program
async def waits(log: Log) -> None:
    def tasks(*seconds: float) -> list["asyncio.Task[str]"]:
        error = ValueError("the second")
        return [
            asyncio.create_task(log.work(n, s, error if n == 1 else None))
            for n, s in enumerate(seconds)
        ]

    for how in (asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED):
        some = tasks(1, 2, 3.5)
        done, pending = await asyncio.wait(some, return_when=how)
        log(how, sorted(map(some.index, done)), sorted(map(some.index, pending)))
        await asyncio.wait(some)
        log(ends(some))
    some = tasks(4, 2, 1)
    done, pending = await asyncio.wait(some, timeout=3)
    log("timeout", sorted(map(some.index, done)), sorted(map(some.index, pending)))
    for one in pending:
        one.cancel("no more")
    await asyncio.wait(some)
    log(ends(some))


@program
async def as_they_complete(log: Log) -> None:
    for end in asyncio.as_completed([log.work(n, s) for n, s in enumerate((3, 1, 2))]):
        log(await end)
    try:
        for end in asyncio.as_completed([log.work("in time", 1), log.work("late", 9)], timeout=5):
            log(await end)
    except TimeoutError:
        log("too late")
    await asyncio.sleep(9)


@program
async def task_groups(log: Log) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(log.work(n, 3 - n)) for n in range(3)]
    log(ends(tasks))
    try:
        async with asyncio.TaskGroup() as group:
            for n in range(9):
                error = ValueError("the fifth") if n == 5 else None
                group.create_task(log.work(n, 1 + (7 * n) % 9 / 4, error))
    except* ValueError as errors:
        log(repr(errors.exceptions))


@program
async def nested_task_groups(log: Log) -> None:
    async def inner(name: str) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(log.work(f"{name} 1", 5))
                group.create_task(log.work(f"{name} 2", 6))
                await log.work(f"{name} body", 7)
        finally:
            log(name, "is over")

    async def cleans_up() -> None:
        try:
            await log.work("careful", 8)
        finally:
            await log.work("cleaning", 1)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(inner("a"))
            group.create_task(inner("b"))
            group.create_task(cleans_up())
            await asyncio.sleep(2)
            raise KeyError("body")
    except* KeyError as errors:
        log(repr(errors.exceptions))


@program
async def a_group_whose_children_fail_twice(log: Log) -> None:
    async def fails_again() -> None:
        try:
            await log.work("second", 5)
        finally:
            raise OSError("on the way out")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(log.work("first", 1, ValueError("first")))
            group.create_task(fails_again())
    except* (ValueError, OSError) as errors:
        log([repr(one) for one in errors.exceptions])


@program
async def cancelling(log: Log) -> None:
    async def stubborn() -> str:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await log.work("stubborn", 9)
        task = asyncio.current_task()
        assert task is not None
        log("cancelling", task.cancelling(), task.uncancel(), task.uncancel())
        return "gave in"

    task = asyncio.create_task(stubborn(), name="stubborn")
    await asyncio.sleep(1)
    log(task.cancel("one"), task.cancel("two"))
    await asyncio.sleep(1)
    log(task.cancel("three"), task.get_name())
    log(await task, task.cancel("too late"))
    unborn = asyncio.create_task(log.work("unborn", 1))
    unborn.cancel()
    await asyncio.wait([unborn])
    log(ends([unborn]))


@program
async def shielding(log: Log) -> None:
    precious = asyncio.create_task(log.work("precious", 3))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(precious), 1)
    log("still", precious.done())
    log(await precious)
    outer = asyncio.create_task(asyncio.wait([asyncio.create_task(log.work("kept", 2))]))
    await asyncio.sleep(1)
    outer.cancel()
    await asyncio.sleep(3)


@program
async def queues(log: Log) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(2)

    async def produce(name: str) -> None:
        for number in range(3):
            await queue.put(number)
            log(name, "put", number, queue.qsize(), queue.full())

    async def consume(name: str) -> None:
        while True:
            number = await queue.get()
            log(name, "got", number)
            await asyncio.sleep(1 + number / 8 + (0.5 if name == "x" else 0))
            queue.task_done()

    consumers = [asyncio.create_task(consume(name)) for name in "xy"]
    await asyncio.gather(produce("a"), produce("b"))
    await queue.join()
    log("joined")
    for consumer in consumers:
        consumer.cancel()
    await asyncio.wait(consumers)
    ordered: asyncio.PriorityQueue[int] = asyncio.PriorityQueue()
    last_first: asyncio.LifoQueue[int] = asyncio.LifoQueue()
    for number in (3, 1, 2):
        ordered.put_nowait(number)
        last_first.put_nowait(number)
    log([await ordered.get() for _ in range(3)], [await last_first.get() for _ in range(3)])


@program
async def events_and_locks(log: Log) -> None:
    event, lock = asyncio.Event(), asyncio.Lock()

    async def member(name: int) -> None:
        await event.wait()
        async with lock:
            log(name, "holds the lock")
            await asyncio.sleep(1)
        async with lock:
            log(name, "again")

    tasks = [asyncio.create_task(member(n)) for n in range(4)]
    await asyncio.sleep(1)
    event.set()
    await asyncio.sleep(0.5)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.wait(tasks)
    log(ends(tasks), lock.locked())
    event.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(event.wait(), 1)


@program
async def conditions(log: Log) -> None:
    condition, level = asyncio.Condition(), [0]

    async def waiter(name: int, least: int) -> None:
        async with condition:
            await condition.wait_for(lambda: level[0] >= least)
            log(name, "sees", level[0])

    tasks = [asyncio.create_task(waiter(n, least)) for n, least in enumerate((3, 1, 2, 2))]
    for number in range(1, 4):
        await asyncio.sleep(1)
        async with condition:
            level[0] = number
            condition.notify_all()
    await asyncio.wait(tasks)
    lazy = [asyncio.create_task(waiter(n, 9)) for n in range(3)]
    await asyncio.sleep(1)
    async with condition:
        level[0] = 9
        condition.notify(2)
    lazy[0].cancel()
    await asyncio.sleep(1)
    async with condition:
        condition.notify()
    await asyncio.wait(lazy)
    log(ends(lazy))


@program
async def semaphores_and_barriers(log: Log) -> None:
    semaphore = asyncio.Semaphore(2)

    async def member(n: int) -> None:
        async with semaphore:
            await log.work(n, 1 + n / 8)

    await asyncio.gather(*map(member, range(6)))
    bounded = asyncio.BoundedSemaphore(1)
    with pytest.raises(ValueError, match="released too many"):
        bounded.release()
    barrier = asyncio.Barrier(3)

    async def runner(n: int) -> None:
        await asyncio.sleep(n)
        async with barrier as place:
            log(n, "passes as", place)

    await asyncio.gather(*(runner(n) for n in range(3)))
    stuck = asyncio.create_task(barrier.wait())
    await asyncio.sleep(1)
    await barrier.abort()
    await asyncio.wait([stuck])
    log(ends([stuck]), barrier.broken)


@program
async def callbacks_and_futures(log: Log) -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(3, log, "later")
    loop.call_at(loop.time() + 1, log, "at")
    loop.call_later(2, log, "never").cancel()
    loop.call_soon(log, "soon")
    loop.call_soon(log, "not soon").cancel()
    future: asyncio.Future[str] = loop.create_future()
    future.add_done_callback(lambda done: log("first callback", done.result()))
    future.add_done_callback(lambda done: log("second callback", done.result()))
    loop.call_later(2.5, future.set_result, "set")
    log(await future)
    future.add_done_callback(lambda done: log("third callback", done.result()))
    await asyncio.sleep(1)
    broken: asyncio.Future[str] = loop.create_future()
    broken.set_exception(OSError("broken"))
    with pytest.raises(OSError, match="broken"):
        await broken
    with pytest.raises(asyncio.InvalidStateError):
        future.set_result("again")


@program
async def contexts(log: Log) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    async def child(n: int) -> None:
        log("child", n, name.get())
        name.set(f"child {n}")
        await asyncio.sleep(1 + n)
        log("child", n, name.get())

    name.set("parent")
    tasks = [asyncio.create_task(child(n)) for n in range(2)]
    own = contextvars.Context()
    asyncio.get_running_loop().call_soon(lambda: log("callback", name.get()), context=own)
    name.set("changed")
    await asyncio.wait(tasks)
    log(name.get())


@program
async def knowing_tasks(log: Log) -> None:
    async def child() -> None:
        task = asyncio.current_task()
        assert task is not None
        log(task.get_name(), task.done())
        await asyncio.sleep(1)

    tasks = [asyncio.create_task(child(), name=f"child {n}") for n in range(3)]
    await asyncio.sleep(0.5)
    mine = [task.get_name() for task in asyncio.all_tasks() if task in tasks]
    log(sorted(mine))
    await asyncio.wait(tasks)


@program
async def generators(log: Log) -> None:
    async def numbers() -> AsyncGenerator[int, None]:
        try:
            for number in range(5):
                await asyncio.sleep(1)
                yield number
        finally:
            await asyncio.sleep(0.5)
            log("closed")

    source = numbers()
    async for number in source:
        log(number)
        if number == 2:
            break
    await source.aclose()
    log([number async for number in numbers()])


# --------------------------------------------------------------------------------------- anyio


@program
async def anyio_groups(log: Log) -> None:
    async def starts(
        name: str, *, task_status: anyio.abc.TaskStatus[str] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        await anyio.sleep(1)
        task_status.started(f"{name} is up")
        await log.work(name, 2)

    async with anyio.create_task_group() as group:
        log(await group.start(starts, "server"))
        for n in range(3):
            group.start_soon(log.work, n, 3.5 - n)
    try:
        async with anyio.create_task_group() as group:
            for n in range(6):
                error = ValueError("the third") if n == 3 else None
                group.start_soon(quiet_work, log, n, 1 + (5 * n) % 6 / 4, error)
    except* ValueError as errors:
        log(repr(errors.exceptions))
    async with anyio.create_task_group() as group:
        group.start_soon(quiet_work, log, "a", 9, None)
        await anyio.sleep(1)
        group.cancel_scope.cancel()
    log("cancelled", group.cancel_scope.cancelled_caught)


async def quiet_work(log: Log, name: object, seconds: float, error: Exception | None) -> None:
    """As `work`, without the wording of a cancellation, which numbers scopes and tasks."""
    try:
        await anyio.sleep(seconds)
    except asyncio.CancelledError:
        log(name, "cancelled")
        raise
    log(name, "ends")
    if error is not None:
        raise error


@program
async def anyio_scopes(log: Log) -> None:
    with anyio.move_on_after(1) as scope:
        await quiet_work(log, "a", 5, None)
    log(scope.cancelled_caught, scope.cancel_called)
    with pytest.raises(TimeoutError), anyio.fail_after(2):
        await quiet_work(log, "b", 5, None)
    with anyio.move_on_after(1):
        with anyio.CancelScope(shield=True):
            await quiet_work(log, "shielded", 2, None)
        await quiet_work(log, "not reached", 1, None)
    with anyio.CancelScope() as outer:
        with anyio.move_on_after(9):
            outer.cancel()
            await quiet_work(log, "c", 1, None)
        log("not reached")
    with anyio.move_on_after(1) as scope:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.move_on_after(2, shield=True):
                await quiet_work(log, "cleaning", 1, None)
    scope = anyio.CancelScope(deadline=anyio.current_time() + 1)
    with scope:
        scope.deadline += 3
        await quiet_work(log, "d", 2, None)
    log(anyio.current_time())


@program
async def anyio_swallowing(log: Log) -> None:
    """A cancelled scope cancels again and again, until the task leaves it."""
    with anyio.move_on_after(1):
        for _ in range(5):
            try:
                await anyio.sleep(1)
            except asyncio.CancelledError:
                log("refused")
    log("left at last")


@program
async def anyio_streams(log: Log) -> None:
    for size in (0, 2):
        sender, receiver = anyio.create_memory_object_stream[int](size)

        async def send(name: int, stream: Any) -> None:
            async with stream:
                for number in range(3):
                    await stream.send(10 * name + number)
                    log(name, "sent", number)

        async def receive(name: str, stream: Any) -> None:
            async with stream:
                async for number in stream:
                    log(name, "received", number)
                    await anyio.sleep(1 + number / 64 + (0.5 if name == "x" else 0))

        async with anyio.create_task_group() as group, sender, receiver:
            for n in range(2):
                group.start_soon(send, n, sender.clone())
            for name in "xy":
                group.start_soon(receive, name, receiver.clone())


@program
async def anyio_locks(log: Log) -> None:
    limiter, lock, event = anyio.CapacityLimiter(2), anyio.Lock(), anyio.Event()
    condition, semaphore = anyio.Condition(), anyio.Semaphore(1)

    async def member(n: int) -> None:
        async with limiter:
            await anyio.sleep(1 + n / 8)
            log(n, "was let in", limiter.borrowed_tokens)
        async with lock, semaphore:
            log(n, "alone")
            await anyio.sleep(0.3)
        await event.wait()
        async with condition:
            await condition.wait()
            log(n, "was notified")

    async with anyio.create_task_group() as group:
        for n in range(4):
            group.start_soon(member, n)
        await anyio.sleep(20)
        event.set()
        await anyio.sleep(1)
        for _ in range(4):
            async with condition:
                condition.notify()
            await anyio.sleep(1)


@program
async def both_at_once(log: Log) -> None:
    async with anyio.create_task_group() as tasks, asyncio.TaskGroup() as group:
        group.create_task(quiet_work(log, "a", 1, None))
        tasks.start_soon(quiet_work, log, "b", 2, None)
        with anyio.move_on_after(0.5):
            await asyncio.gather(quiet_work(log, "c", 3, None), quiet_work(log, "d", 4, None))
    async with asyncio.timeout(9):
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(1, scope.cancel)
            await asyncio.shield(asyncio.ensure_future(quiet_work(log, "e", 2, None)))
        await anyio.sleep(3)


# ------------------------------------------------------------------------------- the two loops


@workflow(name="like_asyncio.plays")
async def plays(name: str) -> list[str]:
    log = Log()
    await programs[name](log)
    return log.lines


class JumpingLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, whose time stands still until nothing is ready."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        timers: list[asyncio.TimerHandle] = vars(self)["_scheduled"]
        if not vars(self)["_ready"]:
            due = [timer.when() for timer in timers if not timer.cancelled()]
            self._now = max(self._now, min(due, default=self._now))
        super()._run_once()  # type: ignore[misc]


# A group cancels its tasks, and as_completed starts coroutines, in the order of a set: by address.
BY_ADDRESS = {
    "anyio_groups",
    "as_they_complete",
    "both_at_once",
    "nested_task_groups",
    "task_groups",
}


def under_asyncio(name: str) -> list[str]:
    log = Log()

    async def main() -> None:
        await programs[name](log)

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())
    return log.lines


@pytest.mark.parametrize("name", sorted(programs.keys() - BY_ADDRESS))
def test_a_workflow_sees_what_asyncio_shows(name: str) -> None:
    run = RunByHand(plays, name).fire_all().replay()
    assert run.result() == under_asyncio(name)


@pytest.mark.parametrize("name", sorted(BY_ADDRESS))
def test_where_asyncio_goes_by_address_the_rest_is_alike(name: str) -> None:
    run = RunByHand(plays, name).fire_all().replay()
    assert sorted(run.result()) == sorted(under_asyncio(name))


def histories() -> str:
    """Every program's history, replayed here; for other processes to compare."""
    lines: list[str] = []
    for name in programs:
        run = RunByHand(plays, name).fire_all().replay()
        lines.append(f"{name} {run.result()} {run.history[1:]}")
        discard_all()
    return "\n".join(lines)
