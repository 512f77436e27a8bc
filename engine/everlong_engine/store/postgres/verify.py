"""Checks a whole store: gapless sequences, checksums, complete ends, orphans.

The server keeps types and keys right, so what is looked for is what it cannot know. Reads in one
snapshot, a batch of rows at a time, and reports instead of raising: what is damaged must not hide
the rest.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from hashlib import sha256
from typing import Any, Final

from everlong_engine.machine.state import tags_behind
from everlong_engine.model.codec import checksum, decode_event
from everlong_engine.model.entities import checked_entity
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import (
    CLOSING,
    CODES,
    INPUTS,
    KINDS,
    ApprovalAnswered,
    ItemPublished,
    RunStarted,
)
from everlong_engine.model.ids import id_text
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.model.tags import Tags, same_tags
from everlong_engine.store.interface import Problem
from everlong_engine.store.postgres.letters import kept_letter
from everlong_engine.store.postgres.reads import approval
from everlong_engine.store.postgres.rows import run_row
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.tags import tags_of_runs

__all__ = ["verify"]

_PROBLEMS_MAX: Final = 1000
_ROWS: Final = 500
_ORPHANS: Final = (
    *("history", "attempts", "tasks", "approvals", "tags"),
    *("inbox", "requests", "published", "start_keys", "entity_states"),
)


async def verify(tx: Tx) -> list[Problem]:
    """What is wrong, up to a thousand problems. Empty: all is well."""
    found: list[Problem] = []
    async for problem in _problems(tx):
        found.append(problem)
        if len(found) == _PROBLEMS_MAX:
            break
    return found


async def _problems(tx: Tx) -> AsyncIterator[Problem]:
    for part in _PARTS:
        async for problem in part(tx):
            yield problem
    for waited_for, waiter in await tx.all("idle_links"):
        both = f"{id_text(waited_for)} and {id_text(waiter)}"
        yield Problem(waiter, f"a link between {both} is damaged, or one of both is not open")
    for (execution_id,) in await tx.all("idle_pauses"):
        text = f"{id_text(execution_id)} is said to be paused, and is not"
        yield Problem(execution_id, text)
    for (run_id,) in await tx.all("held_by_nobody"):
        text = f"the row of {id_text(run_id)} and what is paused say different things"
        yield Problem(run_id, text)


async def _batches(tx: Tx, query: str, behind: tuple[Any, ...]) -> AsyncIterator[list[Any]]:
    """Rows of a query, which begin with their key, in its order."""
    while rows := await tx.all(query, (*behind, _ROWS)):
        yield rows
        behind = tuple(rows[-1][: len(behind)])


async def _of_runs(tx: Tx) -> AsyncIterator[Problem]:
    async for rows in _batches(tx, "every_run", (b"",)):
        runs = [run_row(values[1:]) for values in rows]
        keys = [(row.shard, row.run_id) for row in runs]
        owners = list(dict.fromkeys([*keys, *((row.shard, row.execution_id) for row in runs)]))
        blobs: dict[bytes, dict[bytes, bytes]] = {}
        for owner, digest, data in await tx.rows("blobs_of", owners):
            blobs.setdefault(owner, {})[digest] = data
        events: dict[bytes, list[Sequence[Any]]] = {}
        for run_id, *event in await tx.rows("history_of", keys):
            events.setdefault(run_id, []).append(event)
        tags = await tags_of_runs(tx, keys)
        for row in runs:
            whole = blobs.get(row.run_id, {}) | blobs.get(row.execution_id, {})
            name = f"{row.workflow_id} ({id_text(row.run_id)})"
            stored = tags.get(row.run_id, ())
            for text in _of_history(row, events.get(row.run_id, []), whole, stored):
                yield Problem(row.run_id, f"{name}: {text}")
            unbegun = row.next_seq == 1 and row.status.is_open
            if unbegun and await tx.one("has_mail", (row.shard, row.execution_id)) is None:
                yield Problem(row.run_id, f"{name}: it has not begun, and its start is missing")


def _of_history(
    row: RunRow, events: Sequence[Sequence[Any]], blobs: dict[bytes, bytes], stored: Tags
) -> Iterator[str]:
    last, closed = 0, False
    tags: Tags | None = None
    for seq, kind, _, body, stored_sum in events:
        if seq != last + 1:
            yield f"events {last + 1} to {seq - 1} are missing"
        last = seq
        if checksum(seq, kind, body) != stored_sum:
            yield f"event {seq} has a wrong checksum"
            continue
        try:
            event = decode_event(kind, body, blobs)
        except UndecodablePayload as error:
            yield f"event {seq} cannot be read: {error}"
            continue
        if closed:
            yield f"event {seq} stands behind the end of the run"
        if seq == 1 and KINDS[kind] not in INPUTS and KINDS[kind] not in CLOSING:
            yield "the history does not begin with an input"
        if isinstance(event, RunStarted):
            yield from _of_start(row, seq, event)
        if tags is not None or seq == 1:
            tags = tags_behind(tags, event)
        closed = closed or KINDS[kind] in CLOSING
    if last + 1 != row.next_seq:
        yield f"the run expects event {row.next_seq}, its history ends at {last}"
    if closed is row.status.is_open and row.status is not RunStatus.MOVED:
        yield f"the run is {row.status.text}, its history says otherwise"
    if tags is not None and not same_tags(stored, sorted(tags)):
        yield "it is found by other tags than its history has"


def _of_start(row: RunRow, seq: int, event: RunStarted) -> Iterator[str]:
    if seq != 1:
        yield f"event {seq} starts the run once more"
    if (event.workflow, event.workflow_id) != (row.type, row.workflow_id):
        yield f"it was started as {event.workflow} {event.workflow_id}, its row says otherwise"


async def _of_mail(tx: Tx) -> AsyncIterator[Problem]:
    async for rows in _batches(tx, "every_message", (0,)):
        owners = list({(shard, execution_id) for _, shard, execution_id, *_ in rows})
        blobs: dict[bytes, dict[bytes, bytes]] = {}
        for owner, digest, data in await tx.rows("blobs_of", owners):
            blobs.setdefault(owner, {})[digest] = data
        for position, _, execution_id, kind, body, stored in rows:
            if checksum(0, kind, body) != stored:
                yield Problem(execution_id, f"message {position} has a wrong checksum")
                continue
            try:
                decode_event(kind, body, blobs.get(execution_id, {}))
            except UndecodablePayload as error:
                yield Problem(execution_id, f"message {position} cannot be read: {error}")


async def _of_blobs(tx: Tx) -> AsyncIterator[Problem]:
    async for rows in _batches(tx, "every_blob", (-1, b"")):
        for _, digest, data in rows:
            if sha256(data).digest() != digest:
                yield Problem(None, f"the spilled payload {digest.hex()} is damaged")


async def _of_approvals(tx: Tx) -> AsyncIterator[Problem]:
    """Each has the event that requests it, and an answer that can be read; open runs have open
    ones."""
    async for rows in _batches(tx, "every_approval", (-1, b"", -1)):
        for shard, run_id, number in rows:
            name = f"approval {number} of {id_text(run_id)}"
            found = await approval(tx, shard, run_id, number)
            if found is None:
                continue  # Its run is not there: named with the orphans.
            if found.requested is None:
                yield Problem(run_id, f"{name}: {found.fault}")
            if found.answer is None:
                if not found.run.status.keeps_id:
                    yield Problem(run_id, f"{name} is open, and its run is not")
                continue
            try:
                decode_event(CODES[ApprovalAnswered], found.answer, {})
            except UndecodablePayload as error:
                yield Problem(run_id, f"{name} cannot be read: {error}")


async def _of_published(tx: Tx) -> AsyncIterator[Problem]:
    """Each channel counts without a gap; its oldest items may be gone."""
    channel: tuple[Any, ...] = ()
    expected = 0
    async for rows in _batches(tx, "every_item", (-1, b"", "", -1)):
        for _, execution_id, name, number, payload, stored in rows:
            if (execution_id, name) != channel:
                channel, expected = (execution_id, name), number
            if number != expected:
                gap = f"items {expected} to {number - 1}"
                yield Problem(
                    execution_id, f"{gap} of the output channel {name!r:.100} are missing"
                )
            expected = number + 1
            if checksum(number, CODES[ItemPublished], payload) != stored:
                text = f"item {number} of the output channel {name!r:.100} has a wrong checksum"
                yield Problem(execution_id, text)


async def _of_letters(tx: Tx) -> AsyncIterator[Problem]:
    async for rows in _batches(tx, "every_letter", (-1, -1)):
        for values in rows:
            kept = kept_letter(values[1:])
            if not kept.is_whole:
                text = f"letter {kept.position} of the outbox {kept.letter.outbox!r:.100}"
                yield Problem(kept.letter.run_id, f"{text} has a wrong checksum")


async def _of_entities(tx: Tx) -> AsyncIterator[Problem]:
    async for rows in _batches(tx, "every_entity", (-1, b"", "")):
        for _, execution_id, *values in rows:
            try:
                checked_entity(values)
            except UndecodablePayload as error:
                yield Problem(execution_id, str(error))


async def _of_orphans(tx: Tx) -> AsyncIterator[Problem]:
    for table in _ORPHANS:
        for (owner,) in await tx.all(f"orphans_in_{table}"):
            yield Problem(owner, f"rows in {table} without a run: of {id_text(owner)}")
    for (owner,) in await tx.all("unowned_blob_uses"):
        text = f"a spilled payload is noted for a run that is not there: {id_text(owner)}"
        yield Problem(owner, text)
    for (owner,) in await tx.all("missing_blobs"):
        yield Problem(owner, "a spilled payload is missing")
    for (digest,) in await tx.all("unused_blobs"):
        yield Problem(None, f"the spilled payload {digest.hex()} belongs to nobody")


_PARTS: Final = (
    *(_of_mail, _of_blobs, _of_published, _of_entities, _of_letters),
    *(_of_approvals, _of_orphans, _of_runs),
)
