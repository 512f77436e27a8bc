-- Version 11.

-- What appends leave for brokers, until it is published; they belong to the store, and not to their
-- execution. AUTOINCREMENT, as the inbox has it. `refused` says why a broker will never take one.
CREATE TABLE outgoing_letters (
    position     INTEGER PRIMARY KEY AUTOINCREMENT,
    shard        INTEGER NOT NULL,
    outbox       TEXT    NOT NULL,
    execution_id BLOB    NOT NULL,
    run_id       BLOB    NOT NULL,
    seq          INTEGER NOT NULL,
    number       INTEGER NOT NULL,
    at_us        INTEGER NOT NULL,
    payload      BLOB    NOT NULL,
    checksum     INTEGER NOT NULL,
    refused      TEXT
);
CREATE INDEX outgoing_waiting ON outgoing_letters (outbox, position) WHERE refused IS NULL;
CREATE INDEX outgoing_refused ON outgoing_letters (outbox, position) WHERE refused IS NOT NULL;

-- Who publishes from an outbox, and what was in the way when it was tried last.
CREATE TABLE outgoing_boxes (
    outbox   TEXT    PRIMARY KEY,
    holder   BLOB,
    failures INTEGER NOT NULL DEFAULT 0,
    fault    TEXT,
    fault_us INTEGER
) WITHOUT ROWID;
