-- Version 8.

-- Whose call it is, and how urgent: the smaller rank comes first.
ALTER TABLE tasks ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN key TEXT NOT NULL DEFAULT '';
CREATE INDEX tasks_in_lanes ON tasks (queue, activity, rank, key, due_us) WHERE worker_id IS NULL AND asked = 0;
CREATE INDEX tasks_at_work ON tasks (queue, key) WHERE worker_id IS NOT NULL;

-- What queues let through, as code has declared it (origin 0), or a person has set it (1).
CREATE TABLE queue_limits (
    queue           TEXT    NOT NULL,
    origin          INTEGER NOT NULL,
    concurrency     INTEGER,
    rate            INTEGER,
    rate_us         INTEGER,
    key_concurrency INTEGER,
    key_rate        INTEGER,
    key_rate_us     INTEGER,
    set_us          INTEGER NOT NULL,
    set_by          TEXT    NOT NULL,
    PRIMARY KEY (queue, origin)
) WITHOUT ROWID;

-- When calls began of queues whose rate is limited, and of keys in them ('' is the queue itself).
CREATE TABLE queue_starts (
    queue    TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    until_us INTEGER NOT NULL,
    marks    BLOB    NOT NULL,
    PRIMARY KEY (queue, key)
) WITHOUT ROWID;
CREATE INDEX queue_starts_over ON queue_starts (until_us);
