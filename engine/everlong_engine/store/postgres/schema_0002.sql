-- Version 2: a beat is a commit that concerns nobody else, so beats are counted, and can be told from
-- all other commits. One that renews several leases is counted once.

ALTER TABLE everlong.workers ADD COLUMN beats BIGINT NOT NULL DEFAULT 0;
