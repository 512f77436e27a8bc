-- Every statement of the PostgreSQL store, by name; the SQLite dialect stands beside this one.
--
-- Lock order: rows of runs first, by (shard, run_id) where there are several, then what hangs on a run.
-- Whoever writes to an execution locks the row of its run, so that all else of it is read as it is.
-- Two that meet in another order wait for each other; the server ends one, and its group is repeated.

-- name: insert_runs
-- New runs; a workflow id that is open already yields no row.
INSERT INTO everlong.runs (shard, run_id, execution_id, namespace, workflow_id, type, queue, status,
                           next_seq, lease_token, owner, wake_us, started_us, closed_us,
                           request_id, version)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::BYTEA[], $4::TEXT[], $5::TEXT[], $6::TEXT[],
                     $7::TEXT[], $8::INT[], $9::BIGINT[], $10::BIGINT[], $11::BYTEA[],
                     $12::BIGINT[], $13::BIGINT[], $14::BIGINT[], $15::TEXT[], $16::TEXT[])
ON CONFLICT DO NOTHING
RETURNING run_id;

-- name: begin_runs
-- The same for those whose history begins with it: none of them while any type is paused, so that
-- each is asked about by itself. Whoever pauses a type takes the other end of the lock.
INSERT INTO everlong.runs (shard, run_id, execution_id, namespace, workflow_id, type, queue, status,
                           next_seq, lease_token, owner, wake_us, started_us, closed_us,
                           request_id, version)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::BYTEA[], $4::TEXT[], $5::TEXT[], $6::TEXT[],
                     $7::TEXT[], $8::INT[], $9::BIGINT[], $10::BIGINT[], $11::BYTEA[],
                     $12::BIGINT[], $13::BIGINT[], $14::BIGINT[], $15::TEXT[], $16::TEXT[])
WHERE NOT EXISTS (SELECT 1 FROM everlong.pauses_of_types)
ON CONFLICT DO NOTHING
RETURNING run_id;

-- name: advance_runs
-- The compare-and-set of an append: the lease token and the next sequence number must be mine, and
-- nobody may have paused the run. Its row is locked already, see `lock_runs`.
UPDATE everlong.runs
SET next_seq = mine.next,
    losses = CASE WHEN mine.healthy THEN 0 ELSE losses END,
    strikes = CASE WHEN mine.healthy THEN 0 ELSE strikes END,
    probation = CASE WHEN mine.healthy THEN 0 ELSE probation END
FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::BOOLEAN[])
    AS mine (shard, run_id, token, base, next, healthy)
WHERE runs.shard = mine.shard AND runs.run_id = mine.run_id
  AND runs.lease_token = mine.token AND runs.next_seq = mine.base AND runs.status = 0
RETURNING runs.run_id;

-- name: close_runs
-- The same, for an append that closes its run.
UPDATE everlong.runs
SET next_seq = mine.next, status = mine.status, closed_us = mine.closed_us,
    owner = NULL, wake_us = NULL, losses = 0, strikes = 0, probation = 0, reason = NULL
FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::INT[], $7::BIGINT[])
    AS mine (shard, run_id, token, base, next, status, closed_us)
WHERE runs.shard = mine.shard AND runs.run_id = mine.run_id
  AND runs.lease_token = mine.token AND runs.next_seq = mine.base AND runs.status = 0
RETURNING runs.run_id;

-- name: insert_history
-- Accepted events. The primary key is the second guard: nothing is ever written over.
INSERT INTO everlong.history (shard, run_id, seq, kind, at_us, body, checksum, append_id)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::INT[], $5::BIGINT[], $6::BYTEA[],
                     $7::BIGINT[], $8::BIGINT[]);

-- name: put_tags
-- Tags of runs, each in place of what the run had under its name.
INSERT INTO everlong.tags (shard, run_id, name, namespace, kind, text, number)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::TEXT[], $4::TEXT[], $5::INT[], $6::TEXT[],
                     $7::NUMERIC[])
ON CONFLICT (shard, run_id, name) DO UPDATE
SET kind = excluded.kind, text = excluded.text, number = excluded.number;

-- name: namespace_of
-- Where a run belongs: the append that changes its tags does not say.
SELECT namespace FROM everlong.runs WHERE shard = $1 AND run_id = $2;

-- name: tags_of
-- Those of some runs, by name.
SELECT tags.run_id, tags.name, tags.kind, tags.text FROM everlong.tags
JOIN unnest($1::INT[], $2::BYTEA[]) AS mine (shard, run_id) USING (shard, run_id)
ORDER BY tags.run_id, tags.name;

-- name: insert_published
-- Items of an accepted append. The primary key is a second guard here too.
INSERT INTO everlong.published (shard, execution_id, channel, number, at_us, payload, checksum)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::TEXT[], $4::BIGINT[], $5::BIGINT[], $6::BYTEA[],
                     $7::BIGINT[]);

-- name: published_from
-- Items of a channel, one after the other from a number on.
SELECT channel, number, at_us, payload, checksum FROM everlong.published
WHERE shard = $1 AND execution_id = $2 AND channel = $3 AND number >= $4 ORDER BY number LIMIT $5;

-- name: trim_published
-- The oldest items of a channel, up to a bound: they are no longer kept.
DELETE FROM everlong.published
WHERE shard = $1 AND execution_id = $2 AND channel = $3 AND number IN (
    SELECT number FROM everlong.published
    WHERE shard = $1 AND execution_id = $2 AND channel = $3 AND number < $4
    ORDER BY number LIMIT $5
);

-- name: published_before
-- Whether a channel has items below a number.
SELECT 1 FROM everlong.published
WHERE shard = $1 AND execution_id = $2 AND channel = $3 AND number < $4 LIMIT 1;

-- name: put_entities
-- States of keys that an accepted append has changed, in place of those before.
INSERT INTO everlong.entity_states (shard, execution_id, key, due_us, payload, checksum)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::TEXT[], $4::BIGINT[], $5::BYTEA[], $6::BIGINT[])
ON CONFLICT (shard, execution_id, key) DO UPDATE
SET due_us = excluded.due_us, payload = excluded.payload, checksum = excluded.checksum;

-- name: drop_entities
-- Keys that have no state any more.
DELETE FROM everlong.entity_states WHERE (shard, execution_id, key) IN
    (SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::TEXT[]));

-- name: entities_of_keys
-- The states of some keys.
SELECT key, due_us, payload, checksum FROM everlong.entity_states
WHERE shard = $1 AND execution_id = $2 AND key = ANY($3::TEXT[]) ORDER BY key;

-- name: entities_by_key
-- A page of them.
SELECT key, due_us, payload, checksum FROM everlong.entity_states
WHERE shard = $1 AND execution_id = $2 AND key > $3 ORDER BY key LIMIT $4;

-- name: entities_by_due
-- Those whose first timers are due first.
SELECT key, due_us, payload, checksum FROM everlong.entity_states
WHERE shard = $1 AND execution_id = $2 AND due_us IS NOT NULL ORDER BY due_us, key LIMIT $3;

-- name: entities_of
-- Everything that an execution keeps for keys.
SELECT key, due_us, payload, checksum FROM everlong.entity_states
WHERE shard = $1 AND execution_id = $2 ORDER BY key;

-- name: any_entity
-- Whether an execution has states of keys.
SELECT 1 FROM everlong.entity_states WHERE shard = $1 AND execution_id = $2 LIMIT 1;

-- name: insert_approval
-- A run asks somebody.
INSERT INTO everlong.approvals (shard, run_id, number, seq) VALUES ($1, $2, $3, $4);

-- name: answered_approval
-- Whether somebody has answered.
SELECT 1 FROM everlong.approvals WHERE shard = $1 AND run_id = $2 AND number = $3 AND answer IS NOT NULL;

-- name: withdraw_approval
-- A run does not ask any more. What was answered stays.
DELETE FROM everlong.approvals WHERE shard = $1 AND run_id = $2 AND number = $3 AND answer IS NULL;

-- name: close_approvals
-- The same, for all that a run asks.
DELETE FROM everlong.approvals WHERE shard = $1 AND run_id = $2 AND answer IS NULL;

-- name: answer_approval
-- The first answer is the answer.
UPDATE everlong.approvals SET answer = $1, request = $2
WHERE shard = $3 AND run_id = $4 AND number = $5 AND answer IS NULL;

-- name: approval_at
-- One approval.
SELECT number, seq, answer, request FROM everlong.approvals
WHERE shard = $1 AND run_id = $2 AND number = $3;

-- name: open_approvals
-- Those that wait for an answer, the oldest runs first, a page at a time.
SELECT approvals.shard, approvals.run_id, approvals.number FROM everlong.approvals JOIN everlong.runs USING (shard, run_id)
WHERE approvals.answer IS NULL AND (approvals.run_id, approvals.number) > ($1::BYTEA, $2::BIGINT)
  AND runs.namespace = $3 AND ($4::TEXT IS NULL OR runs.workflow_id = $4)
ORDER BY approvals.run_id, approvals.number LIMIT $5;

-- name: event_at
-- One event.
SELECT seq, kind, at_us, body, checksum FROM everlong.history WHERE shard = $1 AND run_id = $2 AND seq = $3;

-- name: events_of
-- Events, one of each run and number.
SELECT h.run_id, h.seq, h.kind, h.at_us, h.body, h.checksum FROM everlong.history AS h
JOIN unnest($1::INT[], $2::BYTEA[], $3::BIGINT[]) AS w (shard, run_id, seq)
  ON h.shard = w.shard AND h.run_id = w.run_id AND h.seq = w.seq;

-- name: blob_at
-- One spilled payload.
SELECT data FROM everlong.blobs WHERE shard = $1 AND digest = $2;

-- name: append_id_at
-- Which append wrote an event, if its owner's lease still stands: after an answer that was lost.
SELECT history.append_id FROM everlong.history JOIN everlong.runs USING (shard, run_id)
WHERE history.shard = $1 AND history.run_id = $2 AND history.seq = $3 AND runs.lease_token = $4;

-- name: mail_positions_of
-- Only where it lies.
SELECT position FROM everlong.inbox
WHERE shard = $1 AND execution_id = $2 AND worker_id IS NULL ORDER BY position;

-- name: kinds_of_mail
-- Only what it is; notices are none of it.
SELECT kind FROM everlong.inbox WHERE shard = $1 AND execution_id = $2 AND worker_id IS NULL;

-- name: change_mail
-- The start that nobody has fed yet is another one now.
UPDATE everlong.inbox SET body = $1, checksum = $2
WHERE position = $3 AND execution_id = $4 AND shard = $5;

-- name: mail_since
-- What has come since a look at the inbox; a hint to its owner, never what is consumed by.
SELECT position, execution_id, kind, body, checksum FROM everlong.inbox WHERE position > $1
ORDER BY position LIMIT $2;

-- name: insert_mail
-- Accept a message.
INSERT INTO everlong.inbox (shard, execution_id, kind, body, checksum) VALUES ($1, $2, $3, $4, $5)
RETURNING position;

-- name: delete_mail
-- Consume exactly one message.
DELETE FROM everlong.inbox WHERE position = $1 AND execution_id = $2;

-- name: forget_mail
-- What nobody will feed any more: the execution is closed.
DELETE FROM everlong.inbox WHERE shard = $1 AND execution_id = $2 AND worker_id IS NULL;

-- name: find_request
-- The answer that a request was given before.
SELECT result FROM everlong.requests WHERE shard = $1 AND execution_id = $2 AND request_id = $3;

-- name: insert_request
-- Remember an answer beside what it acknowledges.
INSERT INTO everlong.requests (shard, execution_id, request_id, result) VALUES ($1, $2, $3, $4);

-- name: answer_request
-- What a sender waits for. One that is not known any more waits for nothing.
UPDATE everlong.requests SET result = $1 WHERE shard = $2 AND execution_id = $3 AND request_id = $4;

-- name: refuse_mail
-- Consume a message unfed, under the lease of the run that refuses it.
DELETE FROM everlong.inbox WHERE position = $1 AND execution_id = $2 AND shard = $3 AND EXISTS (
    SELECT 1 FROM everlong.runs WHERE shard = $3 AND run_id = $4 AND lease_token = $5 AND status < 10);

-- name: count_sent
-- Note the newest message of a sender. No row: it was noted before, so this is a repetition.
INSERT INTO everlong.requests (shard, execution_id, request_id, result) VALUES ($1, $2, $3, $4)
ON CONFLICT (shard, execution_id, request_id) DO UPDATE SET result = excluded.result
    WHERE requests.result < excluded.result
RETURNING 1;

-- name: forget_senders
-- Those that have sent nothing for long: nobody repeats it any more.
DELETE FROM everlong.requests AS r
USING unnest($1::INT[], $2::BYTEA[], $3::TEXT[], $4::TEXT[], $5::BYTEA[])
    AS old (shard, execution_id, least, behind, mark)
WHERE r.shard = old.shard AND r.execution_id = old.execution_id
  AND r.request_id > old.least AND r.request_id < old.behind AND r.result < old.mark;

-- name: runs_of_execution
-- A whole execution, the oldest run first.
SELECT * FROM everlong.runs WHERE shard = $1 AND execution_id = $2 ORDER BY run_id;

-- name: requests_of
-- What was answered to those who wrote to an execution.
SELECT request_id, result FROM everlong.requests WHERE shard = $1 AND execution_id = $2 ORDER BY request_id;

-- name: items_of
-- Everything that an execution has published.
SELECT channel, number, at_us, payload, checksum FROM everlong.published
WHERE shard = $1 AND execution_id = $2 ORDER BY channel, number;

-- name: approvals_of
-- What a run asks, and what it was answered.
SELECT number, seq, answer, request FROM everlong.approvals WHERE shard = $1 AND run_id = $2 ORDER BY number;

-- name: blob_uses_of
-- What a run, or an execution's mail, refers to.
SELECT owner_id, digest FROM everlong.blob_uses WHERE shard = $1 AND owner_id = $2 ORDER BY digest;

-- name: import_run
-- A run that was exported elsewhere; nobody has it.
INSERT INTO everlong.runs (shard, run_id, execution_id, namespace, workflow_id, type, queue, status,
                  next_seq, lease_token, wake_us, started_us, closed_us, reason, request_id, version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11, $12, $13, $14, $15);

-- name: depart_run
-- It goes on in another store: whoever knew a token of it has none any more. Until it is known to
-- have arrived, nothing sweeps it away.
UPDATE everlong.runs SET status = 3, closed_us = NULL, owner = NULL, wake_us = NULL, probation = 0,
                lease_token = lease_token + 1, reason = $1
WHERE shard = $2 AND run_id = $3;

-- name: settle_run
-- Whether it has arrived there, or goes on here after all.
UPDATE everlong.runs SET status = $1, closed_us = $2, reason = $3, wake_us = $4 WHERE shard = $5 AND run_id = $6;

-- name: put_gone
-- An execution must not arrive any more.
INSERT INTO everlong.requests_of_types (namespace, request_id, at_us, result) VALUES ($1, $2, $3, $4)
ON CONFLICT (namespace, request_id) DO UPDATE SET at_us = excluded.at_us, result = excluded.result;

-- name: import_approval
-- What it asks.
INSERT INTO everlong.approvals (shard, run_id, number, seq, answer, request) VALUES ($1, $2, $3, $4, $5, $6);

-- name: latest_of_execution
-- The newest run of one execution, whose workflow id may have gone to another since.
SELECT * FROM everlong.runs WHERE shard = $1 AND namespace = $2 AND workflow_id = $3 AND execution_id = $4
ORDER BY run_id DESC LIMIT 1;

-- name: run_of_request
-- The execution that a start with this request id began.
SELECT * FROM everlong.runs WHERE shard = $1 AND namespace = $2 AND workflow_id = $3 AND request_id = $4;

-- name: user_of_request
-- The execution that was asked this (a start with this request id that found and used it, say), by
-- its newest run, and the answer to that.
SELECT runs.*, requests.result FROM everlong.runs CROSS JOIN everlong.requests
WHERE runs.shard = $1 AND namespace = $2 AND workflow_id = $3 AND requests.shard = $1
  AND requests.execution_id = runs.execution_id AND requests.request_id = $4
ORDER BY runs.run_id DESC LIMIT 1;

-- name: get_run
-- One run by its id.
SELECT * FROM everlong.runs WHERE shard = $1 AND run_id = $2;

-- name: run_by_id
-- One run by its id alone: for people, who do not know shards.
SELECT * FROM everlong.runs WHERE run_id = $1;

-- name: terminate_run
-- Close from outside: the token moves on, so that the owner's next append is refused.
UPDATE everlong.runs
SET status = $1, closed_us = $2, next_seq = next_seq + 1, lease_token = lease_token + 1,
    owner = NULL, wake_us = NULL, probation = 0, reason = NULL
WHERE shard = $3 AND run_id = $4 AND status < 10
RETURNING next_seq - 1;

-- name: wake_run
-- A message for a run that nobody owns: somebody should look now, and not later than without it: what
-- has waited longest is claimed first. A blocked run stays parked, and one whose beginning is put off
-- begins when it should.
UPDATE everlong.runs SET wake_us = least($1, wake_us)
WHERE shard = $2 AND run_id = $3 AND owner IS NULL AND status = 0
  AND NOT (next_seq = 1 AND coalesce(wake_us > $1, FALSE));

-- name: rouse_run
-- The same for a cancellation, which does not wait for a beginning.
UPDATE everlong.runs SET wake_us = least($1, wake_us)
WHERE shard = $2 AND run_id = $3 AND owner IS NULL AND status = 0;

-- name: resume_run
-- Try a blocked run again; it is held if somebody has paused it, or its type.
UPDATE everlong.runs SET status = $1, wake_us = CASE $1::INT WHEN 0 THEN $2::BIGINT END,
                losses = 0, strikes = 0, probation = 0, reason = NULL
WHERE shard = $3 AND run_id = $4 AND status = 1;

-- name: resume_blocked
-- A worker with other code has come: blocked runs of its types are tried again; poison is not.
UPDATE everlong.runs SET status = $1, wake_us = CASE $1::INT WHEN 0 THEN $2::BIGINT END, reason = NULL
WHERE status = 1 AND strikes < $3 AND ((version IS NULL AND type = ANY ($4::TEXT[]))
       OR (type, version) IN (SELECT * FROM unnest($5::TEXT[], $6::TEXT[])))
  AND (EXISTS (SELECT 1 FROM everlong.pauses AS p
               WHERE p.shard = runs.shard AND p.execution_id = runs.execution_id)
       OR EXISTS (SELECT 1 FROM everlong.pauses_of_types AS p
                  WHERE p.namespace = runs.namespace AND p.type IN ('', runs.type))) = ($1 = 2)
  AND shard = ANY ($7::INT[]);

-- name: blocked_shards
-- Where there are blocked runs of some types.
SELECT DISTINCT shard FROM everlong.runs WHERE status = 1 AND type = ANY ($1::TEXT[]) ORDER BY shard;

-- name: put_pause
-- Somebody holds an execution; who was first has given the reason. That it is about to be moved gives
-- way to any other.
INSERT INTO everlong.pauses (shard, execution_id, namespace, workflow_id, since_us, by, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (shard, execution_id) DO UPDATE SET
    since_us = excluded.since_us, by = excluded.by, reason = excluded.reason
    WHERE pauses.by = 'everlong move';

-- name: pause_run
-- From here on nothing is appended to it. Whoever owns it keeps it, for what it has at work.
UPDATE everlong.runs SET status = 2, wake_us = NULL WHERE shard = $1 AND run_id = $2 AND status = 0;

-- name: wake_at
-- When somebody should look at a run; NULL: nobody need.
UPDATE everlong.runs SET wake_us = $1 WHERE shard = $2 AND run_id = $3;

-- name: forget_pause
-- It is held no more for its own sake.
DELETE FROM everlong.pauses WHERE shard = $1 AND execution_id = $2;

-- name: forget_pause_of
-- Likewise, if it is this one who holds it.
DELETE FROM everlong.pauses WHERE shard = $1 AND execution_id = $2 AND by = $3;

-- name: is_held
-- Whether somebody has paused an execution, or all of its type.
SELECT EXISTS (SELECT 1 FROM everlong.pauses WHERE shard = $1 AND execution_id = $2)
    OR EXISTS (SELECT 1 FROM everlong.pauses_of_types WHERE namespace = $3 AND type IN ('', $4));

-- name: unpause_run
-- It goes on: whoever has it looks again, or else somebody takes it.
UPDATE everlong.runs SET status = 0, wake_us = CASE WHEN owner IS NULL THEN $1::BIGINT END, reason = NULL
WHERE shard = $2 AND run_id = $3 AND status = 2;

-- name: put_pause_of_types
-- Somebody holds a type of workflow, or all of them ('').
INSERT INTO everlong.pauses_of_types (namespace, type, since_us, by, reason) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING;

-- name: pause_runs
-- The open runs of a type that are not held already.
UPDATE everlong.runs SET status = 2, wake_us = NULL
WHERE status < 10 AND status = 0 AND namespace = $1 AND ($2 = '' OR type = $2)
RETURNING shard, execution_id, owner;

-- name: forget_pause_of_types
-- It is not held any more.
DELETE FROM everlong.pauses_of_types WHERE namespace = $1 AND type = $2;

-- name: unpause_runs
-- Those of a type that nothing else holds.
UPDATE everlong.runs SET status = 0, wake_us = CASE WHEN owner IS NULL THEN $3::BIGINT END, reason = NULL
WHERE status < 10 AND status = 2 AND namespace = $1 AND ($2 = '' OR type = $2)
  AND NOT EXISTS (SELECT 1 FROM everlong.pauses AS p
                  WHERE p.shard = runs.shard AND p.execution_id = runs.execution_id)
  AND NOT EXISTS (SELECT 1 FROM everlong.pauses_of_types AS p
                  WHERE p.namespace = runs.namespace AND p.type IN ('', runs.type))
RETURNING shard, execution_id, owner;

-- name: blocked_runs
-- Those of a type that are parked, poison too.
SELECT shard, run_id FROM everlong.runs
WHERE status < 10 AND status = 1 AND namespace = $1 AND ($2 = '' OR type = $2);

-- name: pause_at
-- Who holds an execution.
SELECT namespace, workflow_id, execution_id, since_us, by, reason FROM everlong.pauses
WHERE shard = $1 AND execution_id = $2;

-- name: pauses_of
-- Those of a namespace, the oldest first.
SELECT namespace, workflow_id, execution_id, since_us, by, reason FROM everlong.pauses
WHERE namespace = $1 ORDER BY since_us, execution_id LIMIT $2;

-- name: pauses_of_types
-- The types that somebody holds.
SELECT namespace, type, since_us, by, reason FROM everlong.pauses_of_types
WHERE namespace = $1 ORDER BY since_us, type LIMIT $2;

-- name: find_request_of_types
-- What a request about many executions was answered before.
SELECT result FROM everlong.requests_of_types WHERE namespace = $1 AND request_id = $2;

-- name: put_request_of_types
-- Remember it.
INSERT INTO everlong.requests_of_types (namespace, request_id, at_us, result) VALUES ($1, $2, $3, $4);

-- name: put_answer_of_key
-- Which execution a debounced start has come to, in place of an earlier one of its sender.
INSERT INTO everlong.requests_of_types (namespace, request_id, at_us, result) VALUES ($1, $2, $3, $4)
ON CONFLICT (namespace, request_id) DO UPDATE SET at_us = excluded.at_us, result = excluded.result;

-- name: start_key
-- Which execution has a key of a workflow.
SELECT shard, execution_id, first_us, until_us, starts FROM everlong.start_keys
WHERE namespace = $1 AND type = $2 AND kind = $3 AND key = $4;

-- name: put_start_key
-- It has it from now on.
INSERT INTO everlong.start_keys (namespace, type, kind, key, shard, execution_id, first_us, until_us,
                                 starts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (namespace, type, kind, key) DO UPDATE SET shard = excluded.shard, execution_id = excluded.execution_id,
    first_us = excluded.first_us, until_us = excluded.until_us, starts = excluded.starts;

-- name: put_off
-- A run that nobody owns begins then, and not before.
UPDATE everlong.runs SET wake_us = $1 WHERE shard = $2 AND run_id = $3 AND owner IS NULL;

-- name: turn_of
-- Whether an execution stands in a pool.
SELECT state FROM everlong.turns WHERE shard = $1 AND execution_id = $2;

-- name: forget_requests_of_types
-- Nobody repeats them any more.
DELETE FROM everlong.requests_of_types WHERE at_us < $1;

-- name: idle_pauses
-- Pauses of executions that are not open, or whose run goes on all the same.
SELECT execution_id FROM everlong.pauses AS p
WHERE NOT EXISTS (SELECT 1 FROM everlong.runs AS r WHERE r.shard = p.shard AND r.namespace = p.namespace
                  AND r.workflow_id = p.workflow_id AND r.execution_id = p.execution_id
                  AND r.status IN (1, 2));

-- name: held_by_nobody
-- Runs that are paused, and nothing says by whom; and runs that go on though all of their type are held.
SELECT r.run_id FROM everlong.runs AS r
WHERE r.status < 10 AND r.status IN (0, 2)
  AND (r.status = 2) <> (EXISTS (SELECT 1 FROM everlong.pauses AS p WHERE p.shard = r.shard
                                 AND p.execution_id = r.execution_id)
                         OR EXISTS (SELECT 1 FROM everlong.pauses_of_types AS p
                                    WHERE p.namespace = r.namespace AND p.type IN ('', r.type)));

-- name: pin_run
-- Which version may drive it from now on.
UPDATE everlong.runs SET version = $1 WHERE shard = $2 AND run_id = $3 AND status < 3;

-- name: release_run
-- Hand back under the lease; the owner must have seen the whole history.
UPDATE everlong.runs SET owner = NULL, wake_us = CASE WHEN status <> 2 THEN $1::BIGINT END,
                status = greatest(status, $2), reason = $3, probation = 0
WHERE shard = $4 AND run_id = $5 AND lease_token = $6 AND next_seq = $7 AND status < 10
  AND owner IS NOT NULL
RETURNING run_id;

-- name: sleep_runs
-- The same for runs with nothing to tell: they sleep until they are due, or until mail comes.
UPDATE everlong.runs
SET owner = NULL, wake_us = CASE WHEN status = 0 THEN mine.wake_us END, reason = NULL, probation = 0
FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[])
    AS mine (shard, run_id, token, base, wake_us)
WHERE runs.shard = mine.shard AND runs.run_id = mine.run_id
  AND runs.lease_token = mine.token AND runs.next_seq = mine.base AND runs.status < 10
  AND runs.owner IS NOT NULL
RETURNING runs.run_id;

-- name: was_handed_back
-- Whether a refused hand-back is one whose commit succeeded: only its owner leaves its token behind.
SELECT 1 FROM everlong.runs
WHERE shard = $1 AND run_id = $2 AND lease_token = $3 AND next_seq = $4 AND status < 10
  AND owner IS NULL;

-- name: check_lease
-- Whether an owner's lease still stands; the run may be paused all the same.
SELECT status FROM everlong.runs WHERE shard = $1 AND run_id = $2 AND lease_token = $3 AND status < 10;

-- name: mark_probation
-- The durable mark under which a suspected run is driven alone.
UPDATE everlong.runs SET probation = $1 WHERE shard = $2 AND run_id = $3 AND lease_token = $4;

-- name: newest_attempt
-- How the last known attempt of an activity stands.
SELECT attempt, state FROM everlong.attempts WHERE shard = $1 AND run_id = $2 AND activity_id = $3
ORDER BY attempt DESC LIMIT 1;

-- name: beat_attempt
-- A sign of life of an attempt that is completed elsewhere: state 5.
UPDATE everlong.attempts SET ended_us = $1, details = coalesce($2, details)
WHERE shard = $3 AND run_id = $4 AND activity_id = $5 AND attempt = $6 AND state = 5;

-- name: trim_attempts
-- Keep the last few attempts of an activity, and the one behind which its present set began; the
-- count stays exact, it is the attempt's number.
DELETE FROM everlong.attempts WHERE shard = $1 AND run_id = $2 AND activity_id = $3 AND attempt <= $4
  AND attempt <> (SELECT coalesce(max(attempt), 0) FROM everlong.attempts
                  WHERE shard = $1 AND run_id = $2 AND activity_id = $3 AND state = 6);

-- name: last_event
-- How a closed run closed.
SELECT seq, kind, at_us, body, checksum FROM everlong.history
WHERE shard = $1 AND run_id = $2 ORDER BY seq DESC LIMIT 1;

-- name: unuse_these
-- They are referred to no more by this one.
DELETE FROM everlong.blob_uses
WHERE (shard, owner_id, digest) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::BYTEA[])) RETURNING 1;

-- name: use_blob
-- Who refers to it.
INSERT INTO everlong.blob_uses (shard, owner_id, digest) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: runs_of_owner
-- What bears a worker's name.
SELECT shard, run_id, execution_id FROM everlong.runs WHERE owner = $1 ORDER BY run_id;

-- name: claim_again
-- Take anew what was claimed before, in an answer that was lost.
UPDATE everlong.runs SET lease_token = lease_token + 1, probation = 0
WHERE shard = $1 AND run_id = $2 AND owner = $3
RETURNING *;

-- name: pinned_of
-- What bears a worker's name and is pinned. Nothing is looked at where nothing is.
SELECT run_id, version FROM everlong.runs WHERE owner = $1 AND version IS NOT NULL ORDER BY run_id;

-- name: shares
-- How the runs of some types that are under way, or due, lie with workers. Three parts, for three indexes.
SELECT type, version, owner, count(*) FROM (
    SELECT type, version, owner FROM everlong.runs
    WHERE owner IS NOT NULL AND status = 0 AND queue = $1 AND type = ANY ($2::TEXT[])
    UNION ALL
    SELECT type, version, owner FROM everlong.runs
    WHERE owner IS NULL AND wake_us <= $3 AND version IS NULL AND status = 0 AND queue = $1 AND type = ANY ($2::TEXT[])
    UNION ALL
    SELECT type, version, owner FROM everlong.runs
    WHERE owner IS NULL AND wake_us <= $3 AND version IS NOT NULL AND status = 0 AND queue = $1
      AND type = ANY ($2::TEXT[])) AS found
GROUP BY type, version, owner ORDER BY type, version NULLS FIRST, owner NULLS FIRST;

-- name: open_versions
-- How many open runs there are of each type and version.
SELECT type, version, count(*) FILTER (WHERE status <> 1), count(*) FILTER (WHERE status = 1) FROM everlong.runs
WHERE namespace = $1 AND status < 3 GROUP BY type, version ORDER BY type, version NULLS FIRST;

-- name: park_run
-- Whatever else its row says: nobody can drive it.
UPDATE everlong.runs SET status = 1, owner = NULL, wake_us = NULL, probation = 0, reason = $1
WHERE shard = $2 AND run_id = $3;

-- name: take_orphan
-- Take one over, with what the judge found.
UPDATE everlong.runs SET owner = NULL, lease_token = lease_token + 1, wake_us = $1, status = $2,
                losses = $3, strikes = $4, probation = 0, reason = $5
WHERE shard = $6 AND run_id = $7 AND lease_token = $8;

-- name: put_worker
-- A worker says who it is and what it hosts.
WITH changed AS (UPDATE everlong.store SET fleet = fleet + 1)
INSERT INTO everlong.workers (worker_id, name, pid, host, started_us, beat_us, dead, queue, types, versions,
                              lease_us, slots)
VALUES ($1, $2, $3, $4, $5, $6, FALSE, $7, $8, $9, everlong.now_us() + $10, $11);

-- name: bury_worker
-- One worker, stopped in order: nothing is left of its lease.
WITH changed AS (UPDATE everlong.store SET fleet = fleet + 1)
UPDATE everlong.workers SET dead = TRUE, lease_us = 0 WHERE worker_id = $1;

-- name: fleet
-- All workers, the longest there first, and how long their leases are good for; NULL: for nothing,
-- and they have said so themselves.
SELECT store.fleet, host, pid, started_us, types, versions,
       CASE WHEN lease_us > 0 THEN lease_us - everlong.now_us() END AS left_us, queue
FROM everlong.store LEFT JOIN everlong.workers ON TRUE ORDER BY started_us, worker_id;

-- name: forget_workers
-- Dead workers that own nothing any more.
DELETE FROM everlong.workers WHERE dead AND beat_us < $1
  AND NOT EXISTS (SELECT 1 FROM everlong.runs WHERE owner = workers.worker_id)
  AND NOT EXISTS (SELECT 1 FROM everlong.tasks WHERE tasks.worker_id = workers.worker_id);

-- name: list_workers
-- Who is here.
SELECT worker_id, name, pid, host, started_us, beat_us, dead, queue, types, versions,
       lease_us <= everlong.now_us() AS gone, slots, busy
FROM everlong.workers ORDER BY worker_id;

-- name: put_question
-- A query from another process. Asked again after an answer that was lost, it is there already.
INSERT INTO everlong.questions (question_id, shard, namespace, workflow_id, query, arguments, asked_us)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING;

-- name: open_questions
-- Queries that nobody has answered yet, oldest first.
SELECT question_id, shard, namespace, workflow_id, query, arguments FROM everlong.questions
WHERE answered IS NULL
ORDER BY asked_us, question_id LIMIT $1;

-- name: put_answer
-- The answer to one.
UPDATE everlong.questions SET answered = $1, answer = $2 WHERE question_id = $3;

-- name: get_answer
-- What its asker waits for.
SELECT answered, answer FROM everlong.questions WHERE question_id = $1;

-- name: forget_question
-- Answered and read, or given up.
DELETE FROM everlong.questions WHERE question_id = $1;

-- name: forget_questions
-- Askers that died.
DELETE FROM everlong.questions WHERE asked_us < $1;

-- name: prune_candidates
-- Runs in the order of their start, from a cursor up to the first id that the horizon could mint:
-- what began later cannot be due.
SELECT shard, run_id, execution_id FROM everlong.runs
WHERE run_id > $1 AND run_id < $2 ORDER BY run_id LIMIT $3;

-- name: missing_blobs
-- Payloads that are referred to and not there.
SELECT owner_id FROM everlong.blob_uses AS u WHERE NOT EXISTS
    (SELECT 1 FROM everlong.blobs AS b WHERE b.shard = u.shard AND b.digest = u.digest);

-- name: unused_blobs
-- Payloads that nobody refers to.
SELECT digest FROM everlong.blobs AS b WHERE NOT EXISTS
    (SELECT 1 FROM everlong.blob_uses AS u WHERE u.shard = b.shard AND u.digest = b.digest);

-- name: unowned_blob_uses
-- References of what is neither a run nor an execution.
SELECT DISTINCT owner_id FROM everlong.blob_uses
WHERE owner_id NOT IN (SELECT run_id FROM everlong.runs) AND owner_id NOT IN (SELECT execution_id FROM everlong.runs);

-- name: published_numbers
-- How far the output channels of an execution have come.
SELECT channel, max(number) + 1 FROM everlong.published WHERE shard = $1 AND execution_id = $2
GROUP BY channel ORDER BY channel;

-- name: message_behind
-- Whether a history holds one of these kinds of events from a sequence number on.
SELECT 1 FROM everlong.history WHERE shard = $1 AND run_id = $2 AND seq >= $3
  AND kind IN ($4, $5, $6, $7, $8, $9, $10, $11, $12)
LIMIT 1;

-- name: put_request
-- What senders are told from now on.
INSERT INTO everlong.requests (shard, execution_id, request_id, result) VALUES ($1, $2, $3, $4)
ON CONFLICT (shard, execution_id, request_id) DO UPDATE SET result = excluded.result;

-- name: links_from_run
-- Whom a run waits for, and its children.
SELECT shard, execution_id, waiter_run, number, waiter_id, namespace, workflow_id, waiter,
       on_parent_close
FROM everlong.links WHERE waiter_shard = $1 AND waiter_id = $2 AND waiter_run = $3 ORDER BY number;

-- name: forget_links_from_run
-- Another run has taken its place.
DELETE FROM everlong.links WHERE waiter_shard = $1 AND waiter_id = $2 AND waiter_run = $3;

-- name: put_link
-- An execution is waited for.
INSERT INTO everlong.links (shard, execution_id, waiter_run, number, waiter_id, namespace, workflow_id,
                   waiter, on_parent_close, waiter_shard)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING;

-- name: links_to
-- Who waits for an execution.
SELECT shard, execution_id, waiter_run, number, waiter_id, namespace, workflow_id, waiter,
       on_parent_close
FROM everlong.links WHERE shard = $1 AND execution_id = $2 ORDER BY waiter_run, number;

-- name: links_from
-- Whom an execution waits for, and its children.
SELECT shard, execution_id, waiter_run, number, waiter_id, namespace, workflow_id, waiter,
       on_parent_close
FROM everlong.links WHERE waiter_shard = $1 AND waiter_id = $2 ORDER BY waiter_run, number;

-- name: link_at
-- What a run waits for under one of its numbers.
SELECT shard, execution_id, waiter_run, number, waiter_id, namespace, workflow_id, waiter,
       on_parent_close
FROM everlong.links WHERE waiter_shard = $1 AND waiter_id = $2 AND waiter_run = $3 AND number = $4;

-- name: forget_links_to
-- It has ended, and who waited has been told.
DELETE FROM everlong.links WHERE shard = $1 AND execution_id = $2;

-- name: forget_links_from
-- It has ended, and its children have what follows from that.
DELETE FROM everlong.links WHERE waiter_shard = $1 AND waiter_id = $2;

-- name: idle_links
-- Links of executions that have ended or were never there, or that nobody of us has made.
SELECT execution_id, waiter_id FROM everlong.links AS l
WHERE on_parent_close NOT IN ('', 'terminate', 'cancel', 'abandon')
   OR NOT EXISTS (SELECT 1 FROM everlong.runs AS r WHERE r.shard = l.shard AND r.namespace = l.namespace
                  AND r.workflow_id = l.workflow_id AND r.execution_id = l.execution_id
                  AND r.status < 10)
   OR NOT EXISTS (SELECT 1 FROM everlong.runs AS r WHERE r.shard = l.waiter_shard AND r.namespace = l.namespace
                  AND r.workflow_id = l.waiter AND r.execution_id = l.waiter_id AND r.status < 10)
   OR NOT EXISTS (SELECT 1 FROM everlong.runs AS r WHERE r.shard = l.waiter_shard AND r.run_id = l.waiter_run
                  AND r.execution_id = l.waiter_id);

-- name: drop_tags
-- All that a run is found by.
DELETE FROM everlong.tags WHERE shard = $1 AND run_id = $2;

-- name: drop_tag
-- Those that a run takes away.
DELETE FROM everlong.tags WHERE shard = $1 AND run_id = $2 AND name = ANY ($3::TEXT[]);

-- name: lock_runs
-- In one order, so that groups which meet wait for each other in turn.
SELECT run_id FROM everlong.runs
WHERE (shard, run_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]))
ORDER BY shard, run_id FOR UPDATE;

-- name: lock_latest
-- The run that a workflow id means, for whoever writes.
SELECT * FROM everlong.lock_latest($1, $2, $3);

-- name: latest_run
-- The run that a workflow id means: the open one, else the newest. A clock that was set back must
-- not let a closed run stand in front of an open one.
SELECT * FROM everlong.runs WHERE shard = $1 AND namespace = $2 AND workflow_id = $3
ORDER BY (status < 10) DESC, run_id DESC LIMIT 1;

-- name: lock_run
-- One run by its id, for whoever writes.
SELECT * FROM everlong.runs WHERE shard = $1 AND run_id = $2 FOR UPDATE;

-- name: newest_run
-- The greatest id of all: whoever mints new ones goes on from there.
SELECT run_id FROM everlong.runs ORDER BY run_id DESC LIMIT 1;

-- name: history_of
-- The events of some runs.
SELECT run_id, seq, kind, at_us, body, checksum FROM everlong.history
JOIN unnest($1::INT[], $2::BYTEA[]) AS mine (shard, run_id) USING (shard, run_id)
ORDER BY run_id, seq;

-- name: blobs_of
-- All spilled payloads of some runs and of their executions' mail, with whom they belong to.
SELECT u.owner_id, b.digest, b.data FROM unnest($1::INT[], $2::BYTEA[]) AS mine (shard, owner_id)
JOIN everlong.blob_uses AS u USING (shard, owner_id)
JOIN everlong.blobs AS b USING (shard, digest);

-- name: attempts_of
-- What is known of the attempts of some runs.
SELECT run_id, activity_id, attempt, state, started_us, ended_us, retry_us, error_type, error,
       traceback, worker, details
FROM everlong.attempts
JOIN unnest($1::INT[], $2::BYTEA[]) AS mine (shard, run_id) USING (shard, run_id)
ORDER BY run_id, activity_id, attempt;

-- name: mail_of
-- What waits for some executions, in the order in which it was accepted; notices are none of it.
SELECT position, execution_id, kind, body, checksum FROM everlong.inbox
JOIN unnest($1::INT[], $2::BYTEA[]) AS mine (shard, execution_id) USING (shard, execution_id)
WHERE worker_id IS NULL ORDER BY position;

-- name: due_runs
-- Take what is due, the longest due first, of each type, and of the versions that pinned ones want.
-- Of the types nothing if another fleet is here than the one by which they were chosen.
-- What another worker is taking is passed over.
WITH wanted AS (
    SELECT due.* FROM unnest($3::TEXT[]) AS free (type), LATERAL (
        SELECT wake_us, shard, run_id FROM everlong.runs AS r
        WHERE r.wake_us IS NOT NULL AND r.version IS NULL AND r.queue = $2 AND r.type = free.type
          AND r.wake_us <= $1 AND r.status = 0 AND r.owner IS NULL
        ORDER BY r.wake_us LIMIT $6) AS due
    WHERE $8::BIGINT IS NULL OR $8 = (SELECT fleet FROM everlong.store)
    UNION ALL
    SELECT due.* FROM unnest($4::TEXT[], $5::TEXT[]) AS pinned (type, version), LATERAL (
        SELECT wake_us, shard, run_id FROM everlong.runs AS r
        WHERE r.wake_us IS NOT NULL AND r.queue = $2 AND r.type = pinned.type
          AND r.version = pinned.version AND r.wake_us <= $1 AND r.status = 0 AND r.owner IS NULL
        ORDER BY r.wake_us LIMIT $6) AS due
), taken AS (
    SELECT r.shard, r.run_id, r.wake_us FROM everlong.runs AS r
    WHERE (r.shard, r.run_id) IN (SELECT shard, run_id FROM wanted ORDER BY wake_us LIMIT $6)
      AND r.status = 0 AND r.owner IS NULL
    FOR UPDATE SKIP LOCKED
)
UPDATE everlong.runs SET owner = $7, lease_token = lease_token + 1, wake_us = NULL, probation = 0
FROM taken WHERE runs.shard = taken.shard AND runs.run_id = taken.run_id
RETURNING runs.*, taken.wake_us AS due_us;

-- name: due_of_type
-- What is due of a type, in all shards; to be taken shard by shard, see `take_due`.
SELECT wake_us, shard, run_id, version FROM everlong.runs
WHERE wake_us IS NOT NULL AND version IS NULL AND queue = $2 AND type = $3 AND wake_us <= $1
  AND status = 0 AND owner IS NULL
ORDER BY wake_us LIMIT $4;

-- name: due_of_version
-- The same of what is pinned.
SELECT wake_us, shard, run_id, version FROM everlong.runs
WHERE wake_us IS NOT NULL AND queue = $2 AND type = $3 AND version = $5 AND wake_us <= $1
  AND status = 0 AND owner IS NULL
ORDER BY wake_us LIMIT $4;

-- name: take_due
-- Take of one shard what was found due, if it still is, and still of that version; as `due_runs`.
WITH taken AS (
    SELECT r.shard, r.run_id, r.wake_us FROM everlong.runs AS r
    JOIN unnest($2::BYTEA[], $3::TEXT[]) AS w (run_id, version)
      ON r.run_id = w.run_id AND r.version IS NOT DISTINCT FROM w.version
    WHERE r.shard = $1 AND r.wake_us <= $4 AND r.status = 0 AND r.owner IS NULL
      AND (r.version IS NOT NULL OR $6::BIGINT IS NULL OR $6 = (SELECT fleet FROM everlong.store))
    FOR UPDATE OF r SKIP LOCKED
)
UPDATE everlong.runs SET owner = $5, lease_token = lease_token + 1, wake_us = NULL, probation = 0
FROM taken WHERE runs.shard = $1 AND runs.shard = taken.shard AND runs.run_id = taken.run_id
RETURNING runs.*, taken.wake_us AS due_us;

-- name: runs_held
-- Runs as they are now, if they are still held under these tokens.
SELECT r.* FROM everlong.runs AS r
JOIN unnest($1::INT[], $2::BYTEA[], $3::BIGINT[]) AS w (shard, run_id, token)
  ON r.shard = w.shard AND r.run_id = w.run_id AND r.lease_token = w.token
WHERE r.owner = $4;

-- name: claim_run
-- Take one run by its id, if nobody has it; the token moves on with each claim. A mark that came
-- behind the release that it should have preceded is void.
UPDATE everlong.runs SET owner = $1, lease_token = lease_token + 1, wake_us = NULL, probation = 0
WHERE shard = $2 AND run_id = $3 AND owner IS NULL AND status = 0
RETURNING *;

-- name: next_wake
-- When the next of the runs that this worker hosts wants to be looked at.
SELECT min(wake_us) FROM (
    SELECT (SELECT min(wake_us) FROM everlong.runs AS r
            WHERE r.wake_us IS NOT NULL AND r.version IS NULL AND r.queue = $1 AND r.type = free.type
              AND r.status = 0) AS wake_us
    FROM unnest($2::TEXT[]) AS free (type)
    UNION ALL
    SELECT (SELECT min(wake_us) FROM everlong.runs AS r
            WHERE r.wake_us IS NOT NULL AND r.queue = $1 AND r.type = pinned.type
              AND r.version = pinned.version AND r.status = 0)
    FROM unnest($3::TEXT[], $4::TEXT[]) AS pinned (type, version)
) AS each;

-- name: orphans
-- Runs of workers that are dead, or that nobody has heard of, in a bounded batch; suspects that
-- were driven come last. What another worker is judging is passed over.
SELECT * FROM everlong.runs WHERE owner IS NOT NULL AND owner NOT IN
    (SELECT worker_id FROM everlong.workers WHERE NOT dead)
ORDER BY probation IN (1, 2), run_id LIMIT $1 FOR UPDATE SKIP LOCKED;

-- name: orphans_seen
-- The same in all shards, to be taken shard by shard.
SELECT shard, run_id, probation FROM everlong.runs WHERE owner IS NOT NULL AND owner NOT IN
    (SELECT worker_id FROM everlong.workers WHERE NOT dead)
ORDER BY probation IN (1, 2), run_id LIMIT $1;

-- name: orphans_of
-- Those of one shard that were seen, and still are. What another worker is judging is passed over.
SELECT * FROM everlong.runs WHERE shard = $1 AND run_id = ANY ($2::BYTEA[]) AND owner IS NOT NULL
  AND owner NOT IN (SELECT worker_id FROM everlong.workers WHERE NOT dead)
ORDER BY run_id FOR UPDATE SKIP LOCKED;

-- name: driven_suspect
-- Whether a dead worker was driving a suspect.
SELECT 1 FROM everlong.runs WHERE owner IS NOT NULL AND probation IN (1, 2) AND owner NOT IN
    (SELECT worker_id FROM everlong.workers WHERE NOT dead) LIMIT 1;

-- name: bury_workers
-- Whoever has not been heard of for a whole lease is dead from here on.
UPDATE everlong.workers SET dead = TRUE
WHERE NOT dead AND lease_us <= everlong.now_us() AND worker_id <> ALL ($1::BYTEA[])
RETURNING worker_id;

-- name: beat
-- A sign of life. Whom no row names, somebody has declared dead. Each row also tells in how many
-- microseconds the first lease of all others ends, and whether the dead have left anything.
WITH beaten AS (
    UPDATE everlong.workers SET lease_us = everlong.now_us() + $2, beat_us = everlong.now_us(),
                                beats = beats + (worker_id = ($1::BYTEA[])[1])::INT,
                                busy = coalesce(($3::BIGINT[])[array_position($1::BYTEA[], worker_id)], 0)
    WHERE worker_id = ANY ($1::BYTEA[]) AND NOT dead RETURNING worker_id
)
SELECT beaten.worker_id, others.ends_us, others.dead_left
FROM (SELECT (SELECT min(lease_us) - everlong.now_us() FROM everlong.workers
              WHERE NOT dead AND worker_id <> ALL ($1::BYTEA[])) AS ends_us,
             EXISTS (SELECT 1 FROM everlong.workers AS w WHERE w.dead AND EXISTS
                     (SELECT 1 FROM everlong.runs AS r WHERE r.owner = w.worker_id
                      UNION ALL
                      SELECT 1 FROM everlong.tasks AS t WHERE t.worker_id = w.worker_id)) AS dead_left
     ) AS others LEFT JOIN beaten ON TRUE;

-- name: forget_notices
-- What tells owners of terminations, where they are dead.
DELETE FROM everlong.inbox WHERE worker_id = ANY ($1::BYTEA[]);

-- name: has_mail
-- Whether anything waits for an execution.
SELECT 1 FROM everlong.inbox WHERE shard = $1 AND execution_id = $2 AND worker_id IS NULL LIMIT 1;

-- name: commits
-- How many transactions have ended that wrote something, beats not counted: a number that grows with
-- each commit, and stands still where a whole fleet is idle. And the number of that fleet.
SELECT pg_snapshot_xmax(s)::TEXT::BIGINT - (SELECT count(*) FROM pg_snapshot_xip(s))
     - (SELECT coalesce(sum(beats), 0) FROM everlong.workers),
       (SELECT fleet FROM everlong.store)
FROM pg_current_snapshot() AS s;

-- name: mail_of_workers
-- Mail of what bears the name of one of these workers, and notices for them.
SELECT i.position, i.execution_id, i.kind, i.body, i.checksum
FROM everlong.runs AS r JOIN everlong.inbox AS i USING (shard, execution_id)
WHERE r.owner = ANY ($1::BYTEA[]) AND i.worker_id IS NULL
UNION ALL
SELECT position, execution_id, kind, body, checksum FROM everlong.inbox
WHERE worker_id = ANY ($1::BYTEA[])
ORDER BY position LIMIT $2;

-- name: copy_blob
-- A payload that somebody in another shard refers to from now on.
INSERT INTO everlong.blobs (shard, digest, data)
SELECT $1, digest, data FROM everlong.blobs WHERE shard = $2 AND digest = $3
ON CONFLICT (shard, digest) DO UPDATE SET digest = excluded.digest;

-- name: hold_types
-- Whoever pauses types, or lets them go on, waits for all starts that are on their way, and later
-- starts wait for it: they look here without a lock.
LOCK TABLE everlong.pauses_of_types IN ACCESS EXCLUSIVE MODE;

-- name: delete_all_mail
-- Consume exactly these messages.
DELETE FROM everlong.inbox
WHERE (shard, execution_id, position) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[]));

-- name: put_blobs
-- Payloads that are too large for their events, once per content. Nothing is changed by the update:
-- it locks what is there, so that nobody drops it before its new use is committed.
INSERT INTO everlong.blobs (shard, digest, data)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::BYTEA[])
ON CONFLICT (shard, digest) DO UPDATE SET digest = excluded.digest;

-- name: use_blobs
-- Who refers to them.
INSERT INTO everlong.blob_uses (shard, owner_id, digest)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::BYTEA[]) ON CONFLICT DO NOTHING;

-- name: put_notice
-- For a worker alone, so that it lets go of a run at once and not at its next append.
INSERT INTO everlong.inbox (shard, execution_id, kind, body, checksum, worker_id)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: linked
-- Which of these executions have to do with another one.
SELECT mine.execution_id FROM unnest($1::INT[], $2::BYTEA[]) AS mine (shard, execution_id)
WHERE EXISTS (SELECT 1 FROM everlong.links AS l
              WHERE l.shard = mine.shard AND l.execution_id = mine.execution_id)
   OR EXISTS (SELECT 1 FROM everlong.links AS l
              WHERE l.waiter_shard = mine.shard AND l.waiter_id = mine.execution_id);

-- name: put_attempts
-- Started marks, and how attempts ended; the last word on one last.
INSERT INTO everlong.attempts (shard, run_id, activity_id, attempt, state, started_us, ended_us, retry_us,
                               error_type, error, traceback, worker, details)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BIGINT[], $5::INT[], $6::BIGINT[],
                     $7::BIGINT[], $8::BIGINT[], $9::TEXT[], $10::TEXT[], $11::TEXT[], $12::TEXT[],
                     $13::BYTEA[])
ON CONFLICT (shard, run_id, activity_id, attempt) DO UPDATE SET
    state = excluded.state, started_us = excluded.started_us, ended_us = excluded.ended_us,
    retry_us = excluded.retry_us, error_type = excluded.error_type, error = excluded.error,
    traceback = excluded.traceback, worker = excluded.worker,
    details = coalesce(excluded.details, attempts.details);

-- name: put_tasks
-- Into their queues, with whatever attempts come next.
INSERT INTO everlong.tasks (shard, run_id, activity_id, execution_id, attempt, queue, activity, due_us,
                            seq, origin, behind, rank, key)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BYTEA[], $5::BIGINT[], $6::TEXT[],
                     $7::TEXT[], $8::BIGINT[], $9::BIGINT[], $10::TEXT[], $11::BIGINT[],
                     $12::BIGINT[], $13::TEXT[])
ON CONFLICT (shard, run_id, activity_id) DO UPDATE SET
    attempt = excluded.attempt, queue = excluded.queue, due_us = excluded.due_us,
    behind = excluded.behind, asked = FALSE, worker_id = NULL
WHERE excluded.attempt > tasks.attempt;

-- name: drop_task
-- Its activity is over: whoever has it finds that out.
DELETE FROM everlong.tasks WHERE shard = $1 AND run_id = $2 AND activity_id = $3;

-- name: drop_waiting_task
-- Unless somebody has it.
DELETE FROM everlong.tasks WHERE shard = $1 AND run_id = $2 AND activity_id = $3 AND worker_id IS NULL;

-- name: ask_task
-- Whoever has it is asked to end it, and nobody takes it any more.
UPDATE everlong.tasks SET asked = TRUE WHERE shard = $1 AND run_id = $2 AND activity_id = $3;

-- name: drop_tasks
-- The run is over: whoever has one of them finds that out.
DELETE FROM everlong.tasks WHERE shard = $1 AND run_id = $2;

-- name: due_tasks
-- What may begin of some lanes, each the longest due first.
SELECT due.shard, due.run_id, due.activity_id
FROM unnest($1::TEXT[], $2::TEXT[], $3::BIGINT[], $4::TEXT[], $5::BIGINT[], $6::BIGINT[]) WITH ORDINALITY
    AS l (queue, activity, rank, key, quota, now_us, place), LATERAL (
    SELECT t.due_us, t.shard, t.run_id, t.activity_id FROM everlong.tasks AS t
    JOIN everlong.runs AS r ON r.shard = t.shard AND r.run_id = t.run_id AND r.status = 0
    WHERE t.worker_id IS NULL AND NOT t.asked AND t.queue = l.queue AND t.activity = l.activity
      AND t.rank = l.rank AND t.key = l.key AND t.due_us <= l.now_us
    ORDER BY t.due_us, t.shard, t.run_id, t.activity_id LIMIT l.quota) AS due
ORDER BY l.place, due.due_us, due.shard, due.run_id, due.activity_id;

-- name: next_task
-- When the first is due, behind a moment, that may begin.
WITH RECURSIVE pairs AS (
    (SELECT queue, activity FROM everlong.tasks WHERE worker_id IS NULL AND NOT asked
     ORDER BY queue, activity LIMIT 1)
    UNION ALL
    SELECT next.queue, next.activity FROM pairs, LATERAL (
        SELECT t.queue, t.activity FROM everlong.tasks AS t
        WHERE t.worker_id IS NULL AND NOT t.asked AND (t.queue, t.activity) > (pairs.queue, pairs.activity)
        ORDER BY t.queue, t.activity LIMIT 1) AS next
)
SELECT min(due.due_us) FROM pairs, LATERAL (
    SELECT t.due_us FROM everlong.tasks AS t
    JOIN everlong.runs AS r ON r.shard = t.shard AND r.run_id = t.run_id AND r.status = 0
    WHERE t.worker_id IS NULL AND NOT t.asked AND t.queue = pairs.queue
      AND t.activity = pairs.activity AND t.due_us > $3
    ORDER BY t.due_us LIMIT 1) AS due
WHERE pairs.activity = ANY ($1::TEXT[]) AND ($2::TEXT[] IS NULL OR pairs.queue = ANY ($2));

-- name: lock_limits
-- Of queues of which something waits that the worker may take; in one order, those in force last.
WITH RECURSIVE pairs AS (
    (SELECT queue, activity FROM everlong.tasks WHERE worker_id IS NULL AND NOT asked
     ORDER BY queue, activity LIMIT 1)
    UNION ALL
    SELECT next.queue, next.activity FROM pairs, LATERAL (
        SELECT t.queue, t.activity FROM everlong.tasks AS t
        WHERE t.worker_id IS NULL AND NOT t.asked AND (t.queue, t.activity) > (pairs.queue, pairs.activity)
        ORDER BY t.queue, t.activity LIMIT 1) AS next
)
SELECT l.queue, l.origin, l.concurrency, l.rate, l.rate_us, l.key_concurrency, l.key_rate, l.key_rate_us,
       l.set_us, l.set_by, l.at_limit
FROM everlong.queue_limits AS l WHERE l.queue IN
    (SELECT queue FROM pairs
     WHERE activity = ANY ($1::TEXT[]) AND ($2::TEXT[] IS NULL OR queue = ANY ($2)))
ORDER BY l.queue, l.origin FOR UPDATE OF l;

-- name: limited_queues
-- Those that have limits.
SELECT DISTINCT queue FROM everlong.queue_limits;

-- name: lanes
-- Queues, activities, ranks and keys of which something is due: of each rank those without a key, and
-- as many keys, those behind the one that was served last first.
WITH RECURSIVE shelves AS (
    (SELECT queue, activity, rank FROM everlong.tasks WHERE worker_id IS NULL AND NOT asked
     ORDER BY queue, activity, rank LIMIT 1)
    UNION ALL
    SELECT next.queue, next.activity, next.rank FROM shelves AS s, LATERAL (
        SELECT t.queue, t.activity, t.rank FROM everlong.tasks AS t
        WHERE t.worker_id IS NULL AND NOT t.asked AND (t.queue, t.activity, t.rank) > (s.queue, s.activity, s.rank)
        ORDER BY t.queue, t.activity, t.rank LIMIT 1) AS next
)
SELECT s.queue, s.activity, s.rank, k.key, k.due_us FROM shelves AS s, LATERAL (
    (SELECT t.key, t.due_us FROM everlong.tasks AS t
     WHERE t.worker_id IS NULL AND NOT t.asked AND t.queue = s.queue AND t.activity = s.activity
       AND t.rank = s.rank AND t.key = ''
     ORDER BY t.due_us LIMIT 1)
    UNION ALL
    (WITH RECURSIVE keys AS (
        (SELECT t.key, t.due_us FROM everlong.tasks AS t
         WHERE t.worker_id IS NULL AND NOT t.asked AND t.queue = s.queue AND t.activity = s.activity
           AND t.rank = s.rank AND t.key > $4
         ORDER BY t.key, t.due_us LIMIT 1)
        UNION ALL
        SELECT next.key, next.due_us FROM keys, LATERAL (
            SELECT t.key, t.due_us FROM everlong.tasks AS t
            WHERE t.worker_id IS NULL AND NOT t.asked AND t.queue = s.queue AND t.activity = s.activity
              AND t.rank = s.rank AND t.key > keys.key
            ORDER BY t.key, t.due_us LIMIT 1) AS next
     ) SELECT key, due_us FROM keys WHERE due_us <= $3 LIMIT $5)
    UNION ALL
    (WITH RECURSIVE keys AS (
        (SELECT t.key, t.due_us FROM everlong.tasks AS t
         WHERE t.worker_id IS NULL AND NOT t.asked AND t.queue = s.queue AND t.activity = s.activity
           AND t.rank = s.rank AND t.key > $6 AND t.key <= $7
         ORDER BY t.key, t.due_us LIMIT 1)
        UNION ALL
        SELECT next.key, next.due_us FROM keys, LATERAL (
            SELECT t.key, t.due_us FROM everlong.tasks AS t
            WHERE t.worker_id IS NULL AND NOT t.asked AND t.queue = s.queue AND t.activity = s.activity
              AND t.rank = s.rank AND t.key > keys.key AND t.key <= $7
            ORDER BY t.key, t.due_us LIMIT 1) AS next
     ) SELECT key, due_us FROM keys WHERE due_us <= $3 LIMIT $5)
) AS k
WHERE s.activity = ANY ($1::TEXT[]) AND ($2::TEXT[] IS NULL OR s.queue = ANY ($2)) AND k.due_us <= $3;

-- name: tasks_at_work
-- How many of each key of some queues workers have.
SELECT queue, key, count(*) FROM everlong.tasks
WHERE worker_id IS NOT NULL AND queue = ANY ($1::TEXT[]) GROUP BY queue, key;

-- name: queue_limits
-- All there are; what is in force is the last of a queue.
SELECT queue, origin, concurrency, rate, rate_us, key_concurrency, key_rate, key_rate_us, set_us, set_by,
       at_limit
FROM everlong.queue_limits ORDER BY queue, origin;

-- name: put_limits
-- In the place of what the same origin said before.
INSERT INTO everlong.queue_limits (queue, origin, concurrency, rate, rate_us, key_concurrency, key_rate,
                                   key_rate_us, set_us, set_by, at_limit)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (queue, origin) DO UPDATE SET
    concurrency = excluded.concurrency, rate = excluded.rate, rate_us = excluded.rate_us,
    key_concurrency = excluded.key_concurrency, key_rate = excluded.key_rate,
    key_rate_us = excluded.key_rate_us, set_us = excluded.set_us, set_by = excluded.set_by,
    at_limit = excluded.at_limit;

-- name: drop_limits
-- What the origin said is nothing any more.
DELETE FROM everlong.queue_limits WHERE queue = $1 AND origin = $2;

-- name: starts_of
-- When calls of queues, or of queues and keys, began.
SELECT s.queue, s.key, s.marks FROM everlong.queue_starts AS s
JOIN unnest($1::TEXT[], $2::TEXT[]) AS w (queue, key) ON s.queue = w.queue AND s.key = w.key;

-- name: put_starts
-- As they are now.
INSERT INTO everlong.queue_starts (queue, key, until_us, marks)
SELECT * FROM unnest($1::TEXT[], $2::TEXT[], $3::BIGINT[], $4::BYTEA[])
ON CONFLICT (queue, key) DO UPDATE SET until_us = excluded.until_us, marks = excluded.marks;

-- name: forget_starts
-- What limits nothing any more.
DELETE FROM everlong.queue_starts WHERE until_us <= $1;

-- name: lock_pool
-- Until the end of the transaction nobody else lets anybody of it begin; the last is in force.
SELECT queue, origin, concurrency, rate, rate_us, key_concurrency, key_rate, key_rate_us, set_us, set_by,
       at_limit
FROM everlong.queue_limits WHERE queue = $1 ORDER BY origin FOR UPDATE;

-- name: hold_runs
-- In one order; until the end of the transaction nobody else writes to them.
SELECT * FROM everlong.runs
WHERE (shard, run_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]))
ORDER BY shard, run_id FOR UPDATE;

-- name: newest_mail
-- Where the last message of executions lies.
SELECT execution_id, max(position) FROM everlong.inbox
WHERE (shard, execution_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[])) AND worker_id IS NULL
GROUP BY execution_id;

-- name: turns_of
-- Where executions stand in their pool.
SELECT execution_id, state FROM everlong.turns
WHERE (shard, execution_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: ask_turns
-- They wait for their turns; those that do not stand there yet.
INSERT INTO everlong.turns (shard, execution_id, namespace, workflow_id, pool, key, rank, asked_us, until_us, state)
SELECT a.*, 0 FROM unnest($1::INT[], $2::BYTEA[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::BIGINT[],
                          $8::BIGINT[], $9::BIGINT[]) AS a
ON CONFLICT DO NOTHING RETURNING execution_id;

-- name: put_turn
-- It has begun, or was asked to make room.
UPDATE everlong.turns SET state = $1 WHERE shard = $2 AND execution_id = $3;

-- name: begin_turns
-- They have begun.
UPDATE everlong.turns SET state = 1
WHERE (shard, execution_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: drop_turns
-- They are of the pool no more.
DELETE FROM everlong.turns WHERE (shard, execution_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: hand_back_turns
-- Runs that have not begun wait for their turns, and for nothing else.
UPDATE everlong.runs SET owner = NULL, wake_us = w.wake_us, probation = 0
FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BYTEA[], $5::BIGINT[])
    AS w (shard, run_id, token, owner, wake_us)
WHERE runs.shard = w.shard AND runs.run_id = w.run_id AND runs.lease_token = w.token
  AND runs.owner = w.owner AND runs.status = 0;

-- name: forget_turns
-- What has begun and ended counts no more.
DELETE FROM everlong.turns AS t WHERE t.pool = $1 AND t.state > 0 AND NOT EXISTS (
    SELECT 1 FROM everlong.runs AS r WHERE r.shard = t.shard AND r.namespace = t.namespace
      AND r.workflow_id = t.workflow_id AND r.status < 3 AND r.execution_id = t.execution_id);

-- name: turns_begun
-- How many of each key of a pool have begun.
SELECT key, count(*) FROM everlong.turns WHERE state > 0 AND pool = $1 GROUP BY key;

-- name: anybody_waits
-- In a pool.
SELECT 1 FROM everlong.turns WHERE state = 0 AND pool = $1 LIMIT 1;

-- name: turn_lanes
-- Ranks and keys of which somebody waits: of each rank those without a key, and as many keys, those behind
-- the one that was served last first.
WITH RECURSIVE ranks AS (
    (SELECT rank FROM everlong.turns WHERE state = 0 AND pool = $1 ORDER BY rank LIMIT 1)
    UNION ALL
    SELECT next.rank FROM ranks AS s, LATERAL (
        SELECT t.rank FROM everlong.turns AS t WHERE t.state = 0 AND t.pool = $1 AND t.rank > s.rank
        ORDER BY t.rank LIMIT 1) AS next
)
SELECT s.rank, k.key, k.asked_us FROM ranks AS s, LATERAL (
    (SELECT t.key, t.asked_us FROM everlong.turns AS t
     WHERE t.state = 0 AND t.pool = $1 AND t.rank = s.rank AND t.key = '' ORDER BY t.asked_us LIMIT 1)
    UNION ALL
    (WITH RECURSIVE keys AS (
        (SELECT t.key, t.asked_us FROM everlong.turns AS t
         WHERE t.state = 0 AND t.pool = $1 AND t.rank = s.rank AND t.key > $2
         ORDER BY t.key, t.asked_us LIMIT 1)
        UNION ALL
        SELECT next.key, next.asked_us FROM keys, LATERAL (
            SELECT t.key, t.asked_us FROM everlong.turns AS t
            WHERE t.state = 0 AND t.pool = $1 AND t.rank = s.rank AND t.key > keys.key
            ORDER BY t.key, t.asked_us LIMIT 1) AS next
     ) SELECT key, asked_us FROM keys LIMIT $3)
    UNION ALL
    (WITH RECURSIVE keys AS (
        (SELECT t.key, t.asked_us FROM everlong.turns AS t
         WHERE t.state = 0 AND t.pool = $1 AND t.rank = s.rank AND t.key > $4 AND t.key <= $5
         ORDER BY t.key, t.asked_us LIMIT 1)
        UNION ALL
        SELECT next.key, next.asked_us FROM keys, LATERAL (
            SELECT t.key, t.asked_us FROM everlong.turns AS t
            WHERE t.state = 0 AND t.pool = $1 AND t.rank = s.rank AND t.key > keys.key AND t.key <= $5
            ORDER BY t.key, t.asked_us LIMIT 1) AS next
     ) SELECT key, asked_us FROM keys LIMIT $3)
) AS k;

-- name: next_turns
-- Who is first of some lanes; the status tells whether it is still there. One that is paused or blocked is
-- passed over.
SELECT w.rank, w.key, first.shard, first.execution_id, first.status
FROM unnest($1::TEXT[], $2::BIGINT[], $3::TEXT[], $4::BIGINT[]) AS w (pool, rank, key, most), LATERAL (
    SELECT t.shard, t.execution_id, r.status, t.asked_us FROM everlong.turns AS t
    LEFT JOIN everlong.runs AS r ON r.shard = t.shard AND r.run_id = t.execution_id
    WHERE t.state = 0 AND t.pool = w.pool AND t.rank = w.rank AND t.key = w.key
      AND (r.status IS NULL OR r.status NOT IN (1, 2))
    ORDER BY t.asked_us, t.shard, t.execution_id LIMIT w.most) AS first
ORDER BY w.rank, w.key, first.asked_us, first.shard, first.execution_id;

-- name: wake_turns
-- Somebody should take them, before those that have come behind them and not asked yet. Their rows are locked
-- already, see `lock_runs`.
UPDATE everlong.runs SET wake_us = least(w.wake_us, runs.started_us)
FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[]) AS w (shard, run_id, wake_us)
WHERE runs.shard = w.shard AND runs.run_id = w.run_id AND runs.owner IS NULL AND runs.status = 0;

-- name: late_turns
-- Who has waited for longer than its execution may last.
UPDATE everlong.turns SET until_us = NULL WHERE state = 0 AND pool = $1 AND until_us <= $2
RETURNING shard, execution_id;

-- name: next_late_turn
-- When the next one has.
SELECT min(until_us) FROM everlong.turns WHERE state = 0 AND pool = $1 AND until_us IS NOT NULL;

-- name: in_the_way
-- Who came first to a pool of those that nobody has asked to make room, of one key or (NULL) of all.
SELECT shard, execution_id, namespace, workflow_id, state FROM everlong.turns
WHERE pool = $1 AND state < 2 AND ($2::TEXT IS NULL OR key = $2) AND execution_id <> $3
ORDER BY asked_us, execution_id LIMIT 1;

-- name: pools
-- How many of each pool wait and have begun.
SELECT t.pool, count(*) FILTER (WHERE t.state = 0), count(*) FILTER (WHERE t.state > 0),
       min(t.asked_us) FILTER (WHERE t.state = 0)
FROM everlong.turns AS t
WHERE EXISTS (SELECT 1 FROM everlong.runs AS r WHERE r.shard = t.shard AND r.namespace = t.namespace
              AND r.workflow_id = t.workflow_id AND r.status < 3 AND r.execution_id = t.execution_id)
GROUP BY t.pool ORDER BY t.pool;

-- name: share_runs
-- In one order; until the end of the transaction nobody changes them.
SELECT * FROM everlong.runs
WHERE (shard, run_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]))
ORDER BY shard, run_id FOR SHARE;

-- name: take_tasks
-- What another worker is taking is passed over.
WITH wanted AS (
    SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BYTEA[])
        AS w (shard, run_id, activity_id, worker_id)
), free AS (
    SELECT t.shard, t.run_id, t.activity_id, w.worker_id FROM everlong.tasks AS t
    JOIN wanted AS w ON w.shard = t.shard AND w.run_id = t.run_id AND w.activity_id = t.activity_id
    JOIN everlong.runs AS r ON r.shard = t.shard AND r.run_id = t.run_id AND r.status = 0
    WHERE t.worker_id IS NULL AND NOT t.asked
    FOR UPDATE OF t SKIP LOCKED
)
UPDATE everlong.tasks AS t SET worker_id = free.worker_id, token = t.token + 1 FROM free
WHERE t.shard = free.shard AND t.run_id = free.run_id AND t.activity_id = free.activity_id
RETURNING t.*;

-- name: details_of_tasks
-- The last heartbeat details that there are, and of which attempts.
SELECT DISTINCT ON (a.run_id, a.activity_id) a.run_id, a.activity_id, a.details, a.attempt
FROM everlong.attempts AS a
JOIN unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BIGINT[])
    AS w (shard, run_id, activity_id, attempt)
  ON a.shard = w.shard AND a.run_id = w.run_id AND a.activity_id = w.activity_id
 AND a.attempt >= w.attempt - 1
WHERE a.details IS NOT NULL
ORDER BY a.run_id, a.activity_id, a.attempt DESC;

-- name: attempt_at
-- One attempt.
SELECT activity_id, attempt, state, started_us, ended_us, retry_us, error_type, error, traceback,
       worker, details
FROM everlong.attempts WHERE shard = $1 AND run_id = $2 AND activity_id = $3 AND attempt = $4;

-- name: task_held
-- Whether this worker has it under this token, and has been asked to end it.
SELECT asked FROM everlong.tasks
WHERE shard = $1 AND run_id = $2 AND activity_id = $3 AND worker_id = $4 AND token = $5 FOR UPDATE;

-- name: lock_leases
-- Of open runs, in one order, so that groups which meet wait for each other in turn.
SELECT run_id, status, lease_token, execution_id FROM everlong.runs
WHERE (shard, run_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[])) AND status < 10
ORDER BY shard, run_id FOR UPDATE;

-- name: states_of
-- How attempts stand.
SELECT a.run_id, a.activity_id, a.attempt, a.state FROM everlong.attempts AS a
JOIN unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BIGINT[])
    AS w (shard, run_id, activity_id, attempt)
  ON a.shard = w.shard AND a.run_id = w.run_id AND a.activity_id = w.activity_id
 AND a.attempt = w.attempt;

-- name: tasks_held
-- Which of them these workers have under these tokens, and whether they were asked to end.
SELECT t.run_id, t.activity_id, t.asked FROM everlong.tasks AS t
JOIN unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BYTEA[], $5::BIGINT[])
    AS w (shard, run_id, activity_id, worker_id, token)
  ON t.shard = w.shard AND t.run_id = w.run_id AND t.activity_id = w.activity_id
 AND t.worker_id = w.worker_id AND t.token = w.token
FOR UPDATE OF t;

-- name: requeue_tasks
-- Their next attempts wait.
UPDATE everlong.tasks AS t SET worker_id = NULL, attempt = w.attempt, due_us = w.due_us
FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[])
    AS w (shard, run_id, activity_id, attempt, due_us)
WHERE t.shard = w.shard AND t.run_id = w.run_id AND t.activity_id = w.activity_id;

-- name: drop_tasks_of
-- Their activities are over.
DELETE FROM everlong.tasks AS t USING unnest($1::INT[], $2::BYTEA[], $3::BIGINT[])
    AS w (shard, run_id, activity_id)
WHERE t.shard = w.shard AND t.run_id = w.run_id AND t.activity_id = w.activity_id;

-- name: insert_letters
-- Messages, in their order.
INSERT INTO everlong.inbox (shard, execution_id, kind, body, checksum)
SELECT l.shard, l.execution_id, l.kind, l.body, l.checksum
FROM unnest($1::INT[], $2::BYTEA[], $3::INT[], $4::BYTEA[], $5::BIGINT[])
    WITH ORDINALITY AS l (shard, execution_id, kind, body, checksum, place)
ORDER BY l.place;

-- name: wake_runs
-- As `wake_run`.
UPDATE everlong.runs AS r SET wake_us = least(w.now_us, r.wake_us)
FROM unnest($1::INT[], $2::BYTEA[], $3::BIGINT[]) AS w (shard, run_id, now_us)
WHERE r.shard = w.shard AND r.run_id = w.run_id AND r.owner IS NULL AND r.status = 0
  AND NOT (r.next_seq = 1 AND coalesce(r.wake_us > w.now_us, FALSE));

-- name: put_requests
-- What whoever asks under these names is told from now on.
INSERT INTO everlong.requests (shard, execution_id, request_id, result)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::TEXT[], $4::BYTEA[])
ON CONFLICT (shard, execution_id, request_id) DO UPDATE SET result = excluded.result;

-- name: requeue_task
-- Its next attempt waits.
UPDATE everlong.tasks SET worker_id = NULL, attempt = $1, due_us = $2
WHERE shard = $3 AND run_id = $4 AND activity_id = $5;

-- name: tasks_of_worker
-- What it has.
SELECT run_id, activity_id, attempt, token, asked FROM everlong.tasks WHERE worker_id = $1;

-- name: orphaned_tasks
-- Tasks of workers that are dead, or of whom nobody has heard.
SELECT t.* FROM everlong.tasks AS t
WHERE t.worker_id IS NOT NULL AND NOT EXISTS
    (SELECT 1 FROM everlong.workers AS w WHERE w.worker_id = t.worker_id AND NOT w.dead)
ORDER BY t.shard, t.run_id, t.activity_id LIMIT $1;

-- name: queues
-- What stands in all queues.
SELECT queue, activity, count(*) FILTER (WHERE worker_id IS NULL),
       count(*) FILTER (WHERE worker_id IS NOT NULL),
       min(due_us) FILTER (WHERE worker_id IS NULL)
FROM everlong.tasks GROUP BY queue, activity ORDER BY queue, activity;

-- name: prune_runs
-- They go, and what hangs on them.
DELETE FROM everlong.runs WHERE (shard, run_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prune_history
-- They go, and what hangs on them.
DELETE FROM everlong.history WHERE (shard, run_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prune_attempts
-- They go, and what hangs on them.
DELETE FROM everlong.attempts WHERE (shard, run_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prune_tasks
-- They go, and what hangs on them.
DELETE FROM everlong.tasks WHERE (shard, run_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prune_approvals
-- They go, and what hangs on them.
DELETE FROM everlong.approvals WHERE (shard, run_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prune_tags
-- They go, and what hangs on them.
DELETE FROM everlong.tags WHERE (shard, run_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prune_requests
-- Their executions go with the last of them.
DELETE FROM everlong.requests WHERE (shard, execution_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prune_mail
-- Their executions go with the last of them.
DELETE FROM everlong.inbox WHERE (shard, execution_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prune_published
-- Their executions go with the last of them.
DELETE FROM everlong.published WHERE (shard, execution_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prune_entity_states
-- Likewise.
DELETE FROM everlong.entity_states
WHERE (shard, execution_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prune_turns
-- Likewise.
DELETE FROM everlong.turns WHERE (shard, execution_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prune_start_keys
-- Likewise.
DELETE FROM everlong.start_keys WHERE (shard, execution_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]));

-- name: prunable
-- Runs that closed before the horizon, and whose executions are over.
SELECT r.* FROM everlong.runs AS r
JOIN unnest($1::INT[], $2::BYTEA[], $3::BIGINT[]) AS old (shard, run_id, horizon_us)
  ON r.shard = old.shard AND r.run_id = old.run_id AND r.closed_us < old.horizon_us
WHERE NOT EXISTS (SELECT 1 FROM everlong.runs AS o
                  WHERE o.shard = r.shard AND o.namespace = r.namespace
                    AND o.workflow_id = r.workflow_id AND o.execution_id = r.execution_id
                    AND o.status < 3);

-- name: without_runs
-- Executions of which no run is left.
SELECT mine.execution_id FROM unnest($1::INT[], $2::BYTEA[]) AS mine (shard, execution_id)
WHERE NOT EXISTS (SELECT 1 FROM everlong.runs AS r
                  WHERE r.shard = mine.shard AND r.execution_id = mine.execution_id);

-- name: insert_requests
-- Remember answers.
INSERT INTO everlong.requests (shard, execution_id, request_id, result)
SELECT * FROM unnest($1::INT[], $2::BYTEA[], $3::TEXT[], $4::BYTEA[]);

-- name: unuse_blobs
-- Nobody is there any more who referred to them.
DELETE FROM everlong.blob_uses
WHERE (shard, owner_id) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[])) RETURNING shard, digest;

-- name: lock_blobs
-- Before a look whether anybody else does.
SELECT 1 FROM everlong.blobs WHERE (shard, digest) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[]))
ORDER BY shard, digest FOR UPDATE;

-- name: drop_blobs
-- Those that nobody refers to.
DELETE FROM everlong.blobs AS b
WHERE (shard, digest) IN (SELECT * FROM unnest($1::INT[], $2::BYTEA[])) AND NOT EXISTS
    (SELECT 1 FROM everlong.blob_uses AS u WHERE u.shard = b.shard AND u.digest = b.digest);

-- name: lock_names
-- Of workflows, until the end of the transaction, in one order.
SELECT pg_advisory_xact_lock(name) FROM unnest($1::BIGINT[]) AS name;

-- name: settings
-- What durability and patience rest on.
SELECT name, setting FROM pg_settings WHERE name IN
    ('server_version', 'synchronous_commit', 'fsync', 'full_page_writes', 'max_connections',
     'idle_in_transaction_session_timeout', 'lock_timeout', 'statement_timeout')
ORDER BY name;

-- name: every_run
-- In the order of their ids, a batch at a time, as all that follows.
SELECT run_id AS key, * FROM everlong.runs WHERE run_id > $1 ORDER BY run_id LIMIT $2;

-- name: every_message
-- Notices too.
SELECT position, shard, execution_id, kind, body, checksum FROM everlong.inbox
WHERE position > $1 ORDER BY position LIMIT $2;

-- name: every_blob
-- With what they hold.
SELECT shard, digest, data FROM everlong.blobs
WHERE (shard, digest) > ($1::INT, $2::BYTEA) ORDER BY shard, digest LIMIT $3;

-- name: every_approval
-- Only their keys.
SELECT shard, run_id, number FROM everlong.approvals
WHERE (shard, run_id, number) > ($1::INT, $2::BYTEA, $3::BIGINT)
ORDER BY shard, run_id, number LIMIT $4;

-- name: every_item
-- Channel by channel.
SELECT shard, execution_id, channel, number, payload, checksum FROM everlong.published
WHERE (shard, execution_id, channel, number) > ($1::INT, $2::BYTEA, $3::TEXT, $4::BIGINT)
ORDER BY shard, execution_id, channel, number LIMIT $5;

-- name: orphans_in_start_keys
-- What hangs on nobody.
SELECT DISTINCT o.execution_id FROM everlong.start_keys AS o WHERE NOT EXISTS
    (SELECT 1 FROM everlong.runs AS r WHERE r.shard = o.shard AND r.execution_id = o.execution_id);

-- name: every_entity
-- Key by key.
SELECT shard, execution_id, key, due_us, payload, checksum FROM everlong.entity_states
WHERE (shard, execution_id, key) > ($1::INT, $2::BYTEA, $3::TEXT)
ORDER BY shard, execution_id, key LIMIT $4;

-- name: orphans_in_history
-- What hangs on nobody.
SELECT DISTINCT o.run_id FROM everlong.history AS o WHERE NOT EXISTS
    (SELECT 1 FROM everlong.runs AS r WHERE r.shard = o.shard AND r.run_id = o.run_id);

-- name: orphans_in_attempts
-- What hangs on nobody.
SELECT DISTINCT o.run_id FROM everlong.attempts AS o WHERE NOT EXISTS
    (SELECT 1 FROM everlong.runs AS r WHERE r.shard = o.shard AND r.run_id = o.run_id);

-- name: orphans_in_tasks
-- What hangs on nobody.
SELECT DISTINCT o.run_id FROM everlong.tasks AS o WHERE NOT EXISTS
    (SELECT 1 FROM everlong.runs AS r WHERE r.shard = o.shard AND r.run_id = o.run_id);

-- name: orphans_in_approvals
-- What hangs on nobody.
SELECT DISTINCT o.run_id FROM everlong.approvals AS o WHERE NOT EXISTS
    (SELECT 1 FROM everlong.runs AS r WHERE r.shard = o.shard AND r.run_id = o.run_id);

-- name: orphans_in_tags
-- What hangs on nobody.
SELECT DISTINCT o.run_id FROM everlong.tags AS o WHERE NOT EXISTS
    (SELECT 1 FROM everlong.runs AS r WHERE r.shard = o.shard AND r.run_id = o.run_id);

-- name: orphans_in_inbox
-- What hangs on nobody.
SELECT DISTINCT o.execution_id FROM everlong.inbox AS o WHERE NOT EXISTS
    (SELECT 1 FROM everlong.runs AS r WHERE r.shard = o.shard AND r.execution_id = o.execution_id);

-- name: orphans_in_requests
-- What hangs on nobody.
SELECT DISTINCT o.execution_id FROM everlong.requests AS o WHERE NOT EXISTS
    (SELECT 1 FROM everlong.runs AS r WHERE r.shard = o.shard AND r.execution_id = o.execution_id);

-- name: orphans_in_entity_states
-- What hangs on nobody.
SELECT DISTINCT o.execution_id FROM everlong.entity_states AS o WHERE NOT EXISTS
    (SELECT 1 FROM everlong.runs AS r WHERE r.shard = o.shard AND r.execution_id = o.execution_id);

-- name: orphans_in_published
-- What hangs on nobody.
SELECT DISTINCT o.execution_id FROM everlong.published AS o WHERE NOT EXISTS
    (SELECT 1 FROM everlong.runs AS r WHERE r.shard = o.shard AND r.execution_id = o.execution_id);

-- name: put_letters
-- What accepted appends leave for brokers, in its order.
INSERT INTO everlong.outgoing_letters
    (shard, outbox, execution_id, run_id, seq, number, at_us, payload, checksum)
SELECT shard, outbox, execution_id, run_id, seq, number, at_us, payload, checksum
FROM unnest($1::INT[], $2::TEXT[], $3::BYTEA[], $4::BYTEA[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[],
            $8::BYTEA[], $9::BIGINT[]) WITH ORDINALITY AS one
    (shard, outbox, execution_id, run_id, seq, number, at_us, payload, checksum, place)
ORDER BY place;

-- name: full_outboxes
-- In which of these something waits. One look into an index for each.
SELECT name FROM unnest($1::TEXT[]) AS wanted (name) WHERE EXISTS (
    SELECT 1 FROM everlong.outgoing_letters WHERE outbox = name AND refused IS NULL)
ORDER BY name COLLATE "C";

-- name: holder_of
SELECT holder FROM everlong.outgoing_boxes WHERE outbox = $1;

-- name: hold_outbox
-- Nobody else is at it: of two who try, the second one finds the first.
INSERT INTO everlong.outgoing_boxes AS box (outbox, holder) VALUES ($1, $2)
ON CONFLICT (outbox) DO UPDATE SET holder = excluded.holder WHERE NOT EXISTS (
    SELECT 1 FROM everlong.workers WHERE worker_id = box.holder AND NOT dead)
RETURNING outbox;

-- name: waiting_letters
SELECT position, shard, outbox, execution_id, run_id, seq, number, at_us, payload, checksum, refused
FROM everlong.outgoing_letters WHERE outbox = $1 AND refused IS NULL AND position > $2
ORDER BY position LIMIT $3;

-- name: refused_letters
SELECT position, shard, outbox, execution_id, run_id, seq, number, at_us, payload, checksum, refused
FROM everlong.outgoing_letters WHERE outbox = $1 AND refused IS NOT NULL AND position > $2
ORDER BY position LIMIT $3;

-- name: drop_letters
-- Of these, whatever they are.
DELETE FROM everlong.outgoing_letters WHERE outbox = $1 AND position = ANY ($2::BIGINT[]);

-- name: drop_refused
DELETE FROM everlong.outgoing_letters WHERE outbox = $1 AND refused IS NOT NULL;

-- name: refuse_letters
UPDATE everlong.outgoing_letters AS l SET refused = one.why
FROM unnest($2::BIGINT[], $3::TEXT[]) AS one (position, why)
WHERE l.outbox = $1 AND l.position = one.position;

-- name: send_again
UPDATE everlong.outgoing_letters SET refused = NULL
WHERE outbox = $1 AND refused IS NOT NULL AND position = ANY ($2::BIGINT[]);

-- name: send_all_again
UPDATE everlong.outgoing_letters SET refused = NULL WHERE outbox = $1 AND refused IS NOT NULL;

-- name: outbox_works
-- Only where that is news.
UPDATE everlong.outgoing_boxes SET failures = 0, fault = NULL, fault_us = NULL
WHERE outbox = $1 AND failures > 0;

-- name: outbox_fails
UPDATE everlong.outgoing_boxes SET holder = NULL, failures = failures + 1, fault = $1, fault_us = $2
WHERE outbox = $3 AND holder = $4;

-- name: outboxes
-- What is in them, and with which of them somebody got nowhere.
WITH counted AS (
    SELECT outbox, count(*) FILTER (WHERE refused IS NULL) AS waiting,
           count(*) FILTER (WHERE refused IS NOT NULL) AS refused,
           min(at_us) FILTER (WHERE refused IS NULL) AS oldest_us
    FROM everlong.outgoing_letters GROUP BY outbox)
SELECT outbox, coalesce(waiting, 0), coalesce(counted.refused, 0), oldest_us, holder,
       coalesce(failures, 0), fault, fault_us
FROM counted FULL JOIN everlong.outgoing_boxes AS box USING (outbox)
WHERE waiting IS NOT NULL OR failures > 0 ORDER BY outbox COLLATE "C";

-- name: letters_of
SELECT count(*) FROM everlong.outgoing_letters
WHERE refused IS NULL AND execution_id = ANY ($1::BYTEA[]);

-- name: every_letter
SELECT shard, position, shard, outbox, execution_id, run_id, seq, number, at_us, payload, checksum, refused
FROM everlong.outgoing_letters
WHERE (shard, position) > ($1::INT, $2::BIGINT) ORDER BY shard, position LIMIT $3;
