"""queues: what stands in task queues, and who takes from them; and show, of what waits there."""

import asyncio
from pathlib import Path

import pytest

from everlong import Client, Signal, Worker, WorkflowPool, activity, workflow
from tests.cli.conftest import Here
from tests.support.hosting import described


@activity(name="cli_render", queue="gpu")
async def render() -> str:
    return "done"


@workflow(name="cli_film")
async def film() -> str:
    return await render()


@pytest.fixture
def waiting(tmp_path: Path) -> None:
    """Two executions whose activity nobody takes."""

    async def main() -> None:
        async with (
            Client.connect(tmp_path / "everlong.db") as client,
            Worker(client, workflows=[film], queues=["default"]),
        ):
            for name in ("a", "b"):
                handle = await client.start(film, id=name)
                await described(handle, lambda one: one.activities[0].state == "queued")

    asyncio.run(main())


@pytest.mark.usefixtures("waiting")
def test_what_waits_is_listed_with_who_takes_it(here: Here) -> None:
    (one,) = here("queues", "--json").document["queues"]
    assert (one["queue"], one["activity"]) == ("gpu", "cli_render")
    assert (one["waiting"], one["running"], one["workers"]) == (2, 0, [])
    assert one["oldest_at"]
    text = here("queues").out
    assert "gpu" in text
    assert "none takes from it" in text
    assert "queued in gpu" in here("show", "a").out
    warning = "no worker takes from the task queue gpu: 2 calls of cli_render wait"
    assert warning in here("doctor").out
    (shown,) = here("show", "b", "--json").document["activities"]
    assert (shown["state"], shown["queue"], shown["worker"]) == ("queued", "gpu", None)


def test_without_tasks_it_says_so(here: Here, tmp_path: Path) -> None:
    async def make() -> None:
        async with Client.connect(tmp_path / "everlong.db") as client:
            await client.list()

    asyncio.run(make())
    assert here("queues").out == "nothing stands in a task queue\n"
    assert here("queues", "--json").document["queues"] == []


@pytest.mark.usefixtures("waiting")
def test_a_queue_is_limited_closed_and_opened(here: Here) -> None:
    said = here("limit", "gpu", "--concurrency", "2", "--rate", "100/min", "--by", "ann").out
    assert said == "gpu: 2 at once, 100 in 1 min\n"
    said = here("limit", "gpu", "--key-concurrency", "0", "--key-rate", "3/10s").out
    assert said == "gpu: closed per key, 3 in 10 s per key\n"
    assert here("limit", "gpu", "--concurrency", "0", "--by", "ann").out == "gpu: closed\n"
    shown = here("queues").out
    assert "closed" in shown
    assert "set by ann" in shown
    limits = here("queues", "--json").document["limits"]
    (found,) = [one for one in limits if one["queue"] == "gpu"]  # Other tests declare theirs.
    assert (found["queue"], found["concurrency"], found["rate"]) == ("gpu", 0, None)
    assert here("unlimit", "gpu").out == "gpu: no limits\n"
    assert "no limit of this queue was set by hand" in here("unlimit", "gpu").out
    assert here("unlimit", "gpu", "--json").document["was_set"] is False


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give a limit"),
        (("--rate", "often"), "is no rate"),
        (("--rate", "5/week"), "is no rate"),
        (("--rate", "0/s"), "is no rate"),
        (("--key-rate", "5/0s"), "is no rate"),
        (("--concurrency", "-1"), "--concurrency"),
    ],
)
def test_a_limit_that_is_none_is_refused(here: Here, options: tuple[str, ...], says: str) -> None:
    done = here("limit", "gpu", *options)
    assert done.code == 2
    assert says in done.err


@pytest.mark.usefixtures("waiting")
def test_the_queue_of_workflows_has_no_limits(here: Here) -> None:
    done = here("limit", "default", "--concurrency", "1")
    assert done.code == 2
    assert "cannot be limited" in done.err


imports = WorkflowPool("cli_imports", concurrency=1)
leave: Signal[None] = Signal("cli_leave", None)


@workflow(name="cli_import", pool=imports)
async def import_one() -> None:
    await leave.receive()


@pytest.fixture
def pooled(tmp_path: Path) -> None:
    """One execution that is under way, and one that waits for its turn."""

    async def main() -> None:
        async with (
            Client.connect(tmp_path / "everlong.db") as client,
            Worker(client, workflows=[import_one]),
        ):
            for name in ("first", "second"):
                await client.start(import_one, id=name)
            second = client.get_handle("second")
            await described(second, lambda one: one.waits_for_turn)

    asyncio.run(main())


@pytest.mark.usefixtures("pooled")
def test_a_pool_is_shown_limited_and_opened(here: Here) -> None:
    (one,) = here("pools", "--json").document["pools"]
    assert (one["pool"], one["waiting"], one["running"]) == ("cli_imports", 1, 1)
    shown = here("pools").out
    assert "1 at once" in shown
    assert "declared by" in shown
    assert "waits for its turn in a pool" in here("list").out
    assert "when its pool has room" in here("show", "second").out
    assert here("show", "second", "--json").document["waits_for_turn"] is True
    limit = ("limit", "cli_imports", "--pool")
    said = here(*limit, "--key-concurrency", "2", "--at-limit", "cancel_running", "--by", "ann")
    assert said.out == "cli_imports: 2 at once per key, then the oldest is cancelled\n"
    assert "set by ann" in here("pools").out
    assert here("unlimit", "cli_imports", "--pool").out == "cli_imports: 1 at once\n"
    said = here("unlimit", "cli_imports", "--pool")
    assert "no limit of this pool was set by hand" in said.out
    limits = here("queues", "--json").document["limits"]
    assert not any(one["pool"] for one in limits), "pools have a list of their own"


def test_without_pools_it_says_so(here: Here, tmp_path: Path) -> None:
    async def make() -> None:
        async with Client.connect(tmp_path / "everlong.db") as client:
            await client.list()

    asyncio.run(make())
    assert here("pools").out == "nobody is in a pool\n"


@pytest.mark.usefixtures("pooled")
def test_a_policy_is_for_pools(here: Here) -> None:
    said = here("limit", "gpu", "--concurrency", "1", "--at-limit", "refuse")
    assert said.code != 0
    assert "--at-limit is for pools" in said.err
