-- Version 10.

-- What appends leave for brokers, until it is published; they belong to the store, and not to their
-- execution. `refused` says why a broker will never take one.
CREATE TABLE everlong.outgoing_letters (
    shard        INT    NOT NULL,
    position     BIGINT GENERATED ALWAYS AS IDENTITY,
    outbox       TEXT   COLLATE "C" NOT NULL,
    execution_id BYTEA  NOT NULL,
    run_id       BYTEA  NOT NULL,
    seq          BIGINT NOT NULL,
    number       BIGINT NOT NULL,
    at_us        BIGINT NOT NULL,
    payload      BYTEA  NOT NULL,
    checksum     BIGINT NOT NULL,
    refused      TEXT,
    PRIMARY KEY (shard, position)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX outgoing_waiting ON everlong.outgoing_letters (outbox, position) WHERE refused IS NULL;
CREATE INDEX outgoing_refused ON everlong.outgoing_letters (outbox, position) WHERE refused IS NOT NULL;

-- Who publishes from an outbox, and what was in the way when it was tried last.
CREATE TABLE everlong.outgoing_boxes (
    outbox   TEXT   COLLATE "C" PRIMARY KEY,
    holder   BYTEA,
    failures BIGINT NOT NULL DEFAULT 0,
    fault    TEXT,
    fault_us BIGINT
);
