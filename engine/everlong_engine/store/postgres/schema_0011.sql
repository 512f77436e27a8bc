-- Version 11.

-- Which execution has a key of a workflow: of kind 0 (debounced starts) the newest that they have made,
-- of kind 1 (deduplicated ones) the one that a start with the key finds until `until_us`.
CREATE TABLE everlong.start_keys (
    namespace    TEXT    COLLATE "C" NOT NULL,
    type         TEXT    COLLATE "C" NOT NULL,
    kind         INT     NOT NULL,
    key          TEXT    COLLATE "C" NOT NULL,
    shard        INT     NOT NULL,
    execution_id BYTEA   NOT NULL,
    first_us     BIGINT  NOT NULL,
    until_us     BIGINT,
    starts       BIGINT  NOT NULL,
    PRIMARY KEY (namespace, type, kind, key)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX start_keys_of_execution ON everlong.start_keys (shard, execution_id);
