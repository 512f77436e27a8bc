-- Version 12. States of keyed entities: one row for each key of an execution, written over with the append that
-- records what it is made of (decision 0039). Timers of keys lie in the payload; `due_us` is the first of them.
CREATE TABLE everlong.entity_states (
    shard        INT    NOT NULL,
    execution_id BYTEA  NOT NULL,
    key          TEXT   COLLATE "C" NOT NULL,
    due_us       BIGINT,
    payload      BYTEA  NOT NULL,
    checksum     BIGINT NOT NULL,
    PRIMARY KEY (shard, execution_id, key)
);

CREATE INDEX entities_due ON everlong.entity_states (shard, execution_id, due_us, key)
    WHERE due_us IS NOT NULL;
