-- Version 1. Everything is in a schema of its own, so that it meets none of the user's tables.
--
-- `shard` is the first column of every primary key and stands in every WHERE of the hot path, so the
-- tables can be distributed by it. Instants are microseconds since the epoch; a column that ends in
-- `_us` and is a lease is by this server's clock. Texts compare by code point, as they do in Python.

CREATE SCHEMA IF NOT EXISTS everlong;

-- How many shards there are was settled when the store was made, for good.
CREATE TABLE everlong.store (
    version INT NOT NULL,
    shards  INT NOT NULL
);

CREATE TABLE everlong.runs (
    shard        INT    NOT NULL,
    run_id       BYTEA  NOT NULL,
    execution_id BYTEA  NOT NULL,
    namespace    TEXT   COLLATE "C" NOT NULL,
    workflow_id  TEXT   COLLATE "C" NOT NULL,
    type         TEXT   COLLATE "C" NOT NULL,
    queue        TEXT   COLLATE "C" NOT NULL,
    status       INT    NOT NULL,
    next_seq     BIGINT NOT NULL,
    lease_token  BIGINT NOT NULL,
    owner        BYTEA,
    wake_us      BIGINT,
    started_us   BIGINT NOT NULL,
    closed_us    BIGINT,
    losses       BIGINT NOT NULL DEFAULT 0,
    strikes      BIGINT NOT NULL DEFAULT 0,
    probation    INT    NOT NULL DEFAULT 0,
    reason       TEXT,
    request_id   TEXT   COLLATE "C",
    version      TEXT   COLLATE "C",
    PRIMARY KEY (shard, run_id)
) WITH (fillfactor = 70);

-- At most one open run per workflow id.
CREATE UNIQUE INDEX runs_open ON everlong.runs (shard, namespace, workflow_id) WHERE status < 10;
CREATE INDEX runs_of_workflow ON everlong.runs (shard, namespace, workflow_id, run_id);
-- A start that is repeated with its request id finds what it began.
CREATE UNIQUE INDEX runs_by_request ON everlong.runs (shard, namespace, workflow_id, request_id)
    WHERE request_id IS NOT NULL;
CREATE INDEX runs_to_wake ON everlong.runs (queue, type, wake_us)
    WHERE wake_us IS NOT NULL AND version IS NULL;
CREATE INDEX runs_pinned ON everlong.runs (queue, type, version, wake_us)
    WHERE wake_us IS NOT NULL AND version IS NOT NULL;
CREATE INDEX runs_owned ON everlong.runs (owner) WHERE owner IS NOT NULL;
CREATE INDEX runs_of_execution ON everlong.runs (shard, execution_id);
CREATE INDEX runs_parked ON everlong.runs (type) WHERE status = 1;
-- For lists, newest first, and for people, who do not know shards.
CREATE INDEX runs_by_id ON everlong.runs (run_id);

-- Append-only. No row of it is ever changed; it goes with its run.
CREATE TABLE everlong.history (
    shard     INT    NOT NULL,
    run_id    BYTEA  NOT NULL,
    seq       BIGINT NOT NULL,
    kind      INT    NOT NULL,
    at_us     BIGINT NOT NULL,
    body      BYTEA  NOT NULL,
    checksum  BIGINT NOT NULL,
    append_id BIGINT,
    PRIMARY KEY (shard, run_id, seq)
);

-- `worker_id` is who must read a notice; without one it is mail of the execution. Positions grow, but
-- not in the order of commits: nothing is ever consumed by a high-water mark.
CREATE TABLE everlong.inbox (
    position     BIGINT GENERATED ALWAYS AS IDENTITY,
    shard        INT    NOT NULL,
    execution_id BYTEA  NOT NULL,
    kind         INT    NOT NULL,
    body         BYTEA  NOT NULL,
    checksum     BIGINT NOT NULL,
    worker_id    BYTEA,
    PRIMARY KEY (shard, execution_id, position)
);
CREATE INDEX inbox_by_position ON everlong.inbox (position);
CREATE INDEX inbox_notices ON everlong.inbox (worker_id) WHERE worker_id IS NOT NULL;

CREATE TABLE everlong.requests (
    shard        INT   NOT NULL,
    execution_id BYTEA NOT NULL,
    request_id   TEXT  COLLATE "C" NOT NULL,
    result       BYTEA NOT NULL,
    PRIMARY KEY (shard, execution_id, request_id)
);

CREATE TABLE everlong.attempts (
    shard       INT    NOT NULL,
    run_id      BYTEA  NOT NULL,
    activity_id BIGINT NOT NULL,
    attempt     BIGINT NOT NULL,
    state       INT    NOT NULL,
    started_us  BIGINT NOT NULL,
    ended_us    BIGINT,
    retry_us    BIGINT,
    error_type  TEXT   NOT NULL,
    error       TEXT   NOT NULL,
    traceback   TEXT   NOT NULL,
    worker      TEXT   NOT NULL,
    details     BYTEA,
    PRIMARY KEY (shard, run_id, activity_id, attempt)
);

CREATE TABLE everlong.blobs (
    shard  INT   NOT NULL,
    digest BYTEA NOT NULL,
    data   BYTEA NOT NULL,
    PRIMARY KEY (shard, digest)
);

-- owner_id: a run's id, or an execution's for what lies in its mail.
CREATE TABLE everlong.blob_uses (
    shard    INT   NOT NULL,
    owner_id BYTEA NOT NULL,
    digest   BYTEA NOT NULL,
    PRIMARY KEY (shard, owner_id, digest)
);
CREATE INDEX blob_users ON everlong.blob_uses (shard, digest);

-- `lease_us`: until then nobody may take what bears its name, by this server's clock.
CREATE TABLE everlong.workers (
    worker_id  BYTEA  PRIMARY KEY,
    name       TEXT   NOT NULL,
    pid        BIGINT NOT NULL,
    host       TEXT   NOT NULL,
    started_us BIGINT NOT NULL,
    beat_us    BIGINT NOT NULL,
    dead       BOOLEAN NOT NULL,
    queue      TEXT   NOT NULL,
    types      TEXT   NOT NULL,
    versions   TEXT   NOT NULL,
    lease_us   BIGINT NOT NULL
);

CREATE TABLE everlong.questions (
    question_id BYTEA  PRIMARY KEY,
    shard       INT    NOT NULL,
    namespace   TEXT   COLLATE "C" NOT NULL,
    workflow_id TEXT   COLLATE "C" NOT NULL,
    query       TEXT   NOT NULL,
    arguments   BYTEA  NOT NULL,
    asked_us    BIGINT NOT NULL,
    answered    BOOLEAN,
    answer      BYTEA
);

-- What executions publish, for subscribers. Append-only; an item goes with its execution.
CREATE TABLE everlong.published (
    shard        INT    NOT NULL,
    execution_id BYTEA  NOT NULL,
    channel      TEXT   COLLATE "C" NOT NULL,
    number       BIGINT NOT NULL,
    at_us        BIGINT NOT NULL,
    payload      BYTEA  NOT NULL,
    checksum     BIGINT NOT NULL,
    PRIMARY KEY (shard, execution_id, channel, number)
);

CREATE FUNCTION everlong.never_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
CREATE TRIGGER history_never_changes BEFORE UPDATE ON everlong.history
    FOR EACH ROW EXECUTE FUNCTION everlong.never_changes();
CREATE TRIGGER published_never_changes BEFORE UPDATE ON everlong.published
    FOR EACH ROW EXECUTE FUNCTION everlong.never_changes();

-- Who waits for the end of an execution, and whose child it is. A row goes with the end of either.
-- `waiter_shard` is where the waiting execution lives.
CREATE TABLE everlong.links (
    shard           INT    NOT NULL,
    execution_id    BYTEA  NOT NULL,
    waiter_run      BYTEA  NOT NULL,
    number          BIGINT NOT NULL,
    waiter_id       BYTEA  NOT NULL,
    namespace       TEXT   COLLATE "C" NOT NULL,
    workflow_id     TEXT   COLLATE "C" NOT NULL,
    waiter          TEXT   COLLATE "C" NOT NULL,
    on_parent_close TEXT   NOT NULL,
    waiter_shard    INT    NOT NULL,
    PRIMARY KEY (shard, execution_id, waiter_run, number)
);
CREATE INDEX links_of_waiter ON everlong.links (waiter_shard, waiter_id, waiter_run, number);

-- Approvals that runs have requested. A row is open until it has an answer.
CREATE TABLE everlong.approvals (
    shard   INT    NOT NULL,
    run_id  BYTEA  NOT NULL,
    number  BIGINT NOT NULL,
    seq     BIGINT NOT NULL,
    answer  BYTEA,
    request TEXT,
    PRIMARY KEY (shard, run_id, number)
);
CREATE INDEX approvals_open ON everlong.approvals (run_id, number) WHERE answer IS NULL;

-- What runs are found by; an index over the events that set tags. A value is what `text` says: itself,
-- or a number as Python writes it, so that it stays whole or not; `number` is there to be compared.
CREATE TABLE everlong.tags (
    shard     INT   NOT NULL,
    run_id    BYTEA NOT NULL,
    name      TEXT  COLLATE "C" NOT NULL,
    namespace TEXT  COLLATE "C" NOT NULL,
    kind      INT   NOT NULL,
    text      TEXT  COLLATE "C" NOT NULL,
    number    NUMERIC,
    PRIMARY KEY (shard, run_id, name)
);
CREATE INDEX tags_by_text ON everlong.tags (namespace, name, text, run_id) WHERE number IS NULL;
CREATE INDEX tags_by_number ON everlong.tags (namespace, name, kind, number, run_id)
    WHERE number IS NOT NULL;

-- Executions that are paused for themselves. A row goes when they are resumed, or end.
CREATE TABLE everlong.pauses (
    shard        INT    NOT NULL,
    execution_id BYTEA  NOT NULL,
    namespace    TEXT   COLLATE "C" NOT NULL,
    workflow_id  TEXT   COLLATE "C" NOT NULL,
    since_us     BIGINT NOT NULL,
    by           TEXT   NOT NULL,
    reason       TEXT   NOT NULL,
    PRIMARY KEY (shard, execution_id)
);

-- Workflows that are paused, with all their executions; type '' is all of them.
CREATE TABLE everlong.pauses_of_types (
    namespace TEXT   COLLATE "C" NOT NULL,
    type      TEXT   COLLATE "C" NOT NULL,
    since_us  BIGINT NOT NULL,
    by        TEXT   NOT NULL,
    reason    TEXT   NOT NULL,
    PRIMARY KEY (namespace, type)
);

-- What was asked of many executions at once, under the name that its sender gave the request.
CREATE TABLE everlong.requests_of_types (
    namespace  TEXT   COLLATE "C" NOT NULL,
    request_id TEXT   COLLATE "C" NOT NULL,
    at_us      BIGINT NOT NULL,
    result     BYTEA  NOT NULL,
    PRIMARY KEY (namespace, request_id)
);

CREATE FUNCTION everlong.now_us() RETURNS BIGINT LANGUAGE sql VOLATILE AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT
$$;

-- The newest run of a workflow id, locked. While the lock was waited for another run may have taken
-- its place, and only a new statement sees that: look again until it stands still.
CREATE FUNCTION everlong.lock_latest(of_shard INT, of_namespace TEXT, of_workflow TEXT)
RETURNS SETOF everlong.runs LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    newest BYTEA;
    locked BYTEA;
BEGIN
    LOOP
        SELECT run_id INTO newest FROM everlong.runs
        WHERE shard = of_shard AND namespace = of_namespace AND workflow_id = of_workflow
        ORDER BY (status < 10) DESC, run_id DESC LIMIT 1;
        EXIT WHEN newest IS NULL OR newest = locked;
        PERFORM 1 FROM everlong.runs WHERE shard = of_shard AND run_id = newest FOR UPDATE;
        locked := newest;
    END LOOP;
    RETURN QUERY SELECT * FROM everlong.runs WHERE shard = of_shard AND run_id = newest;
END $$;
