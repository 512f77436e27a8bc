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
