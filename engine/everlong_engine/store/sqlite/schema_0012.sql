-- Version 12.

-- Which execution has a key of a workflow: of kind 0 (debounced starts) the newest that they have made,
-- of kind 1 (deduplicated ones) the one that a start with the key finds until `until_us`.
CREATE TABLE start_keys (
    namespace    TEXT    NOT NULL,
    type         TEXT    NOT NULL,
    kind         INTEGER NOT NULL,
    key          TEXT    NOT NULL,
    shard        INTEGER NOT NULL,
    execution_id BLOB    NOT NULL,
    first_us     INTEGER NOT NULL,
    until_us     INTEGER,
    starts       INTEGER NOT NULL,
    PRIMARY KEY (namespace, type, kind, key)
) WITHOUT ROWID;
CREATE INDEX start_keys_of_execution ON start_keys (shard, execution_id);
