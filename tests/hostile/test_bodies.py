"""Bytes with the right checksum that nobody of us has written: in the history, in the inbox, in the
blobs, and in values that only workflow code reads.
"""

import asyncio
import hashlib
import random
import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest

from everlong import Client, Worker
from everlong.exceptions import EverlongError
from everlong_engine.model.codec import checksum
from everlong_engine.model.events import CODES, KINDS, RunStarted, RunTerminated, SignalReceived
from tests.chaos.arena import FULL
from tests.hostile import specimen
from tests.hostile.conftest import Command
from tests.proof.record import record
from tests.support.hosting import described, until

SIGNAL, STARTED = CODES[SignalReceived], CODES[RunStarted]
MAPS = b"\xdd\x00\x98\x96\x80" + b"\x80" * 10_000_000
DEEP = b"\x91" * 100_000 + b"\x01"

BODIES: dict[str, Any] = {
    "an unknown ext code": [1, 5, msgpack.ExtType(99, b"?")],
    "a timestamp": [1, 5, msgpack.Timestamp(0, 0)],
    "100,000 deep": DEEP,
    "ten million empty maps": MAPS,
    "an array that promises more": b"\xdd\xff\xff\xff\xff",
    "nothing": b"",
    "cut off": b"\x93\x01\xa5vict",
    "no array": b"\x01",
    "a map": {0: 1, 1: 5, 2: b"x"},
    "another version": [2, 5, b"x"],
    "no fields": [1],
    "too many fields": [1, 5, b"x", b"y", b"z"],
    "texts for numbers": [1, "5", "x"],
    "numbers for texts": [1, 5, 7],
    "a number beyond 63 bits": [1, 2**64 - 1, b"x"],
    "text that is no UTF-8": b"\x93\x01\xa2\xff\xfe\xc4\x00",
    "a name of a megabyte": [1, "n" * 1_000_000, b"x"],
    "an escape sequence": [1, "\x1b[2J\x1b]0;owned\x07", b"\xa1\x1b"],
    "a missing blob": [1, 5, msgpack.ExtType(1, bytes(32))],
    "a value that is no value": [1, 1, b"\xc1"],
    "a value of ten million maps": [1, 1, MAPS],
    "a value 100,000 deep": [1, 1, DEEP],
}


OFTEN = ("an unknown ext code", "100,000 deep", "ten million empty maps", "cut off")
"""In the short form; there, `test_any_event_may_hold_anything` brings the rest by chance."""
IN_HISTORY = list(BODIES) if FULL else [*OFTEN, "texts for numbers", "a value 100,000 deep"]
IN_INBOX = list(BODIES) if FULL else [*OFTEN, "a missing blob", "a value of ten million maps"]


async def _is_told(client: Client) -> None:
    """Blocked, with a reason that a person can act on; or it has ended, for it did not matter."""
    try:
        page = await client.list(workflow_id="victim")
        found = page.items[0]
        async with asyncio.timeout(10):
            while found.status == "running":
                await asyncio.sleep(0.005)  # tidy: waits because only the store can tell
                found = (await client.list(workflow_id="victim")).items[0]
    except EverlongError as error:
        reason = str(error)
        assert "victim" in reason
        return
    if found.status == "blocked":
        assert found.reason is not None
        assert len(found.reason) > 40, found.reason
        assert "Traceback" not in found.reason


def _all_told(path: Path, command: Command, *, is_named: bool, is_stopped: bool = True) -> None:
    told = command("verify")
    if is_named:
        assert told.code == 1
        assert len(told.out) > 60
    asyncio.run(specimen.everything_goes_on(path, _is_told if is_stopped else _ask))
    for look in ("show", "history"):
        found = command(look, "victim")
        if found.code == 3:
            assert "victim" in found.err
    assert "victim" in command("list").out
    command("history", "victim", "--json")
    command("doctor")
    command("terminate", "victim")


@pytest.mark.parametrize("which", IN_HISTORY)
def test_a_body_in_the_history(which: str, tmp_path: Path, command: Command) -> None:
    path = specimen.copy(tmp_path)
    specimen.put_event(path, 3, 2, BODIES[which])
    _all_told(path, command, is_named="value" not in which)


@pytest.mark.parametrize("which", IN_INBOX)
def test_a_body_in_the_inbox(which: str, tmp_path: Path, command: Command) -> None:
    path = specimen.copy(tmp_path)
    body = BODIES[which]
    if "value" in which:
        body = [1, specimen.go.name, body[2]]
    specimen.put_mail(path, SIGNAL, body)
    harmless = "value" in which or which in ("a name of a megabyte", "an escape sequence")
    # A signal whose value or name means nothing is recorded, and stops nobody.
    _all_told(path, command, is_named=not harmless, is_stopped=not harmless)


def test_a_wrong_checksum(tmp_path: Path, command: Command) -> None:
    path = specimen.copy(tmp_path)
    specimen.put_event(path, 2, 64, specimen.event(path, 2), sum_of=0)
    told = command("verify")
    assert "victim" in told.out
    assert "event 2 has a wrong checksum" in told.out
    _all_told(path, command, is_named=True)
    assert "event 2 of the history has a wrong checksum" in command("show", "victim").err


@pytest.mark.parametrize("which", ["another content", "no bytes", "not there"])
def test_a_spilled_payload(which: str, tmp_path: Path, command: Command) -> None:
    path = specimen.copy(tmp_path)
    with specimen.tampered(path) as db:
        how = {
            "another content": "UPDATE blobs SET data = x'00'",
            "no bytes": "UPDATE blobs SET data = 'text'",
            "not there": "DELETE FROM blobs",
        }[which]
        db.execute(how)
    _all_told(path, command, is_named=True)


def test_a_spilled_payload_with_the_digest_of_a_bomb(tmp_path: Path, command: Command) -> None:
    """Right digests all the way: only the value itself is hostile."""
    path = specimen.copy(tmp_path)
    wire = specimen.event(path, 1)
    wire[2] = msgpack.ExtType(1, hashlib.sha256(MAPS).digest())
    specimen.put_event(path, 1, STARTED, wire)
    with specimen.tampered(path) as db:
        digest = hashlib.sha256(MAPS).digest()
        db.execute("UPDATE blobs SET data = ?, digest = ?", (MAPS, digest))
        db.execute("UPDATE blob_uses SET digest = ?", (digest,))
    _all_told(path, command, is_named=False)


# --------------------------------------------------------------------- what no checksum can find


def _resequenced(path: Path, *changes: str) -> None:
    with specimen.tampered(path) as db:
        for text in changes:
            db.execute(text.format(victim="SELECT run_id FROM runs WHERE workflow_id = 'victim'"))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE runs SET next_seq = 9007199254740991 WHERE workflow_id = 'victim'",
        "UPDATE runs SET next_seq = 2 WHERE workflow_id = 'victim'",
        "UPDATE runs SET lease_token = 9007199254740992 WHERE workflow_id = 'victim'",
        "UPDATE runs SET status = 10 WHERE workflow_id = 'victim'",
        "UPDATE runs SET status = 12, closed_us = 1 WHERE workflow_id = 'victim'",
        "UPDATE runs SET run_id = x'ffffffffffffffffffffffffffffffff' WHERE workflow_id = 'victim'",
        "UPDATE runs SET execution_id = zeroblob(16) WHERE workflow_id = 'victim'",
        "UPDATE runs SET owner = x'ffffffffffffffffffffffffffffffff' WHERE workflow_id = 'victim'",
        "UPDATE runs SET losses = 9007199254740992 WHERE workflow_id = 'victim'",
        "DELETE FROM history WHERE seq = 1 AND run_id = ({victim})",
        "DELETE FROM history WHERE run_id = ({victim})",
        "DELETE FROM inbox",
        "UPDATE sqlite_sequence SET seq = 'many'",
        "UPDATE inbox SET position = 9223372036854775806",
        "INSERT INTO history SELECT shard, run_id, 99, kind, at_us, body, checksum, NULL FROM "
        "history WHERE run_id = ({victim}) AND seq = 1",
    ],
)
def test_a_row_that_contradicts_the_others(change: str, tmp_path: Path, command: Command) -> None:
    path = specimen.copy(tmp_path)
    _resequenced(path, change)
    command("verify")
    asyncio.run(specimen.everything_goes_on(path, _ask))
    for look in ("show", "history", "terminate"):
        command(look, "victim")
    assert "healthy-0" in command("list").out


async def _ask(client: Client) -> None:
    try:
        await client.get_handle("victim").describe()
    except EverlongError as error:
        assert len(str(error)) > 20  # noqa: PT017 or it can be told


@pytest.mark.parametrize("where", ["history", "inbox"])
def test_a_second_start_begins_nothing(where: str, tmp_path: Path, command: Command) -> None:
    path = specimen.copy(tmp_path)
    start = specimen.event(path, 1)
    if where == "history":
        specimen.put_event(path, 3, STARTED, start)
    else:
        specimen.put_mail(path, STARTED, start)

    async def is_blocked(client: Client) -> None:
        handle = client.get_handle("victim")
        found = await described(handle, lambda it: it.status == "blocked")
        assert "start" in str(found.reason) or "second time" in str(found.reason)

    asyncio.run(specimen.everything_goes_on(path, is_blocked))


def test_a_history_that_never_starts_is_blocked(tmp_path: Path, command: Command) -> None:
    path = specimen.copy(tmp_path)
    specimen.put_event(path, 1, SIGNAL, [1, specimen.go.name, b"\xa1x"])

    async def is_blocked(client: Client) -> None:
        await described(client.get_handle("victim"), lambda it: it.status == "blocked")

    asyncio.run(specimen.everything_goes_on(path, is_blocked))
    assert command("show", "victim").code in (0, 3)


async def test_a_notice_that_nobody_sent_lets_go_of_nothing(tmp_path: Path) -> None:
    """An owner is told that its run is terminated; its row says that it is not."""
    path = specimen.copy(tmp_path)
    async with Client.connect(path) as client, Worker(client, workflows=specimen.WORKFLOWS):
        handle = await client.start(specimen.flow, "owned", id="owned")
        await described(handle, lambda it: it.history_events == 5 and it.owner is not None)
        with closing(sqlite3.connect(path)) as db, db:
            execution = db.execute(
                "SELECT execution_id FROM runs WHERE workflow_id = 'owned'"
            ).fetchone()[0]
            kind, body = CODES[RunTerminated], specimen.packed([1, "so I say"])
            db.execute(
                "INSERT INTO inbox (shard, execution_id, kind, body, checksum) "
                "VALUES (0, ?, ?, ?, ?)",
                (execution, kind, body, checksum(0, kind, body)),
            )
        await until(partial(_inbox_has_no_notice, path))
        await handle.signal(specimen.go, "go")
        assert await handle.result() == [5, "go"]


async def _inbox_has_no_notice(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        kinds = db.execute("SELECT kind FROM inbox").fetchall()
    return (CODES[RunTerminated],) not in kinds


ATTEMPTS = 400 if FULL else 8
SCALARS: tuple[Any, ...] = (None, True, -1, 0, 2**53, 2**63, 2**64 - 1, 1.5, float("nan"), "", "a")
MORE: tuple[Any, ...] = (b"", b"\x00", [], [[]], {}, ["a", b"b"], msgpack.ExtType(1, b""))


@pytest.mark.timeout(3600 if FULL else 120)
def test_any_event_may_hold_anything(tmp_path: Path, command: Command) -> None:
    """Every kind, in the place of any event, with fields of every type; the checksum is right."""
    # With every change the same ones, so that none is refused by chance; others in the long form.
    began, seed = time.monotonic(), random.randrange(1 << 30) if FULL else 20_261_122
    print(f"seed {seed}")
    chance = random.Random(seed)
    broken: list[str] = []
    for number in range(ATTEMPTS):
        for leftover in tmp_path.iterdir():
            leftover.unlink()
        path = specimen.copy(tmp_path)
        kind, seq = chance.choice(list(KINDS)), chance.randrange(1, 4)
        wire = [1, *(chance.choice(SCALARS + MORE) for _ in range(chance.randrange(1, 9)))]
        if chance.random() < 0.5:
            sound = specimen.event(path, seq)
            kind = {1: 1, 2: 64, 3: 2}[seq]
            sound[chance.randrange(1, len(sound))] = chance.choice(SCALARS + MORE)
            wire = sound
        try:
            if chance.random() < 0.3:
                specimen.put_mail(path, kind, wire)
            else:
                specimen.put_event(path, seq, kind, wire)
            _all_told(path, command, is_named=False, is_stopped=False)
        except (Exception, ExceptionGroup) as error:
            broken.append(f"{number}: {kind} {seq} {wire!r:.300}: {error!r}"[:1500])
    record(
        "hostile events",
        invariants=[7, 13, 14],
        tried="events of any kind with fields of any type, with a right checksum, beside healthy "
        "runs",
        times=ATTEMPTS,
        broken=len(broken),
        seconds=time.monotonic() - began,
        reproduce="EVERLONG_CHAOS=full pytest tests/hostile -k any_event",
    )
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("place", ["history", "inbox"])
def test_an_outcome_whose_run_has_no_id(place: str, tmp_path: Path, command: Command) -> None:
    """Its result is right; that it is for a run is known of answers by token only."""
    path = specimen.copy(tmp_path)
    body = [1, 1, b"\xce\x00\x01\x11p", b"\x00"]
    if place == "history":
        specimen.put_event(path, 3, 2, body)
    else:
        specimen.put_mail(path, 2, body)
    _all_told(path, command, is_named=False, is_stopped=False)
