-- Version 3. What most groups of writes hold, each kind of it a function, so that a group is one
-- statement and one round trip, however many runs it is about.
--
-- A function takes arrays, one for each column, and does what can be done without a question. It tells
-- in an array of booleans what that was. What it left alone (a lease that is lost, mail that must be fed
-- first, a workflow id that is taken) is judged by the statements of `queries.sql`, in a transaction
-- behind this one. Each statement in a function sees what was committed before it began, as those of a
-- transaction do: what must be seen behind the lock of a row is asked in a statement behind it.
--
-- What is looked up is looked up row by row, so that no plan depends on how large a table seemed to be
-- when the plan was made; what is inserted is inserted at once.

-- Rows of runs, in the one order in which they are locked: those that are written under a lease, and
-- those that the workflow ids mean which messages go to.
CREATE FUNCTION everlong.lock_together(
    r_shard INT[], r_run BYTEA[], t_shard INT[], t_namespace TEXT[], t_workflow TEXT[]
) RETURNS BOOLEAN LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    one RECORD;
BEGIN
    FOR one IN
        SELECT r.shard, r.run_id FROM unnest(r_shard, r_run) AS r (shard, run_id)
        UNION
        SELECT t.shard, (SELECT l.run_id FROM everlong.runs AS l
                         WHERE l.shard = t.shard AND l.namespace = t.namespace
                           AND l.workflow_id = t.workflow_id
                         ORDER BY (l.status < 10) DESC, l.run_id DESC LIMIT 1)
        FROM unnest(t_shard, t_namespace, t_workflow) AS t (shard, namespace, workflow_id)
        ORDER BY 1, 2
    LOOP
        PERFORM 1 FROM everlong.runs AS r
        WHERE r.shard = one.shard AND r.run_id = one.run_id FOR UPDATE;
    END LOOP;
    RETURN TRUE;
END $$;

-- New executions. None while a type is paused, and where `s_alone` says so, none whose workflow id
-- anybody has, or had: `name` holds the locks that make sure of it. `m_` is the mail that begins those
-- which nobody has driven yet, `h_` the history of the others; both name their start, from 1.
CREATE FUNCTION everlong.begin_together(
    name BIGINT[],
    s_alone BOOLEAN[], s_shard INT[], s_run BYTEA[], s_execution BYTEA[], s_namespace TEXT[],
    s_workflow TEXT[], s_type TEXT[], s_queue TEXT[], s_status INT[], s_next BIGINT[], s_token BIGINT[],
    s_owner BYTEA[], s_wake_us BIGINT[], s_started_us BIGINT[], s_closed_us BIGINT[],
    s_request TEXT[], s_version TEXT[],
    m_start INT[], m_shard INT[], m_execution BYTEA[], m_kind INT[], m_body BYTEA[],
    m_checksum BIGINT[],
    h_start INT[], h_shard INT[], h_run BYTEA[], h_seq BIGINT[], h_kind INT[], h_at_us BIGINT[],
    h_body BYTEA[], h_checksum BIGINT[], h_append BIGINT[]
) RETURNS BOOLEAN[] LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    made BYTEA[];
    done BOOLEAN[];
BEGIN
    IF cardinality(name) > 0 THEN
        PERFORM pg_advisory_xact_lock(one) FROM unnest(name) AS one;
    END IF;
    WITH inserted AS (
        INSERT INTO everlong.runs AS r (
            shard, run_id, execution_id, namespace, workflow_id, type, queue, status, next_seq,
            lease_token, owner, wake_us, started_us, closed_us, request_id, version)
        SELECT s.shard, s.run_id, s.execution_id, s.namespace, s.workflow_id, s.type, s.queue, s.status,
               s.next_seq, s.token, s.owner, s.wake_us, s.started_us, s.closed_us, s.request, s.version
        FROM unnest(s_alone, s_shard, s_run, s_execution, s_namespace, s_workflow, s_type, s_queue,
                    s_status, s_next, s_token, s_owner, s_wake_us, s_started_us, s_closed_us,
                    s_request, s_version)
            AS s (alone, shard, run_id, execution_id, namespace, workflow_id, type, queue,
                  status, next_seq, token, owner, wake_us, started_us, closed_us, request, version)
        WHERE NOT EXISTS (SELECT 1 FROM everlong.pauses_of_types)
          AND NOT (s.alone AND EXISTS (
              SELECT 1 FROM everlong.runs AS o WHERE o.shard = s.shard AND o.namespace = s.namespace
                                                 AND o.workflow_id = s.workflow_id))
        ON CONFLICT DO NOTHING
        RETURNING r.run_id
    ) SELECT array_agg(i.run_id) INTO made FROM inserted AS i;
    IF cardinality(made) = cardinality(s_run) THEN
        done := array_fill(TRUE, ARRAY[cardinality(s_run)]);
    ELSE
        done := ARRAY(SELECT coalesce(s.run_id = ANY (made), FALSE)
                      FROM unnest(s_run) WITH ORDINALITY AS s (run_id, n) ORDER BY s.n);
    END IF;
    IF cardinality(m_start) > 0 THEN
        INSERT INTO everlong.inbox (shard, execution_id, kind, body, checksum)
        SELECT m.shard, m.execution_id, m.kind, m.body, m.checksum
        FROM unnest(m_start, m_shard, m_execution, m_kind, m_body, m_checksum)
            AS m (start, shard, execution_id, kind, body, checksum)
        WHERE done[m.start];
    END IF;
    IF cardinality(h_start) > 0 THEN
        INSERT INTO everlong.history (shard, run_id, seq, kind, at_us, body, checksum, append_id)
        SELECT h.shard, h.run_id, h.seq, h.kind, h.at_us, h.body, h.checksum, h.append_id
        FROM unnest(h_start, h_shard, h_run, h_seq, h_kind, h_at_us, h_body, h_checksum, h_append)
            AS h (start, shard, run_id, seq, kind, at_us, body, checksum, append_id)
        WHERE done[h.start];
    END IF;
    RETURN done;
END $$;

-- Chains of appends, each of one run: the compare-and-set of its row, then the mail that it consumes
-- (`m_`) and its events (`h_`), which name their chain, from 1. A chain with a status closes its run.
-- Whoever leaves (`c_free`) may leave no mail behind: the row is locked already, so that what a sender
-- was told is accepted is seen here. A run that others wait for, or that waits for others, is not closed
-- here.
CREATE FUNCTION everlong.append_together(
    c_shard INT[], c_run BYTEA[], c_execution BYTEA[], c_token BIGINT[], c_base BIGINT[],
    c_next BIGINT[], c_healthy BOOLEAN[], c_free BOOLEAN[], c_status INT[], c_closed_us BIGINT[],
    m_chain INT[], m_shard INT[], m_execution BYTEA[], m_position BIGINT[],
    h_chain INT[], h_shard INT[], h_run BYTEA[], h_seq BIGINT[], h_kind INT[], h_at_us BIGINT[],
    h_body BYTEA[], h_checksum BIGINT[], h_append BIGINT[]
) RETURNS BOOLEAN[] LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    done BOOLEAN[];
BEGIN
    FOR n IN 1 .. cardinality(c_run) LOOP
        IF c_status[n] IS NULL THEN
            UPDATE everlong.runs AS r
            SET next_seq = c_next[n],
                losses = CASE WHEN c_healthy[n] THEN 0 ELSE r.losses END,
                strikes = CASE WHEN c_healthy[n] THEN 0 ELSE r.strikes END,
                probation = CASE WHEN c_healthy[n] THEN 0 ELSE r.probation END
            WHERE r.shard = c_shard[n] AND r.run_id = c_run[n]
              AND r.lease_token = c_token[n] AND r.next_seq = c_base[n] AND r.status = 0
              AND NOT (c_free[n] AND EXISTS (
                  SELECT 1 FROM everlong.inbox AS i
                  WHERE i.shard = c_shard[n] AND i.execution_id = c_execution[n]
                    AND i.worker_id IS NULL AND i.position <> ALL (m_position)));
        ELSE
            UPDATE everlong.runs AS r
            SET next_seq = c_next[n], status = c_status[n], closed_us = c_closed_us[n],
                owner = NULL, wake_us = NULL, losses = 0, strikes = 0, probation = 0, reason = NULL
            WHERE r.shard = c_shard[n] AND r.run_id = c_run[n]
              AND r.lease_token = c_token[n] AND r.next_seq = c_base[n] AND r.status = 0
              AND NOT (c_free[n] AND EXISTS (
                  SELECT 1 FROM everlong.inbox AS i
                  WHERE i.shard = c_shard[n] AND i.execution_id = c_execution[n]
                    AND i.worker_id IS NULL AND i.position <> ALL (m_position)))
              AND NOT EXISTS (SELECT 1 FROM everlong.links AS l
                              WHERE l.shard = c_shard[n] AND l.execution_id = c_execution[n])
              AND NOT EXISTS (SELECT 1 FROM everlong.links AS l
                              WHERE l.waiter_shard = c_shard[n] AND l.waiter_id = c_execution[n]);
        END IF;
        done[n] := FOUND;
    END LOOP;
    FOR n IN 1 .. cardinality(m_chain) LOOP
        IF done[m_chain[n]] THEN
            DELETE FROM everlong.inbox AS i
            WHERE i.shard = m_shard[n] AND i.execution_id = m_execution[n]
              AND i.position = m_position[n];
            IF NOT FOUND THEN
                RAISE EXCEPTION 'mail that an append consumes is not there' USING ERRCODE = 'EV001';
            END IF;
        END IF;
    END LOOP;
    INSERT INTO everlong.history (shard, run_id, seq, kind, at_us, body, checksum, append_id)
    SELECT h.shard, h.run_id, h.seq, h.kind, h.at_us, h.body, h.checksum, h.append_id
    FROM unnest(h_chain, h_shard, h_run, h_seq, h_kind, h_at_us, h_body, h_checksum, h_append)
        AS h (chain, shard, run_id, seq, kind, at_us, body, checksum, append_id)
    WHERE done[h.chain];
    FOR n IN 1 .. cardinality(c_run) LOOP
        IF done[n] AND c_status[n] IS NOT NULL AND NOT c_free[n] THEN
            -- What nobody will feed any more.
            DELETE FROM everlong.inbox AS i
            WHERE i.shard = c_shard[n] AND i.execution_id = c_execution[n] AND i.worker_id IS NULL;
        END IF;
    END LOOP;
    RETURN done;
END $$;

-- What starts and appends bring along, of those that were accepted: payloads that are too large for
-- their events (`b_`), answers for senders (`a_`), items for subscribers (`i_`) with what their
-- channels no longer keep (`x_`), and the tags that runs begin with (`t_`).
CREATE FUNCTION everlong.attach_together(
    done BOOLEAN[],
    b_of INT[], b_shard INT[], b_owner BYTEA[], b_digest BYTEA[], b_data BYTEA[],
    a_of INT[], a_shard INT[], a_execution BYTEA[], a_name TEXT[], a_answer BYTEA[],
    i_of INT[], i_shard INT[], i_execution BYTEA[], i_channel TEXT[], i_number BIGINT[],
    i_at_us BIGINT[], i_payload BYTEA[], i_checksum BIGINT[],
    x_of INT[], x_shard INT[], x_execution BYTEA[], x_channel TEXT[], x_below BIGINT[], x_items BIGINT[],
    t_of INT[], t_shard INT[], t_run BYTEA[], t_name TEXT[], t_namespace TEXT[], t_kind INT[],
    t_text TEXT[], t_number NUMERIC[]
) RETURNS BOOLEAN[] LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
BEGIN
    IF cardinality(b_of) > 0 THEN
        -- Nothing is changed by the update: it locks what is there, so that nobody drops it before its
        -- new use is committed.
        INSERT INTO everlong.blobs (shard, digest, data)
        SELECT DISTINCT ON (b.shard, b.digest) b.shard, b.digest, b.data
        FROM unnest(b_of, b_shard, b_digest, b_data) AS b (of, shard, digest, data)
        WHERE done[b.of] ORDER BY b.shard, b.digest
        ON CONFLICT (shard, digest) DO UPDATE SET digest = excluded.digest;
        INSERT INTO everlong.blob_uses (shard, owner_id, digest)
        SELECT b.shard, b.owner_id, b.digest
        FROM unnest(b_of, b_shard, b_owner, b_digest) AS b (of, shard, owner_id, digest)
        WHERE done[b.of] ON CONFLICT DO NOTHING;
    END IF;
    FOR n IN 1 .. cardinality(a_of) LOOP
        IF done[a_of[n]] THEN
            UPDATE everlong.requests AS r SET result = a_answer[n]
            WHERE r.shard = a_shard[n] AND r.execution_id = a_execution[n] AND r.request_id = a_name[n];
        END IF;
    END LOOP;
    IF cardinality(i_of) > 0 THEN
        INSERT INTO everlong.published (shard, execution_id, channel, number, at_us, payload, checksum)
        SELECT i.shard, i.execution_id, i.channel, i.number, i.at_us, i.payload, i.checksum
        FROM unnest(i_of, i_shard, i_execution, i_channel, i_number, i_at_us, i_payload, i_checksum)
            AS i (of, shard, execution_id, channel, number, at_us, payload, checksum)
        WHERE done[i.of];
    END IF;
    FOR n IN 1 .. cardinality(x_of) LOOP
        IF done[x_of[n]] THEN
            DELETE FROM everlong.published AS p
            WHERE p.shard = x_shard[n] AND p.execution_id = x_execution[n]
              AND p.channel = x_channel[n] AND p.number = ANY (ARRAY(
                  SELECT o.number FROM everlong.published AS o
                  WHERE o.shard = x_shard[n] AND o.execution_id = x_execution[n]
                    AND o.channel = x_channel[n] AND o.number < x_below[n]
                  ORDER BY o.number LIMIT x_items[n]));
        END IF;
    END LOOP;
    IF cardinality(t_of) > 0 THEN
        INSERT INTO everlong.tags (shard, run_id, name, namespace, kind, text, number)
        SELECT t.shard, t.run_id, t.name, t.namespace, t.kind, t.text, t.number
        FROM unnest(t_of, t_shard, t_run, t_name, t_namespace, t_kind, t_text, t_number)
            AS t (of, shard, run_id, name, namespace, kind, text, number)
        WHERE done[t.of];
    END IF;
    RETURN done;
END $$;

-- What is known of attempts, under the leases of their runs, whose rows are locked.
CREATE FUNCTION everlong.mark_together(
    k_shard INT[], k_run BYTEA[], k_token BIGINT[], k_begins BOOLEAN[],
    p_mark INT[], p_shard INT[], p_run BYTEA[], p_activity BIGINT[], p_attempt BIGINT[], p_state INT[],
    p_started_us BIGINT[], p_ended_us BIGINT[], p_retry_us BIGINT[], p_error_type TEXT[],
    p_error TEXT[], p_traceback TEXT[], p_worker TEXT[], p_details BYTEA[]
) RETURNS BOOLEAN[] LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    done BOOLEAN[];
BEGIN
    FOR n IN 1 .. cardinality(k_run) LOOP
        PERFORM 1 FROM everlong.runs AS r
        WHERE r.shard = k_shard[n] AND r.run_id = k_run[n] AND r.lease_token = k_token[n]
          AND r.status < 10 AND (r.status = 0 OR NOT k_begins[n]);
        done[n] := FOUND;
    END LOOP;
    INSERT INTO everlong.attempts AS t (
        shard, run_id, activity_id, attempt, state, started_us, ended_us, retry_us, error_type, error,
        traceback, worker, details)
    SELECT p.shard, p.run_id, p.activity_id, p.attempt, p.state, p.started_us, p.ended_us, p.retry_us,
           p.error_type, p.error, p.traceback, p.worker, p.details
    FROM unnest(p_mark, p_shard, p_run, p_activity, p_attempt, p_state, p_started_us, p_ended_us,
                p_retry_us, p_error_type, p_error, p_traceback, p_worker, p_details)
        AS p (mark, shard, run_id, activity_id, attempt, state, started_us, ended_us, retry_us,
              error_type, error, traceback, worker, details)
    WHERE done[p.mark]
    ON CONFLICT (shard, run_id, activity_id, attempt) DO UPDATE SET
        state = excluded.state, started_us = excluded.started_us, ended_us = excluded.ended_us,
        retry_us = excluded.retry_us, error_type = excluded.error_type, error = excluded.error,
        traceback = excluded.traceback, worker = excluded.worker,
        details = coalesce(excluded.details, t.details);
    RETURN done;
END $$;

-- Messages for open executions that were not told the same before, one after the other. Those that
-- rouse do not wait for a beginning that is put off. Where a message was not left, its place is NULL.
CREATE FUNCTION everlong.tell_together(
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
        IF target.status < 10 AND coalesce(t_execution[n] = target.execution_id, TRUE)
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

-- Runs that fall asleep until they are due, or until mail comes; their rows are locked. Last, so that
-- they see the mail of their own group.
CREATE FUNCTION everlong.sleep_together(
    s_shard INT[], s_run BYTEA[], s_execution BYTEA[], s_token BIGINT[], s_base BIGINT[],
    s_wake_us BIGINT[], s_waits_with BIGINT[]
) RETURNS BOOLEAN[] LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    done BOOLEAN[];
BEGIN
    FOR n IN 1 .. cardinality(s_run) LOOP
        UPDATE everlong.runs AS r
        SET owner = NULL, wake_us = CASE WHEN r.status = 0 THEN s_wake_us[n] END, reason = NULL,
            probation = 0
        WHERE r.shard = s_shard[n] AND r.run_id = s_run[n]
          AND r.lease_token = s_token[n] AND r.next_seq = s_base[n] AND r.status < 10
          AND r.owner IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM everlong.inbox AS i
                          WHERE i.shard = s_shard[n] AND i.execution_id = s_execution[n]
                            AND i.worker_id IS NULL AND i.position > coalesce(s_waits_with[n], 0));
        done[n] := FOUND;
    END LOOP;
    RETURN done;
END $$;
