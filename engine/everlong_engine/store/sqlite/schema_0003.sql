-- Version 3.

-- What runs are found by. The events that set tags are the truth; this is an index over them, by run,
-- so that a page of runs with a tag is a range of `tags_by_value`, newest last. A run that begins
-- anew hands its tags to the next, and keeps its own as they stood at its end.
-- `value` has no type, so a number stays whole or not, as it was given: a text (kind 0), a number
-- (1), 0 or 1 for false or true (2), or microseconds since the epoch (3).
CREATE TABLE tags (
    shard     INTEGER NOT NULL,
    run_id    BLOB    NOT NULL,
    name      TEXT    NOT NULL,
    namespace TEXT    NOT NULL,
    kind      INTEGER NOT NULL,
    value             NOT NULL,
    PRIMARY KEY (shard, run_id, name)
) WITHOUT ROWID;
CREATE INDEX tags_by_value ON tags (shard, namespace, name, kind, value, run_id);
