-- Version 9.

-- What becomes of an execution for which its pool has no room (`AtLimit`). Limits of pools stand beside
-- those of queues, under names that no queue has.
ALTER TABLE queue_limits ADD COLUMN at_limit INTEGER NOT NULL DEFAULT 0;

-- Executions that belong to pools: 0 waits for its turn, 1 has begun, 2 was cancelled to make room. A
-- row whose execution has ended counts for nothing.
CREATE TABLE turns (
    shard        INTEGER NOT NULL,
    execution_id BLOB    NOT NULL,
    namespace    TEXT    NOT NULL,
    workflow_id  TEXT    NOT NULL,
    pool         TEXT    NOT NULL,
    key          TEXT    NOT NULL,
    rank         INTEGER NOT NULL,
    asked_us     INTEGER NOT NULL,
    until_us     INTEGER,
    state        INTEGER NOT NULL,
    PRIMARY KEY (shard, execution_id)
) WITHOUT ROWID;
CREATE INDEX turns_in_lanes ON turns (pool, rank, key, asked_us) WHERE state = 0;
CREATE INDEX turns_until ON turns (pool, until_us) WHERE state = 0 AND until_us IS NOT NULL;
CREATE INDEX turns_begun ON turns (pool, key) WHERE state > 0;
