"""Whoever can write to the file changes what is encrypted: each change is found where it is read.

The run that is concerned is blocked, with a reason that says why; the others go on. The changes are
made as an attacker would: with the right checksums, and without the trigger that guards histories.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import msgpack
import pytest

from everlong import (
    Client,
    Signal,
    TamperedPayload,
    Worker,
    WorkflowHandle,
    activity,
    publish,
    workflow,
)
from everlong.codec import Codec, Compress, Encrypt, new_key
from everlong_engine.model.codec import checksum
from everlong_engine.model.events import CODES, ItemPublished, RunTerminated
from everlong_engine.store.interface import RunFilter
from tests.proof.record import record
from tests.support.command_line import everlong
from tests.support.hosting import described, of_kind

KEY, OTHER = new_key(), new_key()
K1 = Encrypt({"k1": KEY})
K2 = Encrypt({"k2": OTHER})
BOTH = Encrypt({"k1": KEY, "k2": OTHER}, active="k2")
LENIENT = Encrypt({"k1": KEY}, accept_plain=True)

STARTED, COMPLETED, SIGNALLED = 1, 2, 7

go = Signal("tampering-go", str)


@activity(name="tampering-step")
async def step(text: str) -> str:
    return f"{text} done"


@workflow(name="tampering")
async def flow(text: str) -> list[str]:
    return [await step(text), await step(text + "!"), await go.receive()]


@workflow(name="tampering-other")
async def other_flow(text: str) -> list[str]:
    """With the same parameters: what a row calls the run decides which code it is fed to."""
    return [text]


async def begun(path: Path, codecs: Sequence[Codec], *ids: str) -> None:
    """Executions that wait for their signal, asleep in the store."""
    async with Client.connect(path, codecs=codecs) as client, Worker(client, workflows=[flow]):
        for id in ids:
            await client.start(flow, f"secret of {id}", id=id)
        for id in ids:
            await described(client.get_handle(id), lambda it: it.history_events == 5)


class File:
    """The store, as an attacker sees it."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("DROP TRIGGER history_never_changes")

    def close(self) -> None:
        self._db.close()

    def event(self, id: str, seq: int) -> tuple[int, list[Any]]:
        row = self._db.execute(
            "SELECT kind, body FROM history JOIN runs USING (run_id) "
            "WHERE workflow_id = ? AND seq = ?",
            (id, seq),
        ).fetchone()
        return row[0], msgpack.unpackb(row[1])

    def put(self, id: str, seq: int, kind: int, wire: list[Any]) -> None:
        body = msgpack.packb(wire)
        self._db.execute(
            "UPDATE history SET kind = ?, body = ?, checksum = ? WHERE seq = ? AND run_id = "
            "(SELECT run_id FROM runs WHERE workflow_id = ?)",
            (kind, body, checksum(seq, kind, body), seq, id),
        )

    def change(self, id: str, seq: int, field: int, change: Callable[[bytes], object]) -> None:
        kind, wire = self.event(id, seq)
        wire[field] = change(wire[field])
        self.put(id, seq, kind, wire)

    def rename(self, id: str, kind: str) -> None:
        self._db.execute("UPDATE runs SET type = ? WHERE workflow_id = ?", (kind, id))

    def mail(self, id: str) -> tuple[int, int, list[Any]]:
        position, kind, body = self._db.execute(
            "SELECT position, kind, body FROM inbox JOIN runs USING (execution_id) "
            "WHERE workflow_id = ?",
            (id,),
        ).fetchone()
        return position, kind, msgpack.unpackb(body)

    def put_mail(self, position: int, kind: int, wire: list[Any]) -> None:
        body = msgpack.packb(wire)
        self._db.execute(
            "UPDATE inbox SET body = ?, checksum = ? WHERE position = ?",
            (body, checksum(0, kind, body), position),
        )


# Fields of the stored events: the schema's version is the first.
ARGUMENTS, ACTIVITY_ID, RESULT, PAYLOAD = 2, 1, 2, 2


async def goes_on(client: Client, *ids: str) -> None:
    for id in ids:
        handle = client.get_handle(id, flow)
        await handle.signal(go, "go")
        assert await handle.result() == [f"secret of {id} done", f"secret of {id}! done", "go"]


async def blocked(client: Client, id: str) -> str:
    handle: WorkflowHandle[Any] = client.get_handle(id)
    return (await described(handle, lambda it: it.status == "blocked")).reason or ""


async def test_any_changed_byte_blocks_its_run_and_no_other(tmp_path: Path) -> None:
    began, path = perf_counter(), tmp_path / "everlong.db"
    await begun(path, [K1], "healthy", "probe")
    with closing(File(path)) as file:
        length = len(file.event("probe", 1)[1][ARGUMENTS])
    path.unlink()
    victims = [f"{at:05}" for at in range(length)]  # Ids as long as "probe": payloads as long, too.
    await begun(path, [K1], "healthy", *victims)
    with closing(File(path)) as file:
        for at, id in enumerate(victims):
            file.change(id, 1, ARGUMENTS, lambda data, at=at: _flipped(data, at))  # type: ignore[misc]
    async with Client.connect(path, codecs=[K1]) as client:
        for id in victims:
            await client.get_handle(id).signal(go, "wake up")
        async with Worker(client, workflows=[flow]):
            await goes_on(client, "healthy")
            reasons = [await blocked(client, id) for id in victims]
    faults = ("TamperedPayload", "MissingKey", "PlainPayload")
    unnoticed = [reason for reason in reasons if not reason.startswith(faults)]
    assert not unnoticed
    assert {fault for fault in faults for reason in reasons if fault in reason} == set(faults)
    assert not any("secret" in reason for reason in reasons)
    record(
        "changed bytes of encrypted payloads",
        invariants=[13, 14],
        tried="bytes of a stored payload changed, each in a run of its own, with a right checksum",
        times=length,
        broken=len(unnoticed),
        seconds=perf_counter() - began,
        reproduce="pytest tests/secrets/test_tampering.py",
    )


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def _swap(file: File, one: tuple[str, int], other: tuple[str, int], field: int) -> None:
    (kind, first), (_, second) = file.event(*one), file.event(*other)
    first[field], second[field] = second[field], first[field]
    file.put(*one, kind, first)
    file.put(*other, kind, second)


def _between_runs(file: File) -> None:
    _swap(file, ("victim", 1), ("other", 1), ARGUMENTS)


def _between_places(file: File) -> None:
    _swap(file, ("victim", 3), ("victim", 5), RESULT)


def _subjects(file: File) -> None:
    """The number of the activity is readable; it is bound all the same."""
    file.change("victim", 3, ACTIVITY_ID, lambda _: 2)


def _other_code(file: File) -> None:
    file.rename("victim", "tampering-other")


def _cut(file: File) -> None:
    file.change("victim", 3, RESULT, lambda data: data[:-1])


def _unknown_key(file: File) -> None:
    file.change("victim", 3, RESULT, lambda data: data.replace(b"k1", b"k9", 1))


def _downgrade(file: File) -> None:
    file.change("victim", 3, RESULT, lambda _: msgpack.packb("what I like"))


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (_between_runs, "TamperedPayload"),
        (_between_places, "TamperedPayload"),
        (_subjects, "TamperedPayload"),
        (_other_code, "TamperedPayload"),
        (_cut, "TamperedPayload"),
        (_unknown_key, "MissingKey: A payload is encrypted with the key 'k9'"),
        (_downgrade, "PlainPayload"),
    ],
)
async def test_what_was_moved_cut_or_put_in_is_found(
    tmp_path: Path, attack: Callable[[File], None], told: str
) -> None:
    path = tmp_path / "everlong.db"
    await begun(path, [K1], "victim", "other", "healthy")
    with closing(File(path)) as file:
        attack(file)
    async with Client.connect(path, codecs=[K1]) as client:
        await client.get_handle("victim").signal(go, "wake up")
        async with Worker(client, workflows=[flow, other_flow]):
            assert (await blocked(client, "victim")).startswith(told)
            await goes_on(client, "healthy")


async def test_a_message_cannot_be_given_to_another_execution(tmp_path: Path) -> None:
    path = tmp_path / "everlong.db"
    await begun(path, [K1], "victim", "other")
    async with Client.connect(path, codecs=[K1]) as client:
        await client.get_handle("victim").signal(go, "for the victim")
        await client.get_handle("other").signal(go, "for the other")
    with closing(File(path)) as file:
        position, kind, _ = file.mail("victim")
        file.put_mail(position, kind, file.mail("other")[2])
    async with Client.connect(path, codecs=[K1]) as client, Worker(client, workflows=[flow]):
        assert (await blocked(client, "victim")).startswith("TamperedPayload")
        result = await client.get_handle("other", flow).result()
        assert result[-1] == "for the other"


# --------------------------------------------------------------------- keys that come and go


async def test_an_item_opens_in_its_place_alone(tmp_path: Path) -> None:
    path = tmp_path / "everlong.db"

    @workflow(name="tampering-tells")
    async def tells() -> None:
        await publish("told", "first")
        await publish("told", "second")

    async with Client.connect(path, codecs=[K1]) as client, Worker(client, workflows=[tells]):
        await client.run(tells, id="one")
        await client.run(tells, id="two")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TRIGGER published_never_changes")
        rows = db.execute("SELECT execution_id, number, payload FROM published").fetchall()
        for (execution_id, number, _), (_, _, payload) in pairwise(rows):
            stored = checksum(number, CODES[ItemPublished], payload)
            db.execute(
                "UPDATE published SET payload = ?, checksum = ? "
                "WHERE execution_id = ? AND number = ?",
                (payload, stored, execution_id, number),
            )
    async with Client.connect(path, codecs=[K1]) as client:
        for id, start in (("one", 0), ("one", 1), ("two", 0)):
            with pytest.raises(TamperedPayload):
                await anext(client.get_handle(id).subscribe("told", start))
        assert await anext(client.get_handle("two").subscribe("told", 1)) == "second"
        assert len(await client.verify()) == 2, "each of the runs"


async def test_a_missing_key_blocks_a_run_until_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "everlong.db"
    await begun(path, [K1], "late")
    async with Client.connect(path, codecs=[K1]) as client:
        await client.get_handle("late").signal(go, "go")
    without: list[Sequence[Codec]] = [[K2], [], [Compress()]]
    for codecs in without:
        async with Client.connect(path, codecs=codecs) as client, Worker(client, workflows=[flow]):
            reason = await blocked(client, "late")
            assert reason.startswith("MissingKey: A payload is encrypted with the key 'k1'")
            assert not await of_kind(client.get_handle("late"), "SignalReceived")
    async with Client.connect(path, codecs=[BOTH]) as client, Worker(client, workflows=[flow]):
        assert (await client.get_handle("late", flow).result())[-1] == "go"
    with closing(File(path)) as file:
        used = [bytes(file.event("late", seq)[1][RESULT]) for seq in (3, 5)]
        assert all(data.startswith(b"\xc1E\x01\x02k1") for data in used)
        assert file.event("late", 6)[1][PAYLOAD].startswith(b"\xc1E\x01\x02k2")


async def test_verify_opens_every_payload_if_it_has_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "everlong.db"
    await begun(path, [K1], "whole", "changed", "mailed")
    async with Client.connect(path, codecs=[K1]) as client:
        await client.get_handle("mailed").signal(go, "go")
        assert await client.verify() == []
    with closing(File(path)) as file:
        file.change("changed", 1, ARGUMENTS, lambda data: _flipped(data, len(data) - 1))
    codecs = tmp_path / "codecs.toml"
    codecs.write_text(f'[keys]\nk1 = "{KEY}"\n')
    codecs.chmod(0o600)
    with_keys, without = (("verify", "--codecs", str(codecs)), ("verify",))
    found = everlong(*with_keys, folder=tmp_path)
    assert found.code == 1
    assert "TamperedPayload" in found.out
    assert found.out.count("✗") == 1
    assert everlong(*without, folder=tmp_path).code == 0
    async with Client.connect(path, codecs=[K2]) as client:
        problems = [one.text for one in await client.verify()]
    assert len(problems) == 3
    assert all(text.startswith("MissingKey") for text in problems)


async def test_the_notice_of_a_termination_is_no_fault(tmp_path: Path) -> None:
    """It lies there for the worker that had the run, which may be gone."""
    path = tmp_path / "everlong.db"
    async with Client.connect(path, codecs=[K1]) as client:
        handle = await client.start(flow, "ended", id="ended")
        row = (await client.engine.store.list_runs(RunFilter("default"), 1, None))[0]
        assert await client.engine.store.claim_run(b"g" * 16, row.shard, row.run_id) is not None
        await handle.terminate("over")
        loaded = await client.engine.store.load(row.shard, row.run_id)
        assert loaded is not None
        assert [mail.kind for mail in loaded.mail] == [CODES[RunTerminated]]
        assert await client.verify() == []


async def test_a_signal_that_a_worker_cannot_open_waits_for_the_key(tmp_path: Path) -> None:
    """Not rejected as one that does not fit its type: it was acknowledged."""
    path = tmp_path / "everlong.db"
    await begun(path, (), "plain")
    async with Client.connect(path, codecs=[K1]) as client:
        await client.get_handle("plain").signal(go, "sealed")
    async with Client.connect(path) as client, Worker(client, workflows=[flow]):
        assert (await blocked(client, "plain")).startswith("MissingKey")
    async with Client.connect(path, codecs=[LENIENT]) as client, Worker(client, workflows=[flow]):
        assert (await client.get_handle("plain", flow).result())[-1] == "sealed"


async def test_a_store_that_was_begun_plain_is_read_only_if_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "everlong.db"
    await begun(path, [Compress(min_bytes=1)], "old")
    async with Client.connect(path, codecs=[K1]) as client:
        await client.get_handle("old").signal(go, "go")
        async with Worker(client, workflows=[flow]):
            reason = await blocked(client, "old")
    assert reason.startswith("PlainPayload")
    assert "accept_plain=True" in reason
    async with Client.connect(path, codecs=[LENIENT]) as client, Worker(client, workflows=[flow]):
        assert (await client.get_handle("old", flow).result())[-1] == "go"
    with closing(File(path)) as file:
        assert file.event("old", 6)[1][PAYLOAD].startswith(b"\xc1E\x01\x02k1")


async def test_a_sender_without_the_key_cannot_feed_or_stop_a_run(tmp_path: Path) -> None:
    path = tmp_path / "everlong.db"
    await begun(path, [K1], "guarded", "asked")
    async with Client.connect(path) as client:
        await client.get_handle("guarded").signal(go, "forged")
        await client.get_handle("asked").cancel("everlong-sealed: or not, an operator may")
    async with Client.connect(path, codecs=[K1]) as client, Worker(client, workflows=[flow]):
        handle: WorkflowHandle[Any] = client.get_handle("guarded")
        await described(handle, lambda it: it.history_events > 5)
        (rejected,) = await of_kind(handle, "SignalRejected")
        assert "not encrypted" in rejected.fields["error"]
        await goes_on(client, "guarded")
        await described(client.get_handle("asked"), lambda it: it.status == "cancelled")


async def test_replay_sees_what_live_code_saw_with_codecs(tmp_path: Path) -> None:
    """Without a cache every step is a replay, from what was opened."""
    path = tmp_path / "everlong.db"
    codecs: list[Codec] = [Compress(min_bytes=1), K1]
    large = "large " * 30_000
    async with (
        Client.connect(path, codecs=codecs) as client,
        Worker(client, workflows=[flow], cache_size=0),
    ):
        handle = await client.start(flow, large, id="large")
        await handle.signal(go, "go")
        assert await handle.result() == [f"{large} done", f"{large}! done", "go"]
        assert not await client.verify()
