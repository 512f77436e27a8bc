-- Version 5.

-- The version of the code that may drive a run; null for any. Only pinned runs have one, and they are
-- looked for in an index of their own: the others are claimed as before.
ALTER TABLE runs ADD COLUMN version TEXT;
DROP INDEX runs_to_wake;
CREATE INDEX runs_to_wake ON runs (queue, type, wake_us) WHERE wake_us IS NOT NULL AND version IS NULL;
CREATE INDEX runs_pinned ON runs (queue, type, version, wake_us)
    WHERE wake_us IS NOT NULL AND version IS NOT NULL;
CREATE INDEX runs_pinned_owned ON runs (owner, version)
    WHERE owner IS NOT NULL AND version IS NOT NULL;

-- A worker's versions of its types, in their order.
ALTER TABLE workers ADD COLUMN versions TEXT NOT NULL DEFAULT '[]';
