"""Executions that are exported from one store and go on in another, through the public API."""

import os
from pathlib import Path
from unittest import mock

import pytest

from everlong import (
    ActivityInfo,
    Client,
    ImportRefused,
    Output,
    Signal,
    UnreadableExport,
    Update,
    Worker,
    WorkflowAlreadyStarted,
    WorkflowNotFound,
    activity,
    approval,
    checkpoint,
    info,
    publish,
    side_effect,
    workflow,
)
from everlong.codec import Encrypt, new_key
from everlong_engine import limits
from tests.support.command_line import everlong, worker
from tests.support.hosting import hosting, kinds, until


async def test_a_run_goes_on_in_another_store_where_it_stood(tmp_path: Path) -> None:
    go = Signal("go_on", str)
    told = Output("moved", list[str])
    ask = Update("ask_moving", str)
    did: list[str] = []

    @activity
    async def note(what: str) -> str:
        did.append(what)
        return what * 20_000  # Spills.

    @workflow
    async def moving(rounds: int = 0) -> list[object]:
        @ask.handler
        async def _(word: str) -> str:  # pyright: ignore[reportUnusedFunction]
            return f"{word}!"

        seen = await side_effect(os.getpid)
        first = await note("a-b-")
        await publish(told, [first[:4]])
        heard = await go.receive()
        verdict = await approval("Ship it?")
        return [len(first), heard, verdict.approved, seen == os.getpid(), rounds]

    async with hosting(tmp_path / "there.db") as there:
        handle = await there.start(moving, id="m-1", request_id="only-once")
        await handle.update(ask, "why", update_id="u-1")

        async def waits() -> bool:
            return "ItemPublished" in await kinds(handle)

        await until(waits)
    async with Client.connect(tmp_path / "there.db") as there:
        await there.get_handle("m-1").signal(go, "now", request_id="s-1")
        text = await there.export("m-1")
    async with hosting(tmp_path / "here.db") as here:
        (moved,) = await here.import_(text)
        assert await moved.update(ask, "why", update_id="u-1") == "why!"
        await moved.signal(go, "again", request_id="s-1")

        async def asks() -> str | None:
            page = await here.approvals()
            return page.items[0].id if page.items else None

        await here.approve(await until(asks), by="ann")
        assert await moved.result() == [80_000, "now", True, True, 0]
        again = await here.start(moving, id="m-1", request_id="only-once")
        assert again.run_id == moved.run_id
        items = [item async for item in moved.subscribe(told)]
        assert items == [["a-b-"]]
        assert not await here.verify()
    assert did == ["a-b-"], "what was done there is not done again"


async def test_an_execution_of_several_runs_goes_on_behind_them(tmp_path: Path) -> None:
    more = Signal("one_more", int)

    @workflow
    async def counting(total: int = 0) -> int:
        while True:
            total += await more.receive()
            if total >= 10:
                return total
            await checkpoint(total=total)

    with mock.patch.object(limits, "CHECKPOINT_EVENTS", 1):
        async with hosting(tmp_path / "there.db") as there:
            handle = await there.start(counting, id="c-1")
            for number in (1, 2):
                await handle.signal(more, number)

            async def two_behind() -> bool:
                return len((await there.list(workflow_id="c-1")).items) == 3

            await until(two_behind)
            text = await there.export("c-1")
        async with hosting(tmp_path / "here.db") as here:
            (moved,) = await here.import_(text)
            await moved.signal(more, 9)
            assert await moved.result() == 12


async def test_encrypted_payloads_stay_encrypted_and_open_here(tmp_path: Path) -> None:
    codecs = [Encrypt({"k1": new_key()})]
    go = Signal("go_secret", str)

    @workflow
    async def secretive(word: str) -> str:
        return word + await go.receive()

    async with (
        Client.connect(tmp_path / "there.db", codecs=codecs) as there,
        Worker(there),
    ):
        handle = await there.start(secretive, "canary-one", id="s-1")
        await until(lambda: kinds(handle))
    async with Client.connect(tmp_path / "there.db", codecs=codecs) as there:
        await there.get_handle("s-1").signal(go, "canary-two")
    async with Client.connect(tmp_path / "there.db") as keyless:
        text = await keyless.export("s-1")
    assert "canary" not in text
    async with Client.connect(tmp_path / "here.db", codecs=codecs) as here, Worker(here):
        with pytest.raises(ImportRefused, match="encrypted"):
            await here.import_(text, id="s-2")
        (moved,) = await here.import_(text)
        assert await moved.result() == "canary-onecanary-two"


async def test_under_another_id_a_copy_stands_beside_it(tmp_path: Path) -> None:
    go = Signal("go_copy", str)
    keys: list[str] = []

    @activity
    async def paid() -> str:
        keys.append(info(ActivityInfo).idempotency_key)
        return "paid"

    @workflow
    async def copied() -> str:
        word = await go.receive()
        return f"{await paid()} {word}"

    async with hosting(tmp_path / "here.db") as client:
        handle = await client.start(copied, id="one")
        await until(lambda: kinds(handle))
        text = await client.export("one")
        with pytest.raises(ImportRefused, match="in this store already"):
            await client.import_(text)
        (copy,) = await client.import_(text, id="two")
        with pytest.raises(WorkflowAlreadyStarted, match="never written over"):
            await client.import_(text, id="two")
        await handle.signal(go, "a")
        await copy.signal(go, "b")
        assert [await handle.result(), await copy.result()] == ["paid a", "paid b"]
        assert not await client.verify()
    assert len(set(keys)) == 2


async def test_what_is_closed_on_arrival_is_only_looked_at(tmp_path: Path) -> None:
    go = Signal("go_closed", str)

    @workflow
    async def looked_at() -> str:
        return await go.receive()

    async with hosting(tmp_path / "there.db") as there:
        handle = await there.start(looked_at, id="l-1")
        await until(lambda: kinds(handle))
        text = await there.export("l-1")
    async with hosting(tmp_path / "here.db") as here:
        (moved,) = await here.import_(text, closed=True)
        assert (await moved.describe()).status == "terminated"
        assert await kinds(moved) == ["RunStarted", "RunTerminated"]
        assert not await here.verify()


async def test_a_parent_goes_on_with_its_children(tmp_path: Path) -> None:
    go = Signal("go_kid", str)

    @workflow
    async def kid() -> str:
        return await go.receive()

    @workflow
    async def mother() -> str:
        return f"mine said {await kid.options(id='k-1')()}"

    async with hosting(tmp_path / "there.db") as there:
        handle = await there.start(mother, id="m-2")

        async def has_child() -> bool:
            return bool((await there.list(workflow_id="k-1", status="running")).items)

        await until(has_child)
        alone = await there.export("m-2")
        both = await there.export("m-2", children=True)
        del handle
    async with hosting(tmp_path / "here.db") as here:
        with pytest.raises(ImportRefused, match="waits for 'k-1'"):
            await here.import_(alone)
        with pytest.raises(ImportRefused, match="its own id"):
            await here.import_(alone, id="m-3")
        with pytest.raises(ValueError, match="one id for 2"):
            await here.import_(both, id="m-3")
        assert not (await here.list()).items
        moved, child = await here.import_(both)
        await child.signal(go, "hello")
        assert await moved.result() == "mine said hello"


async def test_a_worker_of_another_process_finds_what_was_imported(tmp_path: Path) -> None:
    """Two engines on one file: what one brings in, the other's worker drives."""
    flow = tmp_path / "brought.py"
    flow.write_text(
        "from everlong import workflow\n"
        "@workflow\nasync def brought(word: str) -> str:\n    return word\n"
    )
    assert everlong("start", "brought", "-a", "word=hi", "--id", "b", folder=tmp_path).code == 0
    text = everlong("export", "b", folder=tmp_path).out
    (tmp_path / "b.jsonl").write_text(text)
    with worker(str(flow), "--db", "other.db", folder=tmp_path):
        done = everlong("import", "b.jsonl", "--db", "other.db", "--json", folder=tmp_path)
        assert done.document["imported"][0]["workflow_id"] == "b"
        async with Client.connect(tmp_path / "other.db") as client:
            assert await client.get_handle("b").result() == "hi"


async def test_what_is_not_there_or_no_export_is_told(tmp_path: Path) -> None:
    async with Client.connect(tmp_path / "here.db") as client:
        with pytest.raises(WorkflowNotFound):
            await client.export("nobody")
        with pytest.raises(WorkflowNotFound, match="has no run 'x'"):
            await client.export("nobody", run_id="x")
        with pytest.raises(ValueError, match="at least one"):
            await client.import_()
        with pytest.raises(FileNotFoundError):
            await client.import_(tmp_path / "none.jsonl")
        (tmp_path / "song.mp3").write_bytes(bytes(range(256)))
        with pytest.raises(UnreadableExport, match=r"song.mp3.*Line 1"):
            await client.import_(tmp_path / "song.mp3")
