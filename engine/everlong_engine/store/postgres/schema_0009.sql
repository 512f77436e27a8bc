-- Version 9.

-- Whether the tables are spread over several servers by `shard`. Then a transaction is of one shard, but
-- for what `distributed.SPANS` names.
ALTER TABLE everlong.store ADD COLUMN distributed BOOLEAN NOT NULL DEFAULT FALSE;
