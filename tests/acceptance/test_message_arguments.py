"""What is no message is refused at the sender, in words that name what was given."""

from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    InvalidArguments,
    PayloadTooLarge,
    Query,
    Signal,
    Update,
    UpdateRejected,
    Worker,
    workflow,
)

HUGE = "x" * 2_000_001
ask_for = Update("ask_for", int)
end = Signal("end_of_asking", bool)
look = Query("look_at", int)


@workflow
async def asked() -> int:
    count = 0

    @ask_for.handler
    async def _(what: str) -> int:
        nonlocal count
        count += 1
        return len(what)

    @ask_for.validator
    def _(what: str) -> None:
        if what == "interrupt":
            raise KeyboardInterrupt
        if what == "dot":
            raise ValueError("No dots, please.")

    @look.handler
    def _(text: str = "") -> int:
        return count + len(text)

    await end.receive()
    return count


async def test_what_is_too_large_is_refused_before_it_is_stored(tmp_path: Path) -> None:
    async with Client.connect(tmp_path / "it.db") as client, Worker(client, workflows=[asked]):
        handle = await client.start(asked)
        with pytest.raises(PayloadTooLarge, match="the call of update ask_for holds 2"):
            await handle.update(ask_for, HUGE, update_id="one")
        with pytest.raises(PayloadTooLarge, match="the call of update ask_for holds 2"):
            await client.start(asked, id="another", update=(ask_for, HUGE))
        with pytest.raises(PayloadTooLarge, match="the call of query look_at holds 2"):
            await handle.query(look, HUGE)
        with pytest.raises(PayloadTooLarge, match="signal nobody_declared_it holds 2"):
            await handle.signal("nobody_declared_it", HUGE)
        assert len((await client.list()).items) == 1
        assert await handle.update(ask_for, "one", update_id="one") == len("one")  # Still free.
        await handle.signal(end, True)
        assert await handle.result() == 1


@pytest.mark.parametrize("name", ["", "x" * 201, "half \udc80", "a\nb"])
async def test_a_name_that_nobody_can_have_declared_is_refused(tmp_path: Path, name: str) -> None:
    async with Client.connect(tmp_path / "it.db") as client:
        handle = await client.start(asked)
        with pytest.raises(InvalidArguments, match="can name no signal: it "):
            await handle.signal(name, 1)
        with pytest.raises(InvalidArguments, match="can name no update: it "):
            await handle.update(name, 1)
        with pytest.raises(InvalidArguments, match="can name no query: it "):
            await handle.query(name)


@pytest.mark.parametrize("given", [None, asked, 5])
async def test_what_is_no_channel_is_refused(tmp_path: Path, given: Any) -> None:
    async with Client.connect(tmp_path / "it.db") as client:
        handle = await client.start(asked)
        with pytest.raises(InvalidArguments, match="is no Update: give one, or its name"):
            await handle.update(given, "x")
        with pytest.raises(InvalidArguments, match="is no Signal: give one, or its name"):
            await handle.signal(given, "x")
        with pytest.raises(InvalidArguments, match="is no Query: give one, or its name"):
            await handle.query(given)


async def test_a_signal_is_no_update_and_a_text_is_no_pair(tmp_path: Path) -> None:
    async with Client.connect(tmp_path / "it.db") as client:
        handle = await client.start(asked, id="one")
        mixed_up: Any = end
        with pytest.raises(InvalidArguments, match="is no Update"):
            await handle.update(mixed_up, True)
        text: Any = "ask_for"
        with pytest.raises(
            InvalidArguments, match=r"update='ask_for': give \(update, \*arguments\)"
        ):
            await client.start(asked, id="two", update=text)
        text = "ab"
        with pytest.raises(InvalidArguments, match=r"signal='ab': give \(signal, value\)"):
            await client.start(asked, id="two", signal=text)
        assert [row.workflow_id for row in (await client.list()).items] == ["one"]


@pytest.mark.parametrize("update_id", ["", "a\nb", "x" * 513, 5])
async def test_an_update_id_is_called_by_its_name(tmp_path: Path, update_id: Any) -> None:
    async with Client.connect(tmp_path / "it.db") as client:
        handle = await client.start(asked)
        with pytest.raises(InvalidArguments, match=r"^update_id="):
            await handle.update(ask_for, "x", update_id=update_id)
        with pytest.raises(InvalidArguments, match=r"^update_id="):
            await handle.get_update(update_id)
        with pytest.raises(InvalidArguments, match=r"^update_id="):
            await client.start(asked, update=(ask_for, "x"), update_id=update_id)


async def test_a_refusal_reads_well(tmp_path: Path) -> None:
    async with Client.connect(tmp_path / "it.db") as client, Worker(client, workflows=[asked]):
        handle = await client.start(asked)
        with pytest.raises(UpdateRejected, match=r": KeyboardInterrupt\. Nothing was changed\.$"):
            await handle.update(ask_for, "interrupt")
        with pytest.raises(UpdateRejected, match=r"No dots, please\. Nothing was changed\.$"):
            await handle.update(ask_for, "dot")
