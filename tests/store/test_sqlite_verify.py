"""`verify` finds each kind of damage to a SQLite file, and finds none where there is none.

Each test builds a healthy store with everything in it, damages one thing behind the engine's back,
and asks. A damaged history must also never be driven: a claim parks its run.
"""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from everlong_engine.model.entities import EntityChanges, EntityRow, entity_checksum
from everlong_engine.model.events import ActivityCompleted, RunCompleted, RunContinuedAsNew
from everlong_engine.model.runs import AttemptRow, AttemptState, RunStatus
from everlong_engine.model.writes import MarkAttempts
from everlong_engine.store.sqlite.store import SqliteStore
from tests.support.store_rig import Rig, item, signal

LARGE = bytes(range(256)) * 400


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    """One run of every kind."""
    store = await SqliteStore.open(tmp_path / "everlong.db")
    rig = Rig(store)
    row = await rig.owned("victim", signal(b"one"), ActivityCompleted(1, LARGE), signal(b"two"))
    failed = AttemptRow(activity_id=1, attempt=1, state=AttemptState.FAILED, started_us=1)
    await rig.one(MarkAttempts(row.shard, row.run_id, row.lease_token, (failed,)))
    await rig.one(rig.release(row, rig.now_us))
    await rig.send("victim", request_id="r")
    await rig.owned("closed", RunCompleted(b"done"))
    await rig.started("waiting", arguments=LARGE[1:])
    rolled = await rig.owned("rolled")
    await rig.one(rig.append(rolled, RunContinuedAsNew(b"", (), 1), next_run=rig.successor(rolled)))
    told = await rig.owned("told", item(0), item(1), item(2, LARGE), tags=(("n", 7), ("c", "c1")))
    state = EntityRow("a", 7, b"state", entity_checksum("a", 7, b"state"))
    await rig.one(rig.append(told, entities=EntityChanges((state,))))
    await rig.owned("ended")
    await rig.one(rig.terminate("ended"))
    return rig


@pytest.fixture(autouse=True)
async def closes(rig: Rig) -> AsyncIterator[None]:
    yield
    await rig.store.close()


def damage(rig: Rig, *statements: str) -> None:
    """Change the file as nobody should."""
    with closing(sqlite3.connect(rig.store.path, isolation_level=None)) as file:
        file.execute("DROP TRIGGER IF EXISTS history_never_changes")
        file.execute("DROP TRIGGER IF EXISTS published_never_changes")
        for statement in statements:
            assert file.execute(statement).rowcount > 0, statement


VICTIM = "run_id = (SELECT run_id FROM runs WHERE workflow_id = 'victim')"
EXECUTION = "execution_id = (SELECT execution_id FROM runs WHERE workflow_id = 'victim')"

DAMAGE: dict[str, tuple[str, str]] = {
    "a flipped byte": (
        f"UPDATE history SET body = CAST(substr(body, 1, 5) || x'00' || substr(body, 7) AS BLOB)"
        f" WHERE seq = 2 AND {VICTIM}",
        "event 2 has a wrong checksum",
    ),
    "bytes turned into text": (  # One flipped bit of a record's header does that.
        f"UPDATE history SET body = CAST(x'ff' AS TEXT) WHERE seq = 2 AND {VICTIM}",
        "event 2 is damaged: body holds a text that is no UTF-8",
    ),
    "another kind": (
        f"UPDATE history SET kind = 9 WHERE seq = 2 AND {VICTIM}",
        "event 2 has a wrong checksum",
    ),
    "a missing event": (
        f"DELETE FROM history WHERE seq = 2 AND {VICTIM}",
        "events 2 to 2 are missing",
    ),
    "a missing beginning": (
        f"DELETE FROM history WHERE seq = 1 AND {VICTIM}",
        "events 1 to 1 are missing",
    ),
    "a missing end": (
        f"DELETE FROM history WHERE seq = 4 AND {VICTIM}",
        "the run expects event 5, its history ends at 3",
    ),
    "events in the wrong place": (
        f"UPDATE history SET seq = 9 WHERE seq = 4 AND {VICTIM}",
        "event 9 has a wrong checksum",
    ),
    "a wrong next_seq": (
        f"UPDATE runs SET next_seq = 7 WHERE {VICTIM}",
        "the run expects event 7, its history ends at 4",
    ),
    "a closed run that is open": (
        "UPDATE runs SET status = 0 WHERE workflow_id = 'closed'",
        "the run is running, its history says otherwise",
    ),
    "an open run that is closed": (
        f"UPDATE runs SET status = 10 WHERE {VICTIM}",
        "the run is completed, its history says otherwise",
    ),
    "an unknown status": (f"UPDATE runs SET status = 99 WHERE {VICTIM}", "its row cannot be read"),
    "a missing run": ("DELETE FROM runs WHERE workflow_id = 'victim'", "rows in history without"),
    "a missing run's attempts": (
        "DELETE FROM runs WHERE workflow_id = 'victim'",
        "rows in attempts without a run",
    ),
    "a missing run's mail": (
        "DELETE FROM runs WHERE workflow_id = 'victim'",
        "rows in inbox without a run",
    ),
    "a missing run's requests": (
        "DELETE FROM runs WHERE workflow_id = 'victim'",
        "rows in requests without a run",
    ),
    "a missing run's payloads": (
        "DELETE FROM runs WHERE workflow_id = 'victim'",
        "noted for a run that is not there",
    ),
    "a missing payload": ("DELETE FROM blobs", "a spilled payload is missing"),
    "a damaged payload": (
        "UPDATE blobs SET data = CAST(x'07' || substr(data, 2) AS BLOB)",
        "is damaged",
    ),
    "a payload of nobody": ("DELETE FROM blob_uses", "belongs to nobody"),
    "a damaged message": (
        f"UPDATE inbox SET body = x'90' WHERE {EXECUTION}",
        "message 1 has a wrong checksum",
    ),
    "a missing item": ("DELETE FROM published WHERE number = 1", "items 1 to 1 of the output"),
    "a damaged item": (
        "UPDATE published SET payload = x'07' WHERE number = 1",
        "item 1 of the output channel 'told' has a wrong checksum",
    ),
    "items without a run": (
        "DELETE FROM runs WHERE workflow_id = 'told'",
        "rows in published without a run",
    ),
    "a damaged state": (
        "UPDATE entity_states SET payload = x'07' WHERE key = 'a'",
        "the state of the key 'a' has a wrong checksum",
    ),
    "a state that is no state": (
        "UPDATE entity_states SET due_us = 'soon' WHERE key = 'a'",
        "in entity_states is damaged: due_us",
    ),
    "states without a run": (
        "DELETE FROM runs WHERE workflow_id = 'told'",
        "rows in entity_states without a run",
    ),
    "a missing tag": (
        "DELETE FROM tags WHERE name = 'n'",
        "it is found by other tags than its history has",
    ),
    "a tag that nobody set": (
        "UPDATE tags SET value = 8 WHERE name = 'n'",
        "it is found by other tags than its history has",
    ),
    "a tag of no kind": ("UPDATE tags SET kind = 9", "kind holds 9"),
    "a tag of another kind": ("UPDATE tags SET kind = 3, value = 'x'", "its tags cannot be read"),
    "tags without a run": ("DELETE FROM runs WHERE workflow_id = 'told'", "rows in tags without"),
    "a missing start": (
        "DELETE FROM inbox WHERE execution_id ="
        " (SELECT execution_id FROM runs WHERE workflow_id = 'waiting')",
        "its start is missing",
    ),
}


async def test_a_healthy_store_has_no_problems(rig: Rig) -> None:
    assert await rig.problems() == []


@pytest.mark.parametrize(("statement", "found"), DAMAGE.values(), ids=DAMAGE)
async def test_verify_finds(rig: Rig, statement: str, found: str) -> None:
    damage(rig, statement)
    assert any(found in text for text in await rig.problems()), await rig.problems()


async def test_a_damaged_page_is_found(rig: Rig, tmp_path: Path) -> None:
    await rig.store.close()
    path = tmp_path / "everlong.db"
    content = bytearray(path.read_bytes())
    begin = content.rfind(b"hello") // 4096 * 4096
    content[begin + 1 : begin + 12] = b"\xff" * 11
    path.write_bytes(content)
    rig.store = await SqliteStore.open(path)
    assert any(text.startswith("SQLite") for text in await rig.problems())


async def test_damage_is_told_with_the_run_that_has_it(rig: Rig) -> None:
    damage(rig, DAMAGE["a flipped byte"][0])
    (problem,) = await rig.store.verify()
    assert problem.run_id == (await rig.row("victim")).run_id
    assert problem.text.startswith("victim (")


@pytest.mark.parametrize(
    "which",
    [
        "a flipped byte",
        "bytes turned into text",
        "a missing event",
        "a missing payload",
        "a damaged payload",
    ],
)
async def test_a_damaged_run_is_parked_and_stops_nobody(rig: Rig, which: str) -> None:
    damage(rig, DAMAGE[which][0])
    claimed = {one.row.workflow_id for one in await rig.claim(limit=100)}
    row = await rig.row("victim")
    assert "victim" not in claimed
    assert (row.status, row.owner) == (RunStatus.BLOCKED, None)
    assert row.reason is not None
    assert row.reason.startswith("what is stored of it cannot be read")
    assert await rig.claim() == []


async def test_a_damaged_run_of_a_dead_worker_is_parked(rig: Rig) -> None:
    await rig.register()
    await rig.claim(limit=100)
    damage(rig, DAMAGE["a flipped byte"][0])
    await rig.die()
    assert (await rig.row("victim")).status is RunStatus.BLOCKED
    assert (await rig.row("waiting")).owner is None


async def test_an_accepted_event_never_changes(rig: Rig) -> None:
    with (
        closing(sqlite3.connect(rig.store.path)) as file,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        file.execute("UPDATE history SET at_us = 0")
