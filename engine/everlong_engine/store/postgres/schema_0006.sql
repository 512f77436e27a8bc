-- Version 6.

-- Whose call it is, and how urgent: the smaller rank comes first.
ALTER TABLE everlong.tasks ADD COLUMN rank BIGINT NOT NULL DEFAULT 0;
ALTER TABLE everlong.tasks ADD COLUMN key TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX tasks_in_lanes ON everlong.tasks (queue, activity, rank, key, due_us, shard, run_id, activity_id)
    WHERE worker_id IS NULL AND NOT asked;
CREATE INDEX tasks_at_work ON everlong.tasks (queue, key) WHERE worker_id IS NOT NULL;

-- What queues let through, as code has declared it (origin 0), or a person has set it (1).
CREATE TABLE everlong.queue_limits (
    queue           TEXT   COLLATE "C" NOT NULL,
    origin          INT    NOT NULL,
    concurrency     BIGINT,
    rate            BIGINT,
    rate_us         BIGINT,
    key_concurrency BIGINT,
    key_rate        BIGINT,
    key_rate_us     BIGINT,
    set_us          BIGINT NOT NULL,
    set_by          TEXT   NOT NULL,
    PRIMARY KEY (queue, origin)
);

-- When calls began of queues whose rate is limited, and of keys in them ('' is the queue itself).
CREATE TABLE everlong.queue_starts (
    queue    TEXT   COLLATE "C" NOT NULL,
    key      TEXT   COLLATE "C" NOT NULL,
    until_us BIGINT NOT NULL,
    marks    BYTEA  NOT NULL,
    PRIMARY KEY (queue, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX queue_starts_over ON everlong.queue_starts (until_us);
