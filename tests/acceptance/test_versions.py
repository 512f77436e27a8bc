"""Versions of the code: what is pinned stays, what follows moves, and everybody can see it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    DefinitionError,
    Definitions,
    ExecutionDescription,
    NoAnswer,
    Query,
    QueryFailed,
    Signal,
    Worker,
    Workflow,
    WorkflowClosed,
    WorkflowNotFound,
    activity,
    checkpoint,
    continue_as_new,
    workflow,
)
from tests.support.hosting import described, until

go = Signal("versions.go", int)


def version(name: str, versioning: Any = None) -> Definitions:
    """One version of the same few workflows; each tells which one it is."""
    made = Definitions()
    with made:

        @activity(name="versions.who")
        async def who() -> str:
            return name

        @workflow(name="versions.waits", versioning=versioning)
        async def waits() -> str:
            first = await who()
            await go.receive()
            return f"{first} {await who()} {name}"

        @workflow(name="versions.naps", versioning=versioning)
        async def naps(seconds: float) -> str:
            await asyncio.sleep(seconds)
            return name

        @workflow(name="versions.anew", versioning=versioning)
        async def anew(seen: list[str], force: bool) -> list[str]:
            seen = [*seen, name]
            if len(seen) == 3:
                return seen
            await go.receive()
            if force:
                continue_as_new(seen=seen)
            await checkpoint(seen=seen)
            await go.receive()
            return [*seen, "went on"]

        @workflow(name="versions.parent", versioning=versioning)
        async def parent() -> str:
            await go.receive()
            return await naps(0.0)

    return made


def of(made: Definitions, name: str) -> Workflow[..., Any]:
    return next(one for one in made.workflows if one.definition.name == f"versions.{name}")


def worker(client: Client, made: Definitions, **options: Any) -> Worker:
    return Worker(client, workflows=made.workflows, **options)


def has_begun(events: int) -> Callable[[ExecutionDescription], bool]:
    return lambda found: found.history_events >= events


# ------------------------------------------------------------------------------- side by side


async def test_a_pinned_run_waits_for_its_version(path: Path) -> None:
    old, new = version("old", "pinned"), version("new", "pinned")
    async with Client.connect(path) as client:
        async with worker(client, old, version="1"):
            handle = await client.start(of(old, "waits"), id="w")
            await described(handle, has_begun(3))
        async with worker(client, new, version="2"):
            await handle.signal(go, 1)
            other = await client.start(of(new, "naps"), 0.0, id="n")
            assert await other.result() == "new"
            found = await handle.describe()
            assert (found.status, found.version, found.hosted) == ("running", "1", False)
            assert found.lost_in_a_row == 0
            async with worker(client, old, version="1"):
                assert await handle.result() == "old old old"


async def test_what_follows_moves_to_a_newer_worker_while_the_older_one_stays(path: Path) -> None:
    old, new = version("old"), version("new")
    async with Client.connect(path) as client, worker(client, old, version="1"):
        handle = await client.start(of(old, "waits"), id="w")
        await described(handle, lambda found: found.history_events >= 3)
        async with worker(client, new, version="2", name="second"):
            await described(handle, lambda found: found.owner is None)
            await handle.signal(go, 1)
            assert await handle.result() == "old new new"
            later = await client.start(of(old, "naps"), 0.0, id="n")
            assert await later.result() == "new"
        # The older one is what is left.
        last = await client.start(of(old, "naps"), 0.0, id="l")
        assert await last.result() == "old"


async def test_pinned_runs_stay_beside_newer_ones(path: Path) -> None:
    old, new = version("old", "pinned"), version("new", "pinned")
    async with Client.connect(path) as client, worker(client, old, version="1"):
        first = await client.start(of(old, "waits"), id="first")
        await described(first, has_begun(3))
        async with worker(client, new, version="2"):
            second = await client.start(of(new, "waits"), id="second")
            await described(second, has_begun(3))
            for handle in (first, second):
                await handle.signal(go, 1)
            assert await first.result() == "old old old"
            assert await second.result() == "new new new"


async def test_the_worker_says_what_workflows_do_not(path: Path) -> None:
    old, new = version("old"), version("new", "auto")
    async with Client.connect(path) as client:
        async with worker(client, old, version="1", versioning="pinned"):
            handle = await client.start(of(old, "waits"), id="w")
            await described(handle, lambda found: found.version == "1")
        async with worker(client, new, version="2", versioning="pinned"):
            other = await client.start(of(new, "waits"), id="v")
            await described(other, has_begun(3))
            assert (await other.describe()).version is None
            assert not (await handle.describe()).hosted


async def test_without_a_name_the_version_is_the_digest_of_the_source(path: Path) -> None:
    made = version("only", "pinned")
    async with Client.connect(path) as client, worker(client, made) as here:
        handle = await client.start(of(made, "waits"), id="w")
        found = await described(handle, has_begun(3))
        assert found.version == found.code == here.versions["versions.waits"]


# ---------------------------------------------------------------------------- beginning anew


@pytest.mark.parametrize("force", [True, False])
async def test_a_pinned_run_may_move_when_it_begins_anew(path: Path, force: bool) -> None:
    old, new = version("old", "pinned_run"), version("new", "pinned_run")
    async with Client.connect(path) as client, worker(client, old, version="1"):
        handle = await client.start(of(old, "anew"), [], force, id="a")
        await described(handle, has_begun(1))
        async with worker(client, new, version="2"):
            again = await client.start(of(new, "naps"), 0.1, id="n")
            assert await again.result() == "new"  # The older one has looked meanwhile.
            await handle.signal(go, 1)
            found = await described(handle, lambda one: one.version == "2")
            assert found.history_events >= 1
            for number in range(1 if force else 2):
                await handle.signal(go, number)
            assert await handle.result() == ["old", "new", "new" if force else "went on"]


async def test_a_pinned_execution_stays_when_it_begins_anew(path: Path) -> None:
    old, new = version("old", "pinned"), version("new", "pinned")
    async with Client.connect(path) as client, worker(client, old, version="1"):
        handle = await client.start(of(old, "anew"), [], True, id="a")
        await described(handle, has_begun(1))
        async with worker(client, new, version="2"):
            await handle.signal(go, 1)
            await handle.signal(go, 2)
            assert await handle.result() == ["old", "old", "old"]


async def test_a_child_goes_with_its_pinned_parent(path: Path) -> None:
    old, new = version("old", "pinned"), version("new", "pinned")
    async with Client.connect(path) as client, worker(client, old, version="1"):
        handle = await client.start(of(old, "parent"), id="p")
        await described(handle, has_begun(1))
        async with worker(client, new, version="2"):
            await handle.signal(go, 1)
            assert await handle.result() == "old"


# ------------------------------------------------------------------------------------- moving


async def test_an_operator_moves_a_run_that_waits(path: Path) -> None:
    old, new = version("old", "pinned"), version("new", "pinned")
    async with Client.connect(path) as client:
        async with worker(client, old, version="1"):
            handle = await client.start(of(old, "waits"), id="w")
            await described(handle, has_begun(3))
        async with worker(client, new, version="2"):
            await handle.signal(go, 1)
            await handle.pin("2")
            assert await handle.result() == "old new new"


@pytest.mark.parametrize("to", ["2", None])
async def test_an_operator_moves_a_run_that_is_in_somebodys_hands(
    path: Path, to: str | None
) -> None:
    old, new = version("old", "pinned"), version("new", "pinned")
    async with Client.connect(path) as client, worker(client, old, version="1"):
        handle = await client.start(of(old, "waits"), id="w")
        await described(handle, has_begun(3))
        async with worker(client, new, version="2"):
            await handle.pin(to)
            await described(handle, lambda found: found.owner is None)
            await handle.signal(go, 1)
            assert await handle.result() == "old new new"


async def test_what_cannot_be_pinned_is_refused(path: Path) -> None:
    made = version("only")
    async with Client.connect(path) as client, worker(client, made):
        handle = await client.start(of(made, "naps"), 0.0, id="n")
        await handle.result()
        with pytest.raises(WorkflowClosed):
            await handle.pin("2")
        with pytest.raises(WorkflowNotFound):
            await client.get_handle("nobody").pin("2")
        for wrong in ("", "x" * 101, "a\nb", "\ud800"):
            with pytest.raises(DefinitionError, match="names no version"):
                await handle.pin(wrong)
            with pytest.raises(DefinitionError, match="names no version"):
                Worker(client, version=wrong)
        with pytest.raises(DefinitionError, match="auto, pinned, pinned_run"):
            Worker(client, versioning="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(DefinitionError, match=r"versions\.waits: versioning='never'"):
            version("wrong", "never")


# ------------------------------------------------------------------------------------- looking


async def test_an_operator_sees_when_a_version_is_drained(path: Path) -> None:
    old, new = version("old", "pinned"), version("new", "pinned")

    async with Client.connect(path) as client, worker(client, old, version="1", name="first"):

        async def waiting() -> dict[str | None, tuple[int, int, tuple[str, ...], bool]]:
            return {
                one.version: (one.running, one.blocked, one.workers, one.drained)
                for one in await client.versions()
                if one.type == "versions.waits"
            }

        handle = await client.start(of(old, "waits"), id="w")
        await described(handle, has_begun(3))
        async with worker(client, new, version="2", name="second"):
            assert await waiting() == {
                "1": (1, 0, ("first",), False),
                "2": (0, 0, ("second",), True),
            }
            await handle.signal(go, 1)
            await handle.result()
            assert (await waiting())["1"] == (0, 0, ("first",), True)
        await handle.result()
    async with Client.connect(path, namespace="other") as client:
        assert await client.versions() == []


async def test_a_query_is_answered_by_the_version_of_its_run(path: Path) -> None:
    asked = Query("versions.asked", str)

    def asking(name: str) -> Definitions:
        made = Definitions()
        with made:

            @workflow(name="versions.asks", versioning="pinned")
            async def asks() -> None:
                @asked.handler
                def _() -> str:
                    return name

                await go.receive()

        return made

    old, new = asking("old"), asking("new")
    async with Client.connect(path) as client:
        async with worker(client, old, version="1", cache_size=0):
            handle = await client.start(of(old, "asks"), id="a")
            await described(handle, lambda found: found.history_events and found.owner is None)
            async with worker(client, new, version="2"):
                assert await handle.query(asked) == "old"
        async with worker(client, new, version="2"):
            # On a server this worker keeps silent: the one that it waits for may be elsewhere.
            with pytest.raises((QueryFailed, NoAnswer), match="version 1"):
                await handle.query(asked, timeout=0.5)


async def test_a_blocked_run_waits_for_a_fix_of_its_version(path: Path) -> None:
    old, mended = _breaking(True), _breaking(False)
    async with Client.connect(path) as client:
        async with worker(client, old, version="1"):
            handle = await client.start(of(old, "breaks"), id="b")
            await described(handle, lambda found: found.status == "blocked")
            await handle.pin("1")
        async with worker(client, mended, version="2"):
            assert (await handle.describe()).status == "blocked"
        async with worker(client, mended, version="1"):
            assert await handle.result() == "mended"


def _outside() -> None:
    Path("/nowhere").read_text()


def _breaking(broken: bool) -> Definitions:
    made = Definitions()
    with made:

        @workflow(name="versions.breaks", versioning="pinned")
        async def breaks() -> str:
            if broken:
                _outside()
            return "mended"

    return made


# ----------------------------------------------------------------------------------- the hand-over


async def test_a_new_process_takes_over_when_the_old_one_has_stopped(path: Path) -> None:
    """Here two clients on one file, which is one owner; processes are killed in tests/chaos."""
    made = version("only")
    async with Client.connect(path) as client, worker(client, made):
        handle = await client.start(of(made, "naps"), 0.05, id="n")
        await described(handle, has_begun(1))
    async with Client.connect(path) as client, worker(client, made, wait=5):
        assert await client.get_handle("n").result() == "only"
        assert (await handle_of(client)).lost_in_a_row == 0


async def handle_of(client: Client) -> Any:
    return await client.get_handle("n").describe()


def test_definitions_are_kept_apart() -> None:
    one, two = version("one"), version("two")
    assert {a.definition.name for a in one.workflows} == {b.definition.name for b in two.workflows}
    assert of(one, "naps") is not of(two, "naps")
    assert [a.definition.name for a in one.activities] == ["versions.who"]
    with Definitions():
        Signal("versions.go", str)  # Of another type.
    with pytest.raises(DefinitionError, match="two signals are called"):
        Signal("versions.go", str)


async def test_each_version_has_its_own_signals(path: Path) -> None:
    def typed(kind: Any) -> Definitions:
        made = Definitions()
        with made:
            channel = Signal("versions.typed", kind)

            @workflow(name="versions.receives", versioning="pinned")
            async def receives() -> str:
                return repr(await channel.receive())

        return made

    old, new = typed(int), typed(str)
    async with (
        Client.connect(path) as client,
        worker(client, old, version="1"),
    ):
        first = await client.start(of(old, "receives"), id="first")
        await described(first, has_begun(1))
        async with worker(client, new, version="2"):
            second = await client.start(of(new, "receives"), id="second")
            for handle in (first, second):
                await handle.signal("versions.typed", "7")
            assert await first.result() == "7"
            assert await second.result() == "'7'"


async def test_runs_of_before_there_were_versions_follow(path: Path) -> None:
    made = version("only", "pinned")
    async with Client.connect(path) as client, worker(client, made) as here:
        handle = await client.start(of(made, "waits"), id="w")
        await described(handle, has_begun(3))
        await handle.pin(None)
        assert here.versions

        async def unpinned() -> bool:
            return (await handle.describe()).version is None

        assert await until(unpinned)
        await handle.signal(go, 1)
        assert await handle.result() == "only only only"


# ---------------------------------------------------------------------------- pinned and paused


async def test_a_paused_run_that_is_pinned_goes_on_with_its_version(path: Path) -> None:
    old, new = version("old", "pinned"), version("new", "pinned")
    async with Client.connect(path) as client:
        async with worker(client, old, version="1"):
            handle = await client.start(of(old, "waits"), id="w")
            await described(handle, has_begun(3))
            await handle.pause(reason="a look at it")
            await described(handle, lambda found: found.owner is None)
        async with worker(client, new, version="2"):
            await handle.signal(go, 1)
            await handle.resume()
            other = await client.start(of(new, "naps"), 0.0, id="n")
            assert await other.result() == "new"
            assert (await handle.describe()).status == "running"
            async with worker(client, old, version="1"):
                assert await handle.result() == "old old old"


async def test_a_paused_run_is_pinned_anew_and_stays_paused(path: Path) -> None:
    old, new = version("old", "pinned"), version("new", "pinned")
    async with (
        Client.connect(path) as client,
        worker(client, old, version="1"),
        worker(client, new, version="2"),
    ):
        handle = await client.start(of(new, "waits"), id="w")
        await described(handle, has_begun(3))
        await handle.pause(reason="a look at it")
        await handle.pin("1")
        await handle.signal(go, 1)
        found = await described(handle, lambda found: found.owner is None)
        assert (found.status, found.version) == ("paused", "1")
        await handle.resume()
        assert await handle.result() == "new old old"


def busy_versions(at_work: asyncio.Event, end: asyncio.Event) -> list[Definitions]:
    """Two of a workflow with an attempt that ends when it is told to."""

    def made(name: str) -> Definitions:
        definitions = Definitions()
        with definitions:

            @activity(name="versions.who_ends")
            async def who_ends() -> str:
                at_work.set()
                await end.wait()
                return name

            @workflow(name="versions.busy", versioning="pinned")
            async def busy() -> str:
                first = await who_ends()
                await go.receive()
                return f"{first} {name}"

        return definitions

    return [made("old"), made("new")]


@pytest.mark.parametrize("paused", [False, True])
async def test_what_is_at_work_is_moved_once_that_has_ended(path: Path, paused: bool) -> None:
    at_work, end = asyncio.Event(), asyncio.Event()
    old, new = busy_versions(at_work, end)
    async with Client.connect(path) as client, worker(client, old, version="1"):
        handle = await client.start(of(old, "busy"), id="b")
        await at_work.wait()
        async with worker(client, new, version="2", name="new"):
            if paused:
                await handle.pause(reason="a look at it")
            await handle.pin("2")
            if paused:
                await handle.resume()
            end.set()
            await described(handle, lambda found: found.owner in (None, "new"))
            await handle.signal(go, 1)
            assert await handle.result() == "old new"
