"""`shard` throughout: it begins every key, and stands in every statement about an execution.

What reads or writes without it is listed here by name, with the reason; the lists may only become
shorter. A distributed store sends such a look to all of its servers.
"""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from everlong_engine.store.postgres.spread import Spans
from everlong_engine.store.postgres.statements import SQL, Connection
from tests.support.postgres_server import fresh_store
from tests.support.shard_guard import WHOLE

ROOT: Final = Path(__file__).parents[2]
_TRIGGERS: Final = """
SELECT tgname FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'everlong'::regnamespace AND NOT tgisinternal AND tgname <> 'one_shard'
"""
OF_ALL: Final = frozenset(("orphans_in_start_keys",))
"""Of tables that every server has."""
LOOKS: Final = {
    "for work": frozenset(
        (
            *("due_of_type", "due_of_version", "next_wake", "runs_of_owner", "pinned_of"),
            *("blocked_shards", "orphans_seen", "driven_suspect", "orphaned_tasks"),
            *("tasks_of_worker", "prune_candidates", "mail_since", "mail_of_workers", "beat"),
            *("forget_workers", "full_outboxes", "waiting_letters", "shares"),
        )
    ),
    "within limits": frozenset(
        (
            *("next_task", "lock_limits", "lanes", "due_tasks", "tasks_at_work", "turns_begun"),
            *("anybody_waits", "turn_lanes", "next_turns", "next_late_turn", "in_the_way"),
        )
    ),
    "for people": frozenset(
        (
            *("run_by_id", "newest_run", "open_versions", "open_approvals", "pauses_of"),
            *("queues", "pools", "outboxes", "refused_letters", "letters_of"),
        )
    ),
    "for `verify`": frozenset(
        (
            *("idle_pauses", "held_by_nobody", "idle_links", "every_run", "every_message"),
            *("missing_blobs", "unused_blobs", "unowned_blob_uses"),
            *("every_blob", "every_approval", "every_item", "every_letter", "every_entity"),
            *(name for name in SQL if name.startswith("orphans_in_") and name not in OF_ALL),
        )
    ),
}
"""They only read, each in one statement, and what they find is taken shard by shard."""

WRITES: Final = {
    "delete_mail": "a notice is known by its position alone; it is one row",
    "forget_notices": "of a dead worker, whose notices lie in any shard",
    "links_from": "a link lies in the shard of whom it is about, and its waiter looks for it",
    "links_from_run": "likewise",
    "link_at": "likewise",
    "linked": "likewise",
    "forget_links_from": "likewise",
    "forget_links_from_run": "likewise",
    "pause_runs": "all runs of a type, in one transaction (`Spans.TYPES`)",
    "unpause_runs": "likewise",
    "blocked_runs": "likewise",
    "late_turns": "places of a pool are counted over all shards (`Spans.POOLS`)",
    "forget_turns": "likewise",
    "drop_letters": "messages lie with their executions, and leave by outbox (`Spans.OUTBOXES`)",
    "drop_refused": "likewise",
    "refuse_letters": "likewise",
    "send_again": "likewise",
    "send_all_again": "likewise",
    "due_runs": "not on a distributed store, which takes with `take_due`",
    "orphans": "not on a distributed store, which takes with `orphans_of`",
}
"""They write, lock, or read on the way to a write, without the shard of what they mean."""


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    opened: Connection = await asyncpg.connect(await fresh_store(), statement_cache_size=0)
    yield opened
    await opened.close()


async def _sharded(connection: Connection) -> set[str]:
    found = await connection.fetch(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'everlong'"
    )
    return {row[0] for row in found} - WHOLE


async def test_every_key_begins_with_the_shard(connection: Connection) -> None:
    """Also every other unique index: a distributed table could not keep another promise."""
    keys = await connection.fetch("""
        SELECT c.relname, i.indisprimary, a.attname FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
        WHERE n.nspname = 'everlong' AND i.indisunique
    """)
    sharded = await _sharded(connection)
    of_them = [(table, column) for table, _, column in keys if table in sharded]
    assert {column for _, column in of_them} == {"shard"}
    assert {table for table, primary, _ in keys if primary and table in sharded} == sharded


async def test_every_statement_names_the_shard(connection: Connection) -> None:
    await connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
    sharded = await _sharded(connection)
    without: set[str] = set()
    for name, text in SQL.items():
        if not text.startswith("LOCK ") and await _unbound(connection, text, sharded):
            without.add(name)
    listed = [*(name for names in LOOKS.values() for name in names), *WRITES]
    assert len(listed) == len(set(listed))
    assert without - set(listed) == set(), "they must name the shard of what they are about"
    assert set(listed) - without == set(), "they name it by now: the lists only become shorter"


async def test_what_is_only_a_look_writes_nothing_of_an_execution(connection: Connection) -> None:
    sharded = await _sharded(connection)
    for name in (name for names in LOOKS.values() for name in names):
        changed = re.findall(r"(?:INSERT INTO|UPDATE|DELETE FROM) everlong\.(\w+)", SQL[name])
        assert sharded.isdisjoint(changed), name
        locked = re.findall(r"FOR (?:NO KEY )?(?:UPDATE|SHARE)(?: OF (\w+))?", SQL[name])
        assert locked in ([], ["l"]), f"{name} locks rows of all shards"


async def test_every_function_names_the_shard(connection: Connection) -> None:
    sharded = "|".join(await _sharded(connection))
    found = await connection.fetch(
        "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'everlong'::regnamespace"
    )
    missing: set[tuple[str, str]] = set()
    for name, source in found:
        for statement in re.sub(r"--.*", "", source).split(";"):
            read = Counter(
                re.findall(
                    rf"(?:FROM|UPDATE|JOIN)\s+everlong\.({sharded})\b(?:\s+AS\s+(\w+))?", statement
                )
            )
            for (table, alias), times in read.items():
                bound = rf"\b{alias}\.shard =|= {alias}\.shard\b" if alias else r"\bshard = "
                if len(re.findall(bound, statement)) < times:
                    missing.add((name, table))
    assert missing == {("append_together", "links")}, "see `links_from` in WRITES"


# ------------------------------------------------------------------------------------------- plans


async def _unbound(connection: Connection, text: str, sharded: set[str]) -> set[str]:
    """Aliases of tables of executions whose shard is bound by nothing that was passed."""
    count = max(map(int, re.findall(r"\$(\d+)", text)), default=0)
    await connection.execute(f"PREPARE one AS {text}")
    values = f"({', '.join(['NULL'] * count)})" if count else ""
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON, VERBOSE) EXECUTE one{values}")
    await connection.execute("DEALLOCATE one")
    aliases: dict[str, str] = {}
    conditions: list[str] = []
    _walk(json.loads(explained)[0]["Plan"], aliases, conditions)
    mine = {alias for alias, table in aliases.items() if table in sharded}
    said = " ".join(conditions)
    bound: set[str] = set()
    while True:
        more = {alias for alias in mine - bound if _is_bound(alias, said, mine - bound)}
        if not more:
            return mine - bound
        bound |= more


def _is_bound(alias: str, said: str, unbound: set[str]) -> bool:
    """By a value, or by another row whose shard is bound; never by one that is not."""
    sides = re.findall(rf"\(?\b{alias}\.shard\)? = (?:ANY \()?\(?([\w\"$ ]+(?:\.\w+)?)", said)
    sides += re.findall(rf"\(?([\w\"$ ]+\.\w+)\)? = {alias}\.shard\b", said)
    return any(side.strip().split(".")[0] not in unbound | {"hashed SubPlan"} for side in sides)


def _walk(node: dict[str, Any], aliases: dict[str, str], conditions: list[str]) -> None:
    if "Relation Name" in node and node["Node Type"] != "ModifyTable":
        aliases[node["Alias"]] = node["Relation Name"]
    for key, value in node.items():
        if key.endswith(("Cond", "Filter")):
            conditions.append(value if isinstance(value, str) else " ".join(value))
    for one in node.get("Plans", ()):
        _walk(one, aliases, conditions)


# ----------------------------------------------------------------------------------------- the page


async def test_the_guide_names_every_table(connection: Connection) -> None:
    text = (ROOT / "docs/guides/distributed.md").read_text("utf-8")
    distributed = re.findall(r"create_distributed_table\('everlong\.(\w+)', 'shard'", text)
    everywhere = re.findall(r"create_reference_table\('everlong\.(\w+)'\)", text)
    (line,) = re.findall(r"-- everlong\.(.*) stay where they are", text)
    here = re.findall(r"\w+_\w+|questions", line)
    assert set(distributed) == await _sharded(connection)
    assert {*everywhere, *here} == WHOLE
    dropped = set(re.findall(r"DROP TRIGGER (\w+) ON everlong\.\w+", text))
    assert dropped == {row[0] for row in await connection.fetch(_TRIGGERS)}


async def test_the_guide_names_every_reason_to_span() -> None:
    text = (ROOT / "docs/guides/distributed.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [one.value for one in Spans]
