"""Broken interceptors: each is named, fails as what it stands around would, and loses nothing."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import everlong
from everlong import (
    Client,
    DefinitionError,
    EverlongError,
    Interceptor,
    InterceptorError,
    Query,
    QueryFailed,
    Signal,
    Update,
    Worker,
    WorkflowFailed,
    activity,
    workflow,
)
from everlong.interceptors import (
    CallActivity,
    ExecuteActivity,
    ExecuteWorkflow,
    Next,
    QueryWorkflow,
)
from everlong.testing import Environment
from tests.support.hosting import AT_ONCE, described, hosting


class Watching(Interceptor):
    """Stands around, and does nothing."""

    async def execute_workflow(self, call: ExecuteWorkflow, next: Next[ExecuteWorkflow]) -> Any:
        return await next(call)


go = Signal("broken-go", str)
state = Query("broken-state", str)
add = Update("broken-add", int)


def broken(method: str, how: str) -> Interceptor:
    """An interceptor one method of which is at fault."""

    async def raises(self: Any, call: Any, next: Next[Any]) -> Any:
        raise KeyError("the interceptor's own")

    async def forgets(self: Any, call: Any, next: Next[Any]) -> Any:
        return None

    async def twice(self: Any, call: Any, next: Next[Any]) -> Any:
        await next(call)
        return await next(call)

    async def other(self: Any, call: Any, next: Next[Any]) -> Any:
        return await next("something else")

    made = {"raises": raises, "forgets": forgets, "twice": twice, "other": other}[how]
    kind: type[Interceptor] = type("Broken", (Interceptor,), {method: made})
    return kind()


WORDS = {
    "forgets": r"Broken\.{} returned without `await next\(call\)`",
    "twice": r"Broken\.{} called next\(\) twice",
    "other": r"Broken\.{} gave next\(\) 'something else'",
}


@pytest.mark.parametrize("how", ["forgets", "twice", "other"])
async def test_a_broken_one_of_a_client_is_named(tmp_path: Path, how: str) -> None:
    @workflow
    async def ic_start() -> str:
        return await go.receive()

    words = WORDS[how]
    async with hosting(tmp_path / "db") as good:
        handle = await good.start(ic_start, id="there")
        calls: tuple[tuple[str, Callable[[Client], Any]], ...] = (
            ("start_workflow", lambda c: c.start(ic_start, id="new")),
            ("signal_workflow", lambda c: c.get_handle("there").signal(go, "x")),
            ("query_workflow", lambda c: c.get_handle("there").query("?")),
            ("cancel_workflow", lambda c: c.get_handle("there").cancel()),
            ("update_workflow", lambda c: c.get_handle("there").start_update("?")),
            ("terminate_workflow", lambda c: c.get_handle("there").terminate()),
        )
        for method, do in calls:
            if how == "twice" and method != "start_workflow":
                continue
            bad = Client.connect(tmp_path / "db", interceptors=[broken(method, how)])
            async with bad as client:
                with pytest.raises(InterceptorError, match=words.format(method)):
                    await do(client)
        if how != "twice":
            assert (await handle.describe()).status == "running"


@pytest.mark.parametrize("how", ["forgets", "twice", "other"])
@pytest.mark.parametrize("method", ["execute_workflow", "call_activity", "call_child"])
async def test_a_run_with_a_broken_one_is_blocked_and_goes_on_after_the_fix(
    tmp_path: Path, method: str, how: str
) -> None:
    ran: list[str] = []

    @activity
    async def ic_counts() -> str:
        ran.append("counted")
        return "counted"

    @workflow
    async def ic_leaf() -> str:
        return "leaf"

    @workflow
    async def ic_blocked(child: bool) -> str:
        return f"{await ic_counts()} {await ic_leaf() if child else 'leaf'}"

    async with Client.connect(tmp_path / "db") as client:
        async with Worker(client, interceptors=[broken(method, how)]):
            handle = await client.start(ic_blocked, method == "call_child", id="b")
            found = await described(handle, lambda d: d.status == "blocked")
            assert found.reason is not None
            assert WORDS[how].format(method).replace("\\", "")[:30] in found.reason
        async with Worker(client):
            assert await handle.result() == "counted leaf"
        assert not await client.verify()


async def test_what_one_raises_counts_as_raised_by_the_code_and_names_it(tmp_path: Path) -> None:
    @workflow
    async def ic_raised() -> str:
        return "never"

    async with hosting(
        tmp_path / "db", interceptors=[Watching(), broken("execute_workflow", "raises")]
    ) as client:
        with pytest.raises(WorkflowFailed) as caught:
            await client.run(ic_raised)
    cause = caught.value.__cause__
    assert isinstance(cause, KeyError)
    assert cause.__notes__ == ["raised by the interceptor Broken.execute_workflow"]


async def test_what_the_code_raises_is_not_blamed_on_them(tmp_path: Path) -> None:
    @workflow
    async def ic_guilty() -> str:
        raise LookupError("mine")

    async with hosting(tmp_path / "db", interceptors=[Watching()]) as client:
        with pytest.raises(WorkflowFailed) as caught:
            await client.run(ic_guilty)
    assert not hasattr(caught.value.__cause__, "__notes__")


@pytest.mark.parametrize("how", ["raises", "forgets", "twice", "other"])
async def test_an_attempt_with_a_broken_one_has_failed_and_is_tried_again(how: str) -> None:
    @activity(retry=AT_ONCE)
    async def ic_tried() -> str:
        return "done"

    @workflow
    async def ic_tries() -> str:
        return await ic_tried()

    class Mends(Interceptor):
        bad = broken("execute_activity", how)

        async def execute_activity(self, call: ExecuteActivity, next: Next[ExecuteActivity]) -> Any:
            if call.attempt < 3:
                return await self.bad.execute_activity(call, next)
            return await next(call)

    async with Environment(interceptors=[Mends()]) as env:
        handle = await env.client.start(ic_tries)
        assert await handle.result() == "done"
        scheduled = next(e for e in await handle.history() if e.kind == "ActivityScheduled")
        errors = [one.error for one in scheduled.attempts]
        assert len(errors) >= 2


async def test_a_query_one_may_not_wait_and_its_fault_is_the_querys(tmp_path: Path) -> None:
    @workflow
    async def ic_asked() -> None:
        @state.handler
        def _() -> str:
            return "here"

        await go.receive()

    class Waits(Interceptor):
        async def handle_query(self, call: QueryWorkflow, next: Next[QueryWorkflow]) -> Any:
            if call.args == ():
                await asyncio.sleep(0)
            return await next(call)

    for one, words in (
        (Waits(), "answered at once"),
        (broken("handle_query", "forgets"), "returned without"),
        (broken("handle_query", "raises"), "the interceptor's own"),
    ):
        async with hosting(tmp_path / "db", interceptors=[one]) as client:
            handle = await client.start(ic_asked, id="q")
            with pytest.raises(QueryFailed, match=words):
                await handle.query(state)
            assert (await handle.describe()).status == "running"


async def test_an_update_one_that_raises_fails_the_update_alone(tmp_path: Path) -> None:
    @workflow
    async def ic_updated() -> str:
        @add.handler
        def _(more: int) -> int:
            return more

        return await go.receive()

    async with hosting(tmp_path / "db", interceptors=[broken("handle_update", "raises")]) as client:
        handle = await client.start(ic_updated, id="u")
        with pytest.raises(everlong.UpdateFailed, match="own"):
            await handle.update(add, 1)
        await handle.signal(go, "on")
        assert await handle.result() == "on"


def test_a_clock_in_workflow_code_of_one_is_refused_when_the_worker_is_made() -> None:
    import datetime

    class Stamps(Interceptor):
        async def call_activity(self, call: CallActivity, next: Next[CallActivity]) -> Any:
            return await next(call.with_headers(at=str(datetime.datetime.now(datetime.UTC))))

    class StampsAttempts(Interceptor):
        async def execute_activity(self, call: ExecuteActivity, next: Next[ExecuteActivity]) -> Any:
            return await next(call.with_headers(at=str(datetime.datetime.now(datetime.UTC))))

    client = Client.connect("never-made.db", interceptors=[StampsAttempts()])
    Worker(client)
    with pytest.raises(DefinitionError, match=r"interceptor .*Stamps\.call_activity .*\n.*now"):
        Worker(client, interceptors=[Stamps()])


async def test_a_file_opened_by_workflow_code_of_one_blocks_the_run(tmp_path: Path) -> None:
    @workflow
    async def ic_opens() -> str:
        return "never"

    class Opens(Interceptor):
        async def execute_workflow(self, call: ExecuteWorkflow, next: Next[ExecuteWorkflow]) -> Any:
            Path(__file__).read_text()
            return await next(call)

    async with hosting(tmp_path / "db", interceptors=[Opens()]) as client:
        handle = await client.start(ic_opens)
        found = await described(handle, lambda d: d.status == "blocked")
        assert "ForbiddenCall" in str(found.reason)


def test_what_is_no_interceptor_is_refused() -> None:
    class Plain(Interceptor):
        def start_workflow(self, call: Any, next: Any) -> Any:
            return next(call)

    for given, words in (
        ([Watching], r"give an object, Watching\(\), and not the class"),
        (["x"], "takes objects derived from Interceptor, not 'x'"),
        ([Plain()], r"Plain.start_workflow must be an `async def"),
    ):
        with pytest.raises(DefinitionError, match=words):
            Client.connect("never-made.db", interceptors=given)  # type: ignore[arg-type]
    assert issubclass(InterceptorError, EverlongError)
