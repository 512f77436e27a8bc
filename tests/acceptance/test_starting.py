"""Starting: one open execution per id, whatever the policies say and however many race."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from everlong import (
    Client,
    InvalidArguments,
    Signal,
    Worker,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
    continue_as_new,
    workflow,
)
from tests.support.hosting import hosting
from tests.support.other_process import other_process

go_on: Signal[str] = Signal("go on with", str)

IfOpen = Literal["use", "fail", "terminate"]
IfClosed = Literal["allow", "fail", "allow_failed"]


@workflow(name="waits")
async def waits(label: str = "") -> str:
    word = await go_on.receive()
    if word == "fail":
        raise ValueError("as asked")
    return f"{label} {word}"


async def end(client: Client, how: str) -> None:
    handle = client.get_handle("one", waits)
    if how == "terminated":
        await handle.terminate()
    elif how == "cancelled":
        await handle.cancel()
    else:
        await handle.signal(go_on, "fail" if how == "failed" else "end")
    with suppress(WorkflowFailed, WorkflowCancelled, WorkflowTerminated):
        await handle.result()


@pytest.mark.parametrize("if_closed", ["allow", "fail", "allow_failed"])
@pytest.mark.parametrize("if_open", ["use", "fail", "terminate"])
@pytest.mark.parametrize("hosted", [True, False])
async def test_while_one_is_open_if_open_decides(
    path: Path, if_open: IfOpen, if_closed: IfClosed, hosted: bool
) -> None:
    async with Client.connect(path) as client, Worker(client, workflows=[waits] if hosted else []):
        first = await client.start(waits, "first", id="one")

        async def again() -> str | None:
            handle = await client.start(
                waits, "second", id="one", if_open=if_open, if_closed=if_closed
            )
            return handle.run_id

        if if_open == "use":
            assert await again() == first.run_id
        elif if_open == "fail":
            with pytest.raises(WorkflowAlreadyStarted, match=r"'one' is already there \(running\)"):
                await again()
        else:
            assert await again() != first.run_id
            runs = (await client.list(workflow_id="one")).items
            assert [run.status for run in runs] == ["running", "terminated"]
        open_ones = (await client.list(workflow_id="one", status="running")).items
        assert len(open_ones) == 1


@pytest.mark.parametrize("if_open", ["use", "fail", "terminate"])
@pytest.mark.parametrize(
    ("if_closed", "how", "begins"),
    [
        ("allow", "completed", True),
        ("allow", "failed", True),
        ("fail", "completed", False),
        ("fail", "failed", False),
        ("allow_failed", "completed", False),
        ("allow_failed", "failed", True),
        ("allow_failed", "cancelled", True),
        ("allow_failed", "terminated", True),
    ],
)
async def test_once_it_has_ended_if_closed_decides(
    path: Path, if_open: IfOpen, if_closed: IfClosed, how: str, begins: bool
) -> None:
    async with hosting(path, workflows=[waits]) as client:
        first = await client.start(waits, "first", id="one")
        await end(client, how)
        if begins:
            second = await client.start(
                waits, "second", id="one", if_open=if_open, if_closed=if_closed
            )
            assert second.run_id != first.run_id
            await second.signal(go_on, "end")
            assert await second.result() == "second end"
        else:
            with pytest.raises(WorkflowAlreadyStarted, match=rf"\({how}\)"):
                await client.start(waits, id="one", if_open=if_open, if_closed=if_closed)
            assert len((await client.list(workflow_id="one")).items) == 1


async def test_a_handle_of_an_execution_means_that_one_for_ever(path: Path) -> None:
    async with hosting(path, workflows=[waits]) as client:
        first = await client.start(waits, "first", id="one")
        await end(client, "completed")
        second = await client.start(waits, "second", id="one")
        await client.get_handle("one").signal(go_on, "now")
        assert await first.result() == "first end"
        assert await second.result() == "second now"


@pytest.mark.parametrize("if_open", ["use", "fail", "terminate"])
@pytest.mark.parametrize("hosted", [True, False])
async def test_a_request_id_starts_once(path: Path, if_open: IfOpen, hosted: bool) -> None:
    async with Client.connect(path) as client, Worker(client, workflows=[waits] if hosted else []):

        async def start() -> str | None:
            handle = await client.start(waits, id="one", if_open=if_open, request_id="r-1")
            return handle.run_id

        assert await start() == await start()
        (only,) = (await client.list(workflow_id="one")).items
        assert only.status == "running"


async def test_a_request_id_answers_also_when_the_run_has_ended_or_begun_anew(path: Path) -> None:
    @workflow
    async def flow(again: bool = True) -> str:
        if again:
            continue_as_new(again=False)
        return await go_on.receive()

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow, id="one", request_id="r-1")
            await handle.signal(go_on, "end")
            await handle.result()
        async with Worker(client):
            repeated = await client.start(
                flow, id="one", request_id="r-1", if_open="fail", if_closed="fail"
            )
            assert await repeated.result() == "end"
            assert len((await client.list(workflow_id="one")).items) == 2


@pytest.mark.parametrize("hosted", [True, False])
async def test_a_request_id_that_found_an_execution_begins_no_other(
    path: Path, hosted: bool
) -> None:
    async with Client.connect(path) as client:
        async with Worker(client, workflows=[waits] if hosted else []):
            first = await client.start(waits, "first", id="one")
            used = await client.start(waits, "second", id="one", request_id="r-1")
            assert used.run_id == first.run_id
            await first.terminate()
            again = await client.start(waits, "second", id="one", request_id="r-1")
            assert again.run_id == first.run_id
            with pytest.raises(WorkflowTerminated):
                await again.result()
        assert len((await client.list(workflow_id="one")).items) == 1


@pytest.mark.parametrize("hosted", [True, False])
async def test_a_start_in_the_place_of_another_is_remembered_by_what_it_began(
    path: Path, hosted: bool
) -> None:
    async with Client.connect(path) as client, Worker(client, workflows=[waits] if hosted else []):
        first = await client.start(waits, id="one")
        second = await client.start(waits, id="one", if_open="terminate", request_id="r-1")
        assert second.run_id != first.run_id
        again = await client.start(waits, id="one", if_open="terminate", request_id="r-1")
        assert again.run_id == second.run_id
        assert (await again.describe()).status == "running"


@pytest.mark.parametrize("bad", ["", "x" * 513, "a\nb", "\x01start r", "\ud800", 7])
async def test_a_request_id_that_is_none_is_refused(path: Path, bad: Any) -> None:
    async with Client.connect(path) as client:
        with pytest.raises(InvalidArguments, match="request_id"):
            await client.start(waits, id="one", request_id=bad)
        assert (await client.list()).items == []
        handle = await client.start(waits, id="one")
        with pytest.raises(InvalidArguments, match="1 to 512 characters"):
            await handle.signal(go_on, "x", request_id=bad)
        with pytest.raises(InvalidArguments, match="1 to 512 characters"):
            await handle.cancel(request_id=bad)


@pytest.mark.parametrize("hosted", [True, False])
async def test_of_twenty_racing_starts_one_begins(path: Path, hosted: bool) -> None:
    async with Client.connect(path) as client, Worker(client, workflows=[waits] if hosted else []):
        handles = await asyncio.gather(
            *(client.start(waits, str(number), id="one") for number in range(20))
        )
        assert len({handle.run_id for handle in handles}) == 1
        assert len((await client.list()).items) == 1
        started = await asyncio.gather(
            *(client.start(waits, str(number), id="two", if_open="fail") for number in range(20)),
            return_exceptions=True,
        )
        refused = [one for one in started if isinstance(one, WorkflowAlreadyStarted)]
        assert len(refused) == 19


async def test_starts_from_two_processes_race_too(path: Path) -> None:
    async with hosting(path, workflows=[waits]) as client, other_process(path) as other:
        ours, theirs = await asyncio.gather(
            client.start(waits, id="one"), other.do("start", workflow="waits", id="one")
        )
        assert ours.run_id == theirs


async def test_another_process_starts_what_is_hosted_here(path: Path) -> None:
    async with hosting(path, workflows=[waits]) as client, other_process(path) as other:
        await other.do("start", workflow="waits", id="far", label="from afar:")
        handle = client.get_handle("far", waits)
        await handle.signal(go_on, "hello")
        assert await handle.result() == "from afar: hello"
        assert await other.do("result", id="far") == "from afar: hello"


async def test_an_unnamed_start_gets_an_id_of_its_own(path: Path) -> None:
    async with hosting(path, workflows=[waits]) as client:
        first, second = await client.start(waits), await client.start(waits)
        assert first.workflow_id != second.workflow_id
        assert first.workflow_id.startswith("waits-")


async def test_namespaces_do_not_see_each_other(path: Path) -> None:
    async with (
        Client.connect(path) as client,
        Client.connect(path, namespace="other") as other,
        Worker(client, workflows=[waits]),
    ):
        ours = await client.start(waits, "ours", id="one")
        theirs = await other.start(waits, "theirs", id="one")
        assert ours.run_id != theirs.run_id
        await other.get_handle("one").signal(go_on, "end")
        assert await theirs.result() == "theirs end"
        assert (await ours.describe()).status == "running"
        assert [one.workflow_id for one in (await other.list()).items] == ["one"]
        assert len((await client.list()).items) == 1


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"if_open": "maybe"}, ValueError, "if_open='maybe': choose one of use, fail, terminate"),
    ({"if_closed": "maybe"}, ValueError, "choose one of allow, fail, allow_failed"),
    ({"id": ""}, InvalidArguments, "1 to 512 characters"),
    ({"id": "x" * 513}, InvalidArguments, "1 to 512 characters"),
    ({"id": 7}, InvalidArguments, "a workflow id is a text"),
    ({"run_timeout": -1}, ValueError, "run_timeout must be between 0 seconds and 100 years"),
    ({"execution_timeout": "1s"}, TypeError, "execution_timeout must be seconds"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD_OPTIONS)
async def test_an_option_that_makes_no_sense_is_named(
    path: Path, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    async with hosting(path, workflows=[waits]) as client:
        start: Callable[..., Any] = client.start
        with pytest.raises(error, match=text):
            await start(waits, **options)
        assert (await client.list()).items == []


async def test_a_failed_start_leaves_the_id_free(path: Path) -> None:
    @workflow
    async def flow(number: int) -> int:
        return number

    async with hosting(path) as client:
        number: Any = "abc"
        with pytest.raises(InvalidArguments):
            await client.start(flow, number, id="one")
        handle = await client.start(flow, 5, id="one", if_open="fail", if_closed="fail")
        assert await handle.result() == 5


async def test_if_open_terminate_does_not_end_what_it_may_not_replace(path: Path) -> None:
    async with hosting(path, workflows=[waits]) as client:
        handle = await client.start(waits, id="one")
        await handle.signal(go_on, "fail")
        with pytest.raises(WorkflowFailed):
            await handle.result()
        second = await client.start(waits, id="one")
        third = await client.start(waits, id="one", if_open="terminate", if_closed="fail")
        assert (await second.describe()).status == "terminated"
        assert (await third.describe()).status == "running"
