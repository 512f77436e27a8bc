"""A guard in the database itself: a transaction that writes rows of two shards fails.

Triggers on every table that has its shard in its key, so nothing that writes can pass them by:
neither a statement, nor a function of the schema. A transaction may span shards only if it has said
why (`everlong.spans`, see `store/postgres/spread.py`), and those are counted by what they said.
"""

from typing import Any, Final

import asyncpg

__all__ = ["WHOLE", "guard", "spanned"]

WHOLE: Final = frozenset(
    (
        *("store", "workers", "questions", "pauses_of_types", "requests_of_types"),
        *("queue_limits", "queue_starts", "outgoing_boxes", "start_keys"),
    )
)
"""Tables of no execution: small ones, which every server of a distributed store has, or one."""

_GUARD: Final = """
CREATE SCHEMA guard;
CREATE TABLE guard.spanned (why TEXT NOT NULL);
CREATE FUNCTION guard.one_shard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    here INT := CASE WHEN TG_OP = 'DELETE' THEN OLD.shard ELSE NEW.shard END;
    before TEXT := coalesce(current_setting('guard.shard', TRUE), '');
    said TEXT := coalesce(current_setting('everlong.spans', TRUE), '');
BEGIN
    IF before = '' THEN
        PERFORM set_config('guard.shard', here::TEXT, TRUE);
    ELSIF before <> here::TEXT AND said = '' THEN
        RAISE EXCEPTION 'one transaction writes to shards % and % (%: %)',
            before, here, TG_TABLE_NAME, current_query();
    ELSIF before <> here::TEXT AND coalesce(current_setting('guard.counted', TRUE), '') = '' THEN
        PERFORM set_config('guard.counted', 'yes', TRUE);
        INSERT INTO guard.spanned (why) VALUES (said);
    END IF;
    RETURN NULL;
END $$;
"""
_TABLES: Final = """
SELECT table_name FROM information_schema.columns
WHERE table_schema = 'everlong' AND column_name = 'shard' ORDER BY table_name
"""


async def guard(connection: "asyncpg.Connection[Any]") -> None:
    """Set it up, over a connection to a store's database."""
    await connection.execute(_GUARD)
    for (table,) in await connection.fetch(_TABLES):
        if table not in WHOLE:
            await connection.execute(
                f"CREATE TRIGGER one_shard AFTER INSERT OR UPDATE OR DELETE ON everlong.{table} "
                "FOR EACH ROW EXECUTE FUNCTION guard.one_shard()"
            )


async def spanned(connection: "asyncpg.Connection[Any]") -> dict[str, int]:
    """How many transactions have written to several shards, by what they said."""
    return dict(await connection.fetch("SELECT why, count(*) FROM guard.spanned GROUP BY why"))
