"""`Replayer`: golden histories in the user's own repository."""

import traceback
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    NondeterminismError,
    Replayer,
    Signal,
    UnreadableExport,
    Workflow,
    WorkflowNotFound,
    activity,
    registry,
    side_effect,
    workflow,
)
from everlong.client import Client
from everlong.codec import Encrypt, new_key
from everlong.exceptions import InvalidArguments, MissingKey
from everlong.worker import Worker
from tests.support.hosting import hosting


async def exported(path: Path, flow: Workflow[..., Any], *args: Any) -> str:
    async with hosting(path / "golden.db") as client:
        await client.run(flow, *args, id="golden")
        return await client.export("golden")


async def test_a_golden_history_fits_until_the_code_changes(tmp_path: Path) -> None:
    @activity
    async def tea(cups: int) -> int:
        return cups

    @activity
    async def milk(cups: int) -> int:
        return cups

    @workflow(name="breakfast")
    async def breakfast(cups: int) -> int:
        return await tea(cups) + await milk(cups)

    text = await exported(tmp_path, breakfast, 2)
    golden = tmp_path / "golden.jsonl"
    golden.write_text(text)

    registry.workflows.clear()  # As in a process that imports the new code only.

    @workflow(name="breakfast")
    async def same(cups: int, sugar: bool = False) -> int:
        """Equivalent: other names, other lines, one more parameter with a default."""
        del sugar
        poured = await tea(cups)
        added = await milk(cups)
        return poured + added

    registry.workflows.clear()

    @workflow(name="breakfast")
    async def other(cups: int) -> int:
        return await milk(cups) + await tea(cups)

    for source in (text, golden, str(golden)):
        (done,) = Replayer([same]).replay(source)
        assert (done.fits, done.events, done.workflow) == (True, 6, "breakfast")
        assert (done.fault, done.event, done.advice) == (None, None, "")
    with pytest.raises(NondeterminismError) as caught:
        Replayer([other]).replay(golden)
    error = caught.value
    assert error.seq == 2
    assert "activity 'tea' (number 1)" in error.recorded
    assert "activity 'milk' (number 1)" in error.made
    assert "test_replayer.py" in error.recorded_at
    assert "test_replayer.py" in error.made_at
    assert "while replaying 'golden' (breakfast" in "".join(traceback.format_exception(error))
    (verdict,) = Replayer([other]).check(golden)
    assert not verdict.fits
    assert verdict.event == 2
    assert "patched" in verdict.advice


async def test_nothing_runs_and_nothing_is_stored(tmp_path: Path) -> None:
    ran: list[str] = []

    @activity
    async def runs_once() -> None:
        ran.append("activity")

    def look() -> int:
        ran.append("side effect")
        return 1

    @workflow
    async def quiet() -> int:
        await runs_once()
        return await side_effect(look)

    text = await exported(tmp_path, quiet)
    assert len(ran) == 2
    before = sorted(tmp_path.iterdir())
    Replayer().replay(text)
    assert len(ran) == 2
    assert sorted(tmp_path.iterdir()) == before


async def test_an_event_that_finds_nothing_open_is_named(tmp_path: Path) -> None:
    @activity
    async def twice() -> None: ...

    @workflow(name="shrinks")
    async def long() -> None:
        await twice()
        await twice()

    text = await exported(tmp_path, long)

    registry.workflows.clear()

    @workflow(name="shrinks")
    async def short() -> None:
        await twice()

    (done,) = Replayer([short]).check(text)
    assert (done.event, done.events) == (4, 6)


async def test_what_cannot_be_replayed_is_told(tmp_path: Path) -> None:
    codecs = [Encrypt({"k": new_key()})]
    word = Signal("word_replayed", str)

    @workflow
    async def guarded(secret: str) -> str:
        return await word.receive()

    @workflow
    async def unrelated() -> None: ...

    async with Client.connect(tmp_path / "s.db", codecs=codecs) as client, Worker(client):
        handle = await client.start(guarded, "secret", id="g")
        await handle.signal(word, "x")
        await handle.result()
        text = await client.export("g")
    assert Replayer([guarded], codecs=codecs).replay(text)
    with pytest.raises(MissingKey):
        Replayer([guarded]).replay(text)
    with pytest.raises(WorkflowNotFound, match="there is unrelated"):
        Replayer([unrelated], codecs=codecs).replay(text)
    with pytest.raises(UnreadableExport):
        Replayer([guarded]).replay(text.replace("guarded", "guarbed"))
    with pytest.raises(FileNotFoundError):
        Replayer([guarded]).replay(tmp_path / "none.jsonl")
    with pytest.raises(InvalidArguments, match="@workflow"):
        Replayer([len])  # type: ignore[list-item]
