-- Version 2: a beat is a commit that concerns nobody else, so beats are counted, and can be told from
-- all other commits. One that renews several leases is counted once. `fleet` counts who has come, and
-- who has left in order: whoever claims by versions says by which fleet it has judged them.

ALTER TABLE everlong.workers ADD COLUMN beats BIGINT NOT NULL DEFAULT 0;
ALTER TABLE everlong.store ADD COLUMN fleet BIGINT NOT NULL DEFAULT 0;
