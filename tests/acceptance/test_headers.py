"""What travels beside the arguments: over every hop, recorded once, bounded, and encrypted."""

import signal
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    ContextPropagator,
    DefinitionError,
    Interceptor,
    InvalidArguments,
    NotSerializable,
    PayloadTooLarge,
    Query,
    Retry,
    Signal,
    Update,
    Worker,
    WorkflowFailed,
    activity,
    checkpoint,
    continue_as_new,
    workflow,
)
from everlong.codec import Encrypt, new_key
from everlong.interceptors import CallActivity, ExecuteActivity, Next, StartWorkflow
from everlong.testing import Environment
from tests.support.hosting import hosting, of_kind
from tests.support.other_process import ROOT

tenant: ContextVar[str] = ContextVar("tenant")
trace: ContextVar[Any] = ContextVar("trace", default="none")
PROPAGATOR = ContextPropagator(tenant, trace)

go = Signal("headers-go", str)
who = Query("headers-who", str)
whom = Update("headers-whom", str)


def told() -> str:
    return f"{tenant.get('-')}/{trace.get()}"


@pytest.fixture
def hops() -> Any:
    """A workflow that tells what it finds at each hop."""

    @activity
    async def hd_async() -> str:
        return told()

    @activity
    def hd_thread() -> str:
        return told()

    @workflow
    async def hd_child() -> list[str]:
        return [told(), await hd_async()]

    @workflow
    async def hd_hops(again: int = 0, before: list[str] = []) -> list[str]:  # noqa: B006 - encoded
        @who.handler
        def _() -> str:
            return told()

        @whom.handler
        async def _() -> str:
            return f"{told()} {await hd_async()}"

        found = [told(), await hd_async(), await hd_thread(), *await hd_child()]
        handle = await hd_child.start()
        found += await handle.result()
        if again == 0:
            await checkpoint(again=1, before=found)
        if again == 1:
            continue_as_new(again=2, before=found)
        found.append(await go.receive())
        return [*before, *found]

    return hd_hops


async def test_a_context_reaches_every_hop(hops: Any) -> None:
    async with Environment(interceptors=[PROPAGATOR], amnesia=True) as env:
        tenant.set("acme")
        handle = await env.client.start(hops)
        tenant.set("other")
        await handle.signal(go, "on")
        found = await handle.result()
        assert found[-1] == "on"
        assert set(found[:-1]) == {"acme/none"}
        assert len(found) >= 14


async def test_a_context_survives_crashes_with_and_without_a_cache(hops: Any) -> None:
    for always in (False, True):
        async with Environment(interceptors=[PROPAGATOR], always_replay=always) as env:
            tenant.set("acme")
            handle = await env.client.start(hops, again=3)
            tenant.set("other")
            await env.settled()
            await env.restart_worker()
            await handle.signal(go, "on")
            assert set(await handle.result()) == {"acme/none", "on"}


async def test_an_update_and_a_query_bring_their_callers_context(hops: Any) -> None:
    async with Environment(interceptors=[PROPAGATOR]) as env:
        tenant.set("starter")
        handle = await env.client.start(hops, again=3)
        await env.settled()
        tenant.set("asker")
        assert await handle.query(who) == "asker/none"
        assert await handle.update(whom) == "asker/none asker/none"
        assert tenant.get() == "asker"
        await handle.signal(go, "on")
        assert "asker/none" not in await handle.result()


async def test_an_update_that_comes_with_a_start_has_its_headers(hops: Any) -> None:
    async with Environment(interceptors=[PROPAGATOR]) as env:
        tenant.set("both")
        handle = await env.client.start(hops, again=3, update=(whom,), id="both")
        assert handle.started_update is not None
        assert await handle.started_update.result() == "both/none both/none"


async def test_a_value_that_the_workflow_sets_travels_on_from_there() -> None:
    @activity
    async def hd_late() -> str:
        return told()

    @workflow
    async def hd_sets() -> list[str]:
        first = await hd_late()
        trace.set({"span": 7})
        return [first, await hd_late()]

    async with Environment(interceptors=[PROPAGATOR], always_replay=True) as env:
        assert await env.client.run(hd_sets) == ["-/none", "-/{'span': 7}"]


async def test_a_reset_keeps_the_headers_of_the_start(hops: Any) -> None:
    async with Environment(interceptors=[PROPAGATOR]) as env:
        tenant.set("acme")
        handle = await env.client.start(hops, again=3)
        await handle.signal(go, "on")
        first = await handle.result()
        tenant.set("operator")
        for position in (1, 4):
            again = await handle.fork(f"fork-{position}", position, reapply=True)
            await again.signal(go, "on")
            assert set(await again.result()) == set(first)


async def test_an_export_carries_them_into_another_store(tmp_path: Path, hops: Any) -> None:
    tenant.set("acme")
    async with Client.connect(tmp_path / "a", interceptors=[PROPAGATOR]) as client:
        async with Worker(client):
            handle = await client.start(hops, again=3, id="moved")
            assert await handle.query(who) == "acme/none"
        text = await client.export("moved", children=True)
    tenant.set("other")
    async with Client.connect(tmp_path / "b", interceptors=[PROPAGATOR]) as client:
        await client.import_(text)
        async with Worker(client):
            handle = client.get_handle("moved")
            await handle.signal(go, "on")
            assert set(await handle.result()) == {"acme/none", "on"}


async def test_they_are_shown_with_their_events_and_absent_where_there_are_none(
    tmp_path: Path, hops: Any
) -> None:
    tenant.set("acme")
    async with Client.connect(tmp_path / "db", interceptors=[PROPAGATOR]) as client:
        async with Worker(client):
            handle = await client.start(hops, again=3)
            await handle.signal(go, "on")
            await handle.result()
        for kind in ("RunStarted", "ActivityScheduled", "ChildScheduled"):
            for event in await of_kind(handle, kind):
                assert event.fields["headers"] == {"tenant": "acme"}
    async with hosting(tmp_path / "plain") as client:
        handle = await client.start(hops, again=3)
        await handle.signal(go, "on")
        await handle.result()
        assert not [one for one in await handle.history() if "headers" in one.fields]


async def test_an_encrypted_store_shows_nothing_of_them(tmp_path: Path, hops: Any) -> None:
    secret = "acme-the-secret-tenant"
    codecs = [Encrypt({"k": new_key()})]
    tenant.set(secret)
    path = tmp_path / "db"
    async with (
        Client.connect(path, interceptors=[PROPAGATOR], codecs=codecs) as client,
        Worker(client, cache_size=0),
    ):
        handle = await client.start(hops, again=3)
        assert await handle.update(whom) == f"{secret}/none {secret}/none"
        await handle.signal(go, "on")
        assert set(await handle.result()) == {f"{secret}/none", "on"}
        files = list(tmp_path.iterdir())
        assert not [one.name for one in files if secret.encode() in one.read_bytes()]
        assert not await client.verify()


# ---------------------------------------------------------------------------------------- refused


class Adding(Interceptor):
    def __init__(self, headers: dict[Any, Any]) -> None:
        self.headers = headers

    async def start_workflow(self, call: StartWorkflow, next: Next[StartWorkflow]) -> Any:
        return await next(call.with_headers(self.headers))


@pytest.mark.parametrize(
    ("headers", "error", "words"),
    [
        ({"big": "x" * 16_400}, PayloadTooLarge, r"headers \(big\) holds 16\d+ bytes"),
        ({"odd": object()}, NotSerializable, "header 'odd' is a object"),
        ({"": 1}, InvalidArguments, "names no header"),
        ({7: 1}, InvalidArguments, "names no header"),
    ],
)
async def test_headers_that_will_not_do_are_refused_and_nothing_is_stored(
    tmp_path: Path, hops: Any, headers: Any, error: type[Exception], words: str
) -> None:
    async with Client.connect(tmp_path / "db", interceptors=[Adding(headers)]) as client:
        with pytest.raises(error, match=words):
            await client.start(hops)
        assert not (await client.list()).items


async def test_in_workflow_code_they_are_an_exception_of_the_call() -> None:
    @activity
    async def hd_never() -> None: ...

    @workflow
    async def hd_big() -> str:
        try:
            await hd_never()
        except PayloadTooLarge as error:
            return str(error)
        return "never"

    class Big(Interceptor):
        async def call_activity(self, call: CallActivity, next: Next[CallActivity]) -> Any:
            return await next(call.with_headers(big="x" * 20_000))

    async with Environment(interceptors=[Big()]) as env:
        assert "headers (big)" in await env.client.run(hd_big)


async def test_a_retry_has_the_recorded_headers() -> None:
    seen: list[Any] = []

    @activity(retry=Retry(max_attempts=3))
    async def hd_flaky() -> None:
        raise ValueError("no")

    @workflow
    async def hd_retries() -> None:
        await hd_flaky()

    class Notes(Interceptor):
        async def execute_activity(self, call: ExecuteActivity, next: Next[ExecuteActivity]) -> Any:
            seen.append((call.attempt, dict(call.headers)))
            return await next(call)

    tenant.set("acme")
    async with Environment(interceptors=[PROPAGATOR, Notes()]) as env:
        with pytest.raises(WorkflowFailed):
            await env.client.run(hd_retries)
    assert seen == [(number, {"tenant": "acme"}) for number in (1, 2, 3)]


def test_a_propagator_takes_variables_of_different_names() -> None:
    with pytest.raises(DefinitionError, match="takes context variables, not 'tenant'"):
        ContextPropagator("tenant")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="two context variables are called 'tenant'"):
        ContextPropagator(tenant, ContextVar("tenant"))


# -------------------------------------------------------------------------------- a real process

PROGRAM = """
import asyncio, sys
from contextvars import ContextVar
from everlong import Client, ContextPropagator, Worker, activity, workflow

tenant = ContextVar("tenant", default="-")
ready = asyncio.Event()

@activity
async def hd_notes(step: int) -> str:
    return f"{step} {tenant.get()}"

@activity
async def hd_holds() -> str:
    if sys.argv[2] == "first":
        print("held", flush=True)
        await asyncio.Event().wait()
    return f"held {tenant.get()}"

@workflow
async def hd_killed() -> list[str]:
    return [await hd_notes(1), await hd_holds(), f"workflow {tenant.get()}"]

async def main() -> None:
    connected = Client.connect(sys.argv[1], interceptors=[ContextPropagator(tenant)])
    async with connected as client, Worker(client):
        if sys.argv[2] == "first":
            tenant.set("acme")
            await client.start(hd_killed, id="killed")
        print(await client.get_handle("killed").result(), flush=True)

asyncio.run(main())
"""


async def test_they_are_there_after_kill_9(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    async def begin(part: str) -> Any:
        command = [sys.executable, str(program), str(tmp_path / "db"), part]
        return await create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE)

    first = await begin("first")
    assert await first.stdout.readline() == b"held\n"
    first.send_signal(signal.SIGKILL)
    await first.wait()
    second = await begin("second")
    out, _ = await second.communicate()
    assert out.decode() == "['1 acme', 'held acme', 'workflow acme']\n"
