-- Version 5.

-- Attempts that wait in task queues, or that workers have taken from there; a row goes when its activity
-- is over. What the attempt is called with stands in the history, at `seq`.
CREATE TABLE everlong.tasks (
    shard        INT    NOT NULL,
    run_id       BYTEA  NOT NULL,
    activity_id  BIGINT NOT NULL,
    execution_id BYTEA  NOT NULL,
    attempt      BIGINT NOT NULL,
    queue        TEXT   COLLATE "C" NOT NULL,
    activity     TEXT   COLLATE "C" NOT NULL,
    due_us       BIGINT NOT NULL,
    seq          BIGINT NOT NULL,
    origin       TEXT   NOT NULL,
    behind       BIGINT NOT NULL,
    token        BIGINT NOT NULL DEFAULT 0,
    asked        BOOLEAN NOT NULL DEFAULT FALSE,
    worker_id    BYTEA,
    PRIMARY KEY (shard, run_id, activity_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX tasks_waiting ON everlong.tasks (queue, activity, due_us, shard, run_id, activity_id)
    WHERE worker_id IS NULL AND NOT asked;
CREATE INDEX tasks_taken ON everlong.tasks (worker_id) WHERE worker_id IS NOT NULL;
