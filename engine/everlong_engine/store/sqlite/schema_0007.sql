-- Version 7.

-- Attempts that wait in task queues, or that workers have taken from there; a row goes when its activity
-- is over. What the attempt is called with stands in the history, at `seq`.
CREATE TABLE tasks (
    shard        INTEGER NOT NULL,
    run_id       BLOB    NOT NULL,
    activity_id  INTEGER NOT NULL,
    execution_id BLOB    NOT NULL,
    attempt      INTEGER NOT NULL,
    queue        TEXT    NOT NULL,
    activity     TEXT    NOT NULL,
    due_us       INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    origin       TEXT    NOT NULL,
    behind       INTEGER NOT NULL,
    token        INTEGER NOT NULL DEFAULT 0,
    asked        INTEGER NOT NULL DEFAULT 0,
    worker_id    BLOB,
    PRIMARY KEY (shard, run_id, activity_id)
) WITHOUT ROWID;
CREATE INDEX tasks_waiting ON tasks (queue, activity, due_us) WHERE worker_id IS NULL AND asked = 0;
CREATE INDEX tasks_taken ON tasks (worker_id) WHERE worker_id IS NOT NULL;
