-- Version 4.

-- Executions that are paused for themselves. A row goes when they are resumed, or end.
CREATE TABLE pauses (
    shard        INTEGER NOT NULL,
    execution_id BLOB    NOT NULL,
    namespace    TEXT    NOT NULL,
    workflow_id  TEXT    NOT NULL,
    since_us     INTEGER NOT NULL,
    by           TEXT    NOT NULL,
    reason       TEXT    NOT NULL,
    PRIMARY KEY (shard, execution_id)
) WITHOUT ROWID;

-- Workflows that are paused, with all their executions; type '' is all of them. The rows of their
-- runs say so too, so that nobody who claims or appends need look in here.
CREATE TABLE pauses_of_types (
    namespace TEXT    NOT NULL,
    type      TEXT    NOT NULL,
    since_us  INTEGER NOT NULL,
    by        TEXT    NOT NULL,
    reason    TEXT    NOT NULL,
    PRIMARY KEY (namespace, type)
) WITHOUT ROWID;

-- What was asked of many executions at once, under the name that its sender gave the request.
CREATE TABLE requests_of_types (
    namespace  TEXT    NOT NULL,
    request_id TEXT    NOT NULL,
    at_us      INTEGER NOT NULL,
    result     BLOB    NOT NULL,
    PRIMARY KEY (namespace, request_id)
) WITHOUT ROWID;
