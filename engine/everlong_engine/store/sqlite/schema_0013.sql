-- Version 13. States of keyed entities: one row for each key of an execution, written over with the append that
-- records what it is made of (decision 0039). Timers of keys lie in the payload; `due_us` is the first of them.
CREATE TABLE entity_states (
    shard        INTEGER NOT NULL,
    execution_id BLOB    NOT NULL,
    key          TEXT    NOT NULL,
    due_us       INTEGER,
    payload      BLOB    NOT NULL,
    checksum     INTEGER NOT NULL,
    PRIMARY KEY (shard, execution_id, key)
);

CREATE INDEX entities_due ON entity_states (shard, execution_id, due_us, key) WHERE due_us IS NOT NULL;
