"""Interceptors: what they stand around, and in which order."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import everlong
from everlong import (
    ApplicationError,
    Client,
    Interceptor,
    NondeterminismError,
    Query,
    Replayer,
    Retry,
    Signal,
    Update,
    Worker,
    WorkflowFailed,
    WorkflowTerminated,
    activity,
    complete_later,
    side_effect,
    workflow,
)
from everlong.interceptors import (
    CallActivity,
    CallChild,
    CancelWorkflow,
    ExecuteActivity,
    ExecuteWorkflow,
    Next,
    QueryWorkflow,
    SignalWorkflow,
    StartWorkflow,
    TerminateWorkflow,
    UpdateWorkflow,
)
from everlong.testing import Environment
from tests.support.hosting import ONCE, hosting
from tests.support.process_activities import declined_in_pool, dies_in_pool, pid_of_pool


class Watching(Interceptor):
    """Writes down what goes in and what comes out."""

    def __init__(self, name: str = "", seen: list[str] | None = None) -> None:
        self.name = name
        self.seen: list[str] = [] if seen is None else seen

    async def _around(self, what: str, call: Any, next: Next[Any]) -> Any:
        self.seen.append(f"{self.name}>{what}")
        try:
            return await next(call)
        finally:
            self.seen.append(f"{self.name}<{what}")

    async def start_workflow(self, call: StartWorkflow, next: Next[StartWorkflow]) -> Any:
        return await self._around(f"start {call.workflow} {call.workflow_id}", call, next)

    async def signal_workflow(self, call: SignalWorkflow, next: Next[SignalWorkflow]) -> Any:
        return await self._around(f"signal {call.signal}={call.value}", call, next)

    async def update_workflow(self, call: UpdateWorkflow, next: Next[UpdateWorkflow]) -> Any:
        return await self._around(f"update {call.update}{call.args}", call, next)

    async def query_workflow(self, call: QueryWorkflow, next: Next[QueryWorkflow]) -> Any:
        return await self._around(f"query {call.query}{call.args}", call, next)

    async def cancel_workflow(self, call: CancelWorkflow, next: Next[CancelWorkflow]) -> Any:
        return await self._around(f"cancel {call.reason}", call, next)

    async def terminate_workflow(
        self, call: TerminateWorkflow, next: Next[TerminateWorkflow]
    ) -> Any:
        return await self._around(f"terminate {call.reason}", call, next)

    async def execute_workflow(self, call: ExecuteWorkflow, next: Next[ExecuteWorkflow]) -> Any:
        return await self._around(f"run {call.workflow}{call.args}", call, next)

    async def handle_update(self, call: UpdateWorkflow, next: Next[UpdateWorkflow]) -> Any:
        return await self._around(f"handle {call.update}{call.args}", call, next)

    async def handle_query(self, call: QueryWorkflow, next: Next[QueryWorkflow]) -> Any:
        return await self._around(f"answer {call.query}{call.args}", call, next)

    async def call_activity(self, call: CallActivity, next: Next[CallActivity]) -> Any:
        return await self._around(f"call {call.activity}{call.args}", call, next)

    async def call_child(self, call: CallChild, next: Next[CallChild]) -> Any:
        return await self._around(f"child {call.workflow}{call.args} {call.waits}", call, next)

    async def execute_activity(self, call: ExecuteActivity, next: Next[ExecuteActivity]) -> Any:
        return await self._around(f"attempt {call.activity} {call.attempt}", call, next)


go = Signal("interceptors-go", str)
state = Query("interceptors-state", str)
add = Update("interceptors-add", int)


@pytest.fixture
def watched() -> Callable[..., Any]:
    """A workflow of everything."""

    @activity
    async def ic_double(number: int) -> int:
        return number * 2

    @workflow
    async def ic_child(number: int) -> int:
        return await ic_double(number)

    @workflow
    async def ic_all(number: int) -> int:
        total = 0

        @state.handler
        def _(word: str) -> str:
            return f"{word} {total}"

        @add.handler
        async def _(more: int) -> int:
            nonlocal total
            total += await ic_double(more)
            return total

        total = await ic_double(number)
        assert await go.receive() == "on"
        total += await ic_child(1)
        handle = await ic_child.start(2)
        return total + await handle.result()

    return ic_all


async def test_each_method_stands_around_its_calls(tmp_path: Path, watched: Any) -> None:
    watching = Watching()
    async with (
        Client.connect(tmp_path / "db", interceptors=[watching]) as client,
        Worker(client),
    ):
        handle = await client.start(watched, 1, id="i")
        assert await handle.update(add, 5) == 12
        assert await handle.query(state, "total") == "total 12"
        await handle.signal(go, "on")
        assert await handle.result() == 12 + 2 + 4
    entered = [one[1:] for one in watching.seen if one.startswith(">")]
    for one in (
        "start ic_all i",
        "run ic_all(1,)",
        "call ic_double(1,)",
        "attempt ic_double 1",
        "update interceptors-add(5,)",
        "handle interceptors-add(5,)",
        "query interceptors-state('total',)",
        "answer interceptors-state('total',)",
        "signal interceptors-go=on",
        "child ic_child(1,) True",
        "child ic_child(2,) False",
        "run ic_child(2,)",
    ):
        assert one in entered
    assert sorted(entered) == sorted(one[1:] for one in watching.seen if one.startswith("<"))


async def test_cancelling_and_terminating_pass_through_them(tmp_path: Path) -> None:
    @workflow
    async def ic_waits() -> None:
        await go.receive()

    class Louder(Interceptor):
        async def cancel_workflow(self, call: CancelWorkflow, next: Next[CancelWorkflow]) -> Any:
            return await next(replace(call, reason=call.reason.upper()))

        async def terminate_workflow(
            self, call: TerminateWorkflow, next: Next[TerminateWorkflow]
        ) -> Any:
            return await next(replace(call, reason=f"{call.workflow_id}: {call.reason}"))

    async with (
        Client.connect(tmp_path / "db", interceptors=[Louder()]) as client,
        Worker(client),
    ):
        handle = await client.start(ic_waits, id="one")
        await handle.cancel("enough")
        with pytest.raises(everlong.WorkflowCancelled, match="ENOUGH"):
            await handle.result()
        handle = await client.start(ic_waits, id="two")
        await handle.terminate("now")
        with pytest.raises(WorkflowTerminated, match="two: now"):
            await handle.result()


@pytest.mark.once
async def test_the_first_is_the_outermost_and_a_worker_has_its_clients_first() -> None:
    @activity
    async def ic_ordered() -> str:
        return "done"

    @workflow
    async def ic_order() -> str:
        return await ic_ordered()

    seen: list[str] = []
    clients = [Watching("a", seen), Watching("b", seen)]
    async with Environment(interceptors=clients) as env:
        await env.client.run(ic_order, id="o")
    runs = [one for one in seen if "run ic" in one or "attempt" in one]
    assert runs == [
        "a>run ic_order()",
        "b>run ic_order()",
        "a>attempt ic_ordered 1",
        "b>attempt ic_ordered 1",
        "b<attempt ic_ordered 1",
        "a<attempt ic_ordered 1",
        "b<run ic_order()",
        "a<run ic_order()",
    ]


@pytest.mark.once
async def test_a_worker_adds_its_own_inside_those_of_its_client(tmp_path: Path) -> None:
    @workflow
    async def ic_own() -> str:
        return "done"

    seen: list[str] = []
    async with (
        Client.connect(tmp_path / "db", interceptors=[Watching("client", seen)]) as client,
        Worker(client, interceptors=[Watching("worker", seen)]),
    ):
        await client.run(ic_own, id="w")
    assert [one for one in seen if ">" in one] == [
        "client>start ic_own w",
        "client>run ic_own()",
        "worker>run ic_own()",
    ]


def test_a_script_takes_them(tmp_path: Path) -> None:
    @workflow
    async def ic_script(number: int) -> int:
        return number

    class More(Interceptor):
        async def start_workflow(self, call: StartWorkflow, next: Next[StartWorkflow]) -> Any:
            (number,) = call.args
            return await next(replace(call, args=(number + 1,)))

    done = everlong.run(ic_script, 1, db=tmp_path / "db", interceptors=[More()])
    assert done == 2


# ----------------------------------------------------------------------------- what they may change


async def test_arguments_and_results_may_be_changed_on_each_side() -> None:
    @activity
    async def ic_times(number: int) -> int:
        return number * 10

    @workflow
    async def ic_changed(number: int) -> int:
        return await ic_times(number) + 1

    class Adding(Interceptor):
        async def start_workflow(self, call: StartWorkflow, next: Next[StartWorkflow]) -> Any:
            return await next(replace(call, kwargs={"number": 2}))

        async def execute_workflow(self, call: ExecuteWorkflow, next: Next[ExecuteWorkflow]) -> Any:
            return await next(replace(call, args=(call.args[0] + 1,))) * 1000

        async def call_activity(self, call: CallActivity, next: Next[CallActivity]) -> Any:
            return await next(replace(call, args=(call.args[0] + 1,))) + 7

        async def execute_activity(self, call: ExecuteActivity, next: Next[ExecuteActivity]) -> Any:
            return await next(replace(call, args=(call.args[0] + 1,))) + 1

    async with Environment(interceptors=[Adding()], always_replay=True) as env:
        handle = await env.client.start(ic_changed, number=1)
        # 2 at the start, 3 in the run, 4 in the call, 5 in the attempt.
        assert await handle.result() == (50 + 1 + 7 + 1) * 1000
        scheduled = next(e for e in await handle.history() if e.kind == "ActivityScheduled")
        assert scheduled.fields["arguments"] == {"number": 4}


async def test_changed_arguments_are_checked_as_those_of_the_caller(tmp_path: Path) -> None:
    @workflow
    async def ic_checked(number: int) -> int:
        return number

    class Wrong(Interceptor):
        async def start_workflow(self, call: StartWorkflow, next: Next[StartWorkflow]) -> Any:
            return await next(replace(call, args=("many",)))

    async with Client.connect(tmp_path / "db", interceptors=[Wrong()]) as client:
        with pytest.raises(everlong.InvalidArguments, match="number"):
            await client.start(ic_checked, 1)
        assert not (await client.list()).items


async def test_interceptors_that_decide_are_part_of_the_history(tmp_path: Path) -> None:
    @workflow
    async def ic_plain() -> str:
        return "done"

    class Deciding(Interceptor):
        async def execute_workflow(self, call: ExecuteWorkflow, next: Next[ExecuteWorkflow]) -> Any:
            region = await side_effect(lambda: "eu")
            return f"{await next(call)} in {region}"

    async with (
        Client.connect(tmp_path / "db", interceptors=[Deciding()]) as client,
        Worker(client, cache_size=0),
    ):
        assert await client.run(ic_plain, id="d") == "done in eu"
        exported = await client.export("d")
    Replayer([ic_plain], interceptors=[Deciding()]).replay(exported)
    with pytest.raises(NondeterminismError):
        Replayer([ic_plain]).replay(exported)


# ---------------------------------------------------------------------------- where activities run


async def test_they_stand_around_threads_and_processes(tmp_path: Path) -> None:
    names: list[str] = []

    @activity
    def ic_threaded(word: str) -> str:
        names.append(threading.current_thread().name)
        return word.upper()

    @workflow
    async def ic_pools() -> list[Any]:
        return [await ic_threaded("a"), await pid_of_pool()]

    watching = Watching()
    async with hosting(tmp_path / "db", interceptors=[watching]) as client:
        word, pid = await client.run(ic_pools)
    assert word == "A"
    assert isinstance(pid, int)
    assert names[0].startswith("everlong-activity")
    assert [one for one in watching.seen if "attempt" in one] == [
        ">attempt ic_threaded 1",
        "<attempt ic_threaded 1",
        ">attempt pid_of_pool 1",
        "<attempt pid_of_pool 1",
    ]


async def test_a_process_behind_them_fails_and_dies_as_without_them(tmp_path: Path) -> None:
    @workflow
    async def ic_failing_pool() -> str:
        try:
            await declined_in_pool.options(retry=ONCE)("no")
        except ApplicationError as error:
            return str(error)
        return "never"

    @workflow
    async def ic_dying_pool(folder: str) -> None:
        await dies_in_pool.options(retry=Retry(max_attempts=2, delay=0), at_most_once=True)(folder)

    async with hosting(tmp_path / "db", interceptors=[Watching()]) as client:
        assert await client.run(ic_failing_pool) == "no"
        with pytest.raises(WorkflowFailed) as caught:
            await client.run(ic_dying_pool, str(tmp_path))
    assert isinstance(caught.value.__cause__, everlong.ActivityLost)


async def test_a_thread_behind_them_times_out_and_an_answer_may_come_later(
    tmp_path: Path,
) -> None:
    release = threading.Event()
    tokens: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    @activity(timeout=0.05, retry=ONCE)
    def ic_stuck() -> None:
        release.wait()

    @activity(retry=ONCE)
    def ic_later() -> str:
        token = everlong.info(everlong.ActivityInfo).token
        loop.call_soon_threadsafe(tokens.put_nowait, token)
        complete_later()

    @workflow
    async def ic_limits() -> str:
        try:
            await ic_stuck()
        except everlong.ActivityTimeout:
            return await ic_later()
        return "never"

    async with hosting(tmp_path / "db", interceptors=[Watching()]) as client:
        handle = await client.start(ic_limits)
        token = await tokens.get()
        await client.complete(token, "answered")
        assert await handle.result() == "answered"
        release.set()


async def test_they_stand_around_fakes_too() -> None:
    @activity
    async def ic_faked() -> str:
        return "real"

    @workflow
    async def ic_fakes() -> str:
        return await ic_faked()

    watching = Watching()
    async with Environment(interceptors=[watching]) as env:
        env.fake(ic_faked, returns="fake")
        env.fail(ic_faked, ValueError("once"))
        assert await env.client.run(ic_fakes) == "fake"
    assert sum(">attempt" in one for one in watching.seen) == 2
