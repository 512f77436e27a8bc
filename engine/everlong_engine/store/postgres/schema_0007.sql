-- Version 7.

-- What becomes of an execution for which its pool has no room (`AtLimit`). Limits of pools stand beside
-- those of queues, under names that no queue has.
ALTER TABLE everlong.queue_limits ADD COLUMN at_limit INT NOT NULL DEFAULT 0;

-- Executions that belong to pools: 0 waits for its turn, 1 has begun, 2 was cancelled to make room. A
-- row whose execution has ended counts for nothing.
CREATE TABLE everlong.turns (
    shard        INT    NOT NULL,
    execution_id BYTEA  NOT NULL,
    namespace    TEXT   COLLATE "C" NOT NULL,
    workflow_id  TEXT   COLLATE "C" NOT NULL,
    pool         TEXT   COLLATE "C" NOT NULL,
    key          TEXT   COLLATE "C" NOT NULL,
    rank         BIGINT NOT NULL,
    asked_us     BIGINT NOT NULL,
    until_us     BIGINT,
    state        INT    NOT NULL,
    PRIMARY KEY (shard, execution_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX turns_in_lanes ON everlong.turns (pool, rank, key, asked_us, shard, execution_id) WHERE state = 0;
CREATE INDEX turns_until ON everlong.turns (pool, until_us) WHERE state = 0 AND until_us IS NOT NULL;
CREATE INDEX turns_begun ON everlong.turns (pool, key) WHERE state > 0;
