-- Version 2.

-- What executions publish, for subscribers. Append-only, as the history is; an item goes with its
-- execution, not with the run that published it. Payloads lie in the rows, also large ones: nobody
-- reads them with a run (decision 0009).
CREATE TABLE published (
    shard        INTEGER NOT NULL,
    execution_id BLOB    NOT NULL,
    channel      TEXT    NOT NULL,
    number       INTEGER NOT NULL,
    at_us        INTEGER NOT NULL,
    payload      BLOB    NOT NULL,
    checksum     INTEGER NOT NULL,
    PRIMARY KEY (shard, execution_id, channel, number)
);

CREATE TRIGGER published_never_changes BEFORE UPDATE ON published
BEGIN
    SELECT RAISE(ABORT, 'published items are append-only');
END;

-- Who waits for the end of an execution, and whose child it is. A row goes with the end of either.
CREATE TABLE links (
    shard           INTEGER NOT NULL,
    execution_id    BLOB    NOT NULL,
    waiter_run      BLOB    NOT NULL,
    number          INTEGER NOT NULL,
    waiter_id       BLOB    NOT NULL,
    namespace       TEXT    NOT NULL,
    workflow_id     TEXT    NOT NULL,
    waiter          TEXT    NOT NULL,
    on_parent_close TEXT    NOT NULL,
    PRIMARY KEY (shard, execution_id, waiter_run, number)
) WITHOUT ROWID;
CREATE INDEX links_of_waiter ON links (shard, waiter_id, waiter_run, number);

-- Approvals that runs have requested. What is asked stands in the event; a row is open until it has
-- an answer, which stays for as long as the run, so that the second one hears who was first.
CREATE TABLE approvals (
    shard   INTEGER NOT NULL,
    run_id  BLOB    NOT NULL,
    number  INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    answer  BLOB,
    request TEXT,
    PRIMARY KEY (shard, run_id, number)
) WITHOUT ROWID;
CREATE INDEX approvals_open ON approvals (run_id, number) WHERE answer IS NULL;
