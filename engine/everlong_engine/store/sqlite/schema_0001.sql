-- Version 1. A file computes shard modulo 1, so shard is 0 in every row here (decision 0001); it
-- stands in every key all the same, as on PostgreSQL.

CREATE TABLE runs (
    shard        INTEGER NOT NULL,
    run_id       BLOB    NOT NULL,
    execution_id BLOB    NOT NULL,
    namespace    TEXT    NOT NULL,
    workflow_id  TEXT    NOT NULL,
    type         TEXT    NOT NULL,
    queue        TEXT    NOT NULL,
    status       INTEGER NOT NULL,
    next_seq     INTEGER NOT NULL,
    lease_token  INTEGER NOT NULL,
    owner        BLOB,
    wake_us      INTEGER,
    started_us   INTEGER NOT NULL,
    closed_us    INTEGER,
    losses       INTEGER NOT NULL DEFAULT 0,
    strikes      INTEGER NOT NULL DEFAULT 0,
    probation    INTEGER NOT NULL DEFAULT 0,
    reason       TEXT,
    request_id   TEXT,
    PRIMARY KEY (shard, run_id)
) WITHOUT ROWID;

-- At most one open run per workflow id.
CREATE UNIQUE INDEX runs_open ON runs (shard, namespace, workflow_id) WHERE status < 10;
CREATE INDEX runs_of_workflow ON runs (shard, namespace, workflow_id, run_id);
-- A start that is repeated with its request id finds what it began.
CREATE UNIQUE INDEX runs_by_request ON runs (shard, namespace, workflow_id, request_id)
    WHERE request_id IS NOT NULL;
CREATE INDEX runs_to_wake ON runs (queue, type, wake_us) WHERE wake_us IS NOT NULL;
CREATE INDEX runs_owned ON runs (owner) WHERE owner IS NOT NULL;

-- Append-only. No row of it is ever changed; it goes with its run.
CREATE TABLE history (
    shard     INTEGER NOT NULL,
    run_id    BLOB    NOT NULL,
    seq       INTEGER NOT NULL,
    kind      INTEGER NOT NULL,
    at_us     INTEGER NOT NULL,
    body      BLOB    NOT NULL,
    checksum  INTEGER NOT NULL,
    append_id INTEGER,
    PRIMARY KEY (shard, run_id, seq)
) WITHOUT ROWID;

CREATE TRIGGER history_never_changes BEFORE UPDATE ON history
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;

-- AUTOINCREMENT, so that a position is never used twice and grows in the order of commits.
CREATE TABLE inbox (
    position     INTEGER PRIMARY KEY AUTOINCREMENT,
    shard        INTEGER NOT NULL,
    execution_id BLOB    NOT NULL,
    kind         INTEGER NOT NULL,
    body         BLOB    NOT NULL,
    checksum     INTEGER NOT NULL
);
CREATE INDEX inbox_of_execution ON inbox (shard, execution_id, position);

CREATE TABLE requests (
    shard        INTEGER NOT NULL,
    execution_id BLOB    NOT NULL,
    request_id   TEXT    NOT NULL,
    result       BLOB    NOT NULL,
    PRIMARY KEY (shard, execution_id, request_id)
) WITHOUT ROWID;

CREATE TABLE attempts (
    shard       INTEGER NOT NULL,
    run_id      BLOB    NOT NULL,
    activity_id INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    state       INTEGER NOT NULL,
    started_us  INTEGER NOT NULL,
    ended_us    INTEGER,
    retry_us    INTEGER,
    error_type  TEXT    NOT NULL,
    error       TEXT    NOT NULL,
    traceback   TEXT    NOT NULL,
    worker      TEXT    NOT NULL,
    details     BLOB,
    PRIMARY KEY (shard, run_id, activity_id, attempt)
) WITHOUT ROWID;

CREATE TABLE blobs (
    shard  INTEGER NOT NULL,
    digest BLOB    NOT NULL,
    data   BLOB    NOT NULL,
    PRIMARY KEY (shard, digest)
);

-- owner_id: a run's id, or an execution's for what lies in its mail.
CREATE TABLE blob_uses (
    shard    INTEGER NOT NULL,
    owner_id BLOB    NOT NULL,
    digest   BLOB    NOT NULL,
    PRIMARY KEY (shard, owner_id, digest)
) WITHOUT ROWID;
CREATE INDEX blob_users ON blob_uses (shard, digest);

CREATE TABLE workers (
    worker_id  BLOB    PRIMARY KEY,
    name       TEXT    NOT NULL,
    pid        INTEGER NOT NULL,
    host       TEXT    NOT NULL,
    started_us INTEGER NOT NULL,
    beat_us    INTEGER NOT NULL,
    dead       INTEGER NOT NULL,
    queue      TEXT    NOT NULL,
    types      TEXT    NOT NULL
) WITHOUT ROWID;

CREATE TABLE questions (
    question_id BLOB    PRIMARY KEY,
    shard       INTEGER NOT NULL,
    namespace   TEXT    NOT NULL,
    workflow_id TEXT    NOT NULL,
    query       TEXT    NOT NULL,
    arguments   BLOB    NOT NULL,
    asked_us    INTEGER NOT NULL,
    answered    INTEGER,
    answer      BLOB
) WITHOUT ROWID;
