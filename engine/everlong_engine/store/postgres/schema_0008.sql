-- Version 8. A run may be in another store (status 3), where it goes on: earlier versions know no such one.

-- How many attempts a worker may have at work at once, and how many it had when it was last heard of.
ALTER TABLE everlong.workers ADD COLUMN slots BIGINT NOT NULL DEFAULT 0;
ALTER TABLE everlong.workers ADD COLUMN busy BIGINT NOT NULL DEFAULT 0;

-- Messages for open executions that were not told the same before, one after the other. Those that
-- rouse do not wait for a beginning that is put off. Where a message was not left, its place is NULL.
CREATE OR REPLACE FUNCTION everlong.tell_together(
    t_shard INT[], t_namespace TEXT[], t_workflow TEXT[], t_execution BYTEA[],
    m_kind INT[], m_body BYTEA[], m_checksum BIGINT[], m_at_us BIGINT[], m_rouses BOOLEAN[],
    m_request TEXT[], m_sender TEXT[], m_mark BYTEA[],
    OUT to_status INT[], OUT to_run BYTEA[], OUT to_execution BYTEA[], OUT to_owner BYTEA[],
    OUT places BIGINT[]
) LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    known_as TEXT;
    told_from BYTEA;
    target everlong.runs;
    place BIGINT;
BEGIN
    FOR n IN 1 .. cardinality(t_shard) LOOP
        place := NULL;
        known_as := coalesce(m_request[n], m_sender[n]);
        told_from := CASE WHEN m_request[n] IS NULL THEN m_mark[n] ELSE '' END;
        SELECT * INTO target FROM everlong.lock_latest(t_shard[n], t_namespace[n], t_workflow[n]);
        IF target.status < 3 AND coalesce(t_execution[n] = target.execution_id, TRUE)
           AND NOT (known_as IS NOT NULL AND EXISTS (
               SELECT 1 FROM everlong.requests AS q
               WHERE q.shard = target.shard AND q.execution_id = target.execution_id
                 AND q.request_id = known_as AND q.result >= told_from))
           AND NOT (known_as IS NOT NULL AND t_execution[n] IS NULL AND EXISTS (
               SELECT 1 FROM everlong.runs AS r, LATERAL (
                   SELECT 1 FROM everlong.requests AS q
                   WHERE q.shard = r.shard AND q.execution_id = r.execution_id
                     AND q.request_id = known_as OFFSET 0) AS earlier
               WHERE r.shard = target.shard AND r.namespace = target.namespace
                 AND r.workflow_id = target.workflow_id
                 AND r.execution_id <> target.execution_id))
        THEN
            IF known_as IS NOT NULL THEN
                INSERT INTO everlong.requests AS q (shard, execution_id, request_id, result)
                VALUES (target.shard, target.execution_id, known_as,
                        CASE WHEN m_request[n] IS NULL THEN m_mark[n] ELSE 'accepted' END)
                ON CONFLICT (shard, execution_id, request_id) DO UPDATE SET result = excluded.result;
            END IF;
            INSERT INTO everlong.inbox AS i (shard, execution_id, kind, body, checksum)
            VALUES (target.shard, target.execution_id, m_kind[n], m_body[n], m_checksum[n])
            RETURNING i.position INTO place;
            IF target.owner IS NULL AND target.status = 0 AND (
                m_rouses[n]
                OR NOT (target.next_seq = 1 AND coalesce(target.wake_us > m_at_us[n], FALSE)))
            THEN
                UPDATE everlong.runs AS r SET wake_us = least(m_at_us[n], r.wake_us)
                WHERE r.shard = target.shard AND r.run_id = target.run_id;
            END IF;
        END IF;
        to_status[n] := target.status;
        to_run[n] := target.run_id;
        to_execution[n] := target.execution_id;
        to_owner[n] := target.owner;
        places[n] := place;
    END LOOP;
END $$;
