-- Every statement of the SQLite store, by name. `:rows:` stands for a list of parameter rows whose
-- length is chosen at run time; rows whose second column, always an id, is NULL pad it to one of a
-- few lengths, so that few texts are prepared. There is one writer, so lock order is no question
-- here; it is kept all the same (runs, then what hangs on a run), because the PostgreSQL dialect
-- stands beside this one.

-- name: insert_runs
-- New runs; a workflow id that is open already yields no row.
INSERT INTO runs (shard, run_id, execution_id, namespace, workflow_id, type, queue, status,
                  next_seq, lease_token, owner, wake_us, started_us, closed_us, request_id, version)
SELECT * FROM (VALUES :rows:) WHERE column2 IS NOT NULL
ON CONFLICT DO NOTHING
RETURNING run_id;

-- name: begin_runs
-- The same for those whose history begins with it: none of them while any type is paused, so that
-- each is asked about by itself.
INSERT INTO runs (shard, run_id, execution_id, namespace, workflow_id, type, queue, status,
                  next_seq, lease_token, owner, wake_us, started_us, closed_us, request_id, version)
SELECT * FROM (VALUES :rows:) WHERE column2 IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM pauses_of_types)
ON CONFLICT DO NOTHING
RETURNING run_id;

-- name: advance_runs
-- The compare-and-set of an append: the lease token and the next sequence number must be mine, and
-- nobody may have paused the run.
WITH mine (shard, run_id, token, base, next, healthy) AS (VALUES :rows:)
UPDATE runs
SET next_seq = mine.next,
    losses = CASE WHEN mine.healthy THEN 0 ELSE losses END,
    strikes = CASE WHEN mine.healthy THEN 0 ELSE strikes END,
    probation = CASE WHEN mine.healthy THEN 0 ELSE probation END
FROM mine
WHERE runs.shard = mine.shard AND runs.run_id = mine.run_id
  AND runs.lease_token = mine.token AND runs.next_seq = mine.base AND runs.status = 0
RETURNING runs.run_id;

-- name: close_runs
-- The same, for an append that closes its run.
WITH mine (shard, run_id, token, base, next, status, closed_us) AS (VALUES :rows:)
UPDATE runs
SET next_seq = mine.next, status = mine.status, closed_us = mine.closed_us,
    owner = NULL, wake_us = NULL, losses = 0, strikes = 0, probation = 0, reason = NULL
FROM mine
WHERE runs.shard = mine.shard AND runs.run_id = mine.run_id
  AND runs.lease_token = mine.token AND runs.next_seq = mine.base AND runs.status = 0
RETURNING runs.run_id;

-- name: insert_history
-- Accepted events. The primary key is the second guard: nothing is ever written over.
INSERT INTO history (shard, run_id, seq, kind, at_us, body, checksum, append_id)
SELECT * FROM (VALUES :rows:) WHERE column2 IS NOT NULL;

-- name: put_tags
-- Tags of runs, each in place of what the run had under its name.
INSERT INTO tags (shard, run_id, name, namespace, kind, value)
SELECT * FROM (VALUES :rows:) WHERE column2 IS NOT NULL
ON CONFLICT (shard, run_id, name) DO UPDATE SET kind = excluded.kind, value = excluded.value;

-- name: namespace_of
-- Where a run belongs: the append that changes its tags does not say.
SELECT namespace FROM runs WHERE shard = ? AND run_id = ?;

-- name: drop_tags
-- All that a run is found by.
DELETE FROM tags WHERE shard = ? AND run_id = ?;

-- name: drop_tag
-- One that a run takes away.
DELETE FROM tags WHERE shard = ? AND run_id = ? AND name = ?;

-- name: tags_of
-- Those of one run, by name.
SELECT name, kind, value FROM tags WHERE shard = ? AND run_id = ? ORDER BY name;

-- name: insert_published
-- Items of an accepted append. The primary key is a second guard here too.
INSERT INTO published (shard, execution_id, channel, number, at_us, payload, checksum)
SELECT * FROM (VALUES :rows:) WHERE column2 IS NOT NULL;

-- name: published_from
-- Items of a channel, one after the other from a number on.
SELECT channel, number, at_us, payload, checksum FROM published
WHERE shard = ? AND execution_id = ? AND channel = ? AND number >= ? ORDER BY number LIMIT ?;

-- name: trim_published
-- The oldest items of a channel, up to a bound: they are no longer kept.
DELETE FROM published
WHERE shard = ?1 AND execution_id = ?2 AND channel = ?3 AND number IN (
    SELECT number FROM published
    WHERE shard = ?1 AND execution_id = ?2 AND channel = ?3 AND number < ?4
    ORDER BY number LIMIT ?5
);

-- name: published_before
-- Whether a channel has items below a number.
SELECT 1 FROM published
WHERE shard = ? AND execution_id = ? AND channel = ? AND number < ? LIMIT 1;

-- name: put_entities
-- States of keys that an accepted append has changed, in place of those before.
INSERT INTO entity_states (shard, execution_id, key, due_us, payload, checksum)
SELECT * FROM (VALUES :rows:) WHERE column2 IS NOT NULL
ON CONFLICT (shard, execution_id, key) DO UPDATE
SET due_us = excluded.due_us, payload = excluded.payload, checksum = excluded.checksum;

-- name: drop_entity
-- A key that has no state any more.
DELETE FROM entity_states WHERE shard = ? AND execution_id = ? AND key = ?;

-- name: entities_of_keys
-- The states of some keys.
SELECT key, due_us, payload, checksum FROM entity_states
WHERE shard = ? AND execution_id = ? AND key IN (SELECT value FROM json_each(?)) ORDER BY key;

-- name: entities_by_key
-- A page of them.
SELECT key, due_us, payload, checksum FROM entity_states
WHERE shard = ? AND execution_id = ? AND key > ? ORDER BY key LIMIT ?;

-- name: entities_by_due
-- Those whose first timers are due first.
SELECT key, due_us, payload, checksum FROM entity_states
WHERE shard = ? AND execution_id = ? AND due_us IS NOT NULL ORDER BY due_us, key LIMIT ?;

-- name: entities_of
-- Everything that an execution keeps for keys.
SELECT key, due_us, payload, checksum FROM entity_states
WHERE shard = ? AND execution_id = ? ORDER BY key;

-- name: any_entity
-- Whether an execution has states of keys.
SELECT 1 FROM entity_states WHERE shard = ? AND execution_id = ? LIMIT 1;

-- name: insert_approval
-- A run asks somebody.
INSERT INTO approvals (shard, run_id, number, seq) VALUES (?, ?, ?, ?);

-- name: answered_approval
-- Whether somebody has answered.
SELECT 1 FROM approvals WHERE shard = ? AND run_id = ? AND number = ? AND answer IS NOT NULL;

-- name: withdraw_approval
-- A run does not ask any more. What was answered stays.
DELETE FROM approvals WHERE shard = ? AND run_id = ? AND number = ? AND answer IS NULL;

-- name: close_approvals
-- The same, for all that a run asks.
DELETE FROM approvals WHERE shard = ? AND run_id = ? AND answer IS NULL;

-- name: answer_approval
-- The first answer is the answer.
UPDATE approvals SET answer = ?, request = ?
WHERE shard = ? AND run_id = ? AND number = ? AND answer IS NULL;

-- name: approval_at
-- One approval.
SELECT number, seq, answer, request FROM approvals
WHERE shard = ? AND run_id = ? AND number = ?;

-- name: open_approvals
-- Those that wait for an answer, the oldest runs first, a page at a time.
SELECT approvals.shard, approvals.run_id, approvals.number FROM approvals JOIN runs USING (shard, run_id)
WHERE approvals.answer IS NULL AND (approvals.run_id, approvals.number) > (?1, ?2)
  AND runs.namespace = ?3 AND (?4 IS NULL OR runs.workflow_id = ?4)
ORDER BY approvals.run_id, approvals.number LIMIT ?5;

-- name: event_at
-- One event.
SELECT seq, kind, at_us, body, checksum FROM history WHERE shard = ? AND run_id = ? AND seq = ?;

-- name: blob_at
-- One spilled payload.
SELECT data FROM blobs WHERE shard = ? AND digest = ?;

-- name: append_id_at
-- Which append wrote an event, if its owner's lease still stands: after an answer that was lost.
SELECT history.append_id FROM history JOIN runs USING (shard, run_id)
WHERE history.shard = ? AND history.run_id = ? AND history.seq = ? AND runs.lease_token = ?;

-- name: any_mail
-- Whether the inbox holds anything at all: the cheap first look before an append that leaves.
SELECT 1 FROM inbox LIMIT 1;

-- name: mail_of
-- What waits for one execution, in the order in which it was accepted.
SELECT position, execution_id, kind, body, checksum FROM inbox
WHERE shard = ? AND execution_id = ? ORDER BY position;

-- name: mail_positions_of
-- Only where it lies.
SELECT position FROM inbox WHERE shard = ? AND execution_id = ? ORDER BY position;

-- name: kinds_of_mail
-- Only what it is.
SELECT kind FROM inbox WHERE shard = ? AND execution_id = ?;

-- name: change_mail
-- The start that nobody has fed yet is another one now.
UPDATE inbox SET body = ?, checksum = ? WHERE position = ? AND execution_id = ?;

-- name: mail_since
-- What has come since a look at the inbox; a hint to its owner, never what is consumed by.
SELECT position, execution_id, kind, body, checksum FROM inbox WHERE position > ?
ORDER BY position LIMIT ?;

-- name: mail_behind
-- The same, only where it lies: for an inbox that holds what is too large to be read.
SELECT position FROM inbox WHERE position > ? ORDER BY position LIMIT ?;

-- name: mail_at
-- One message.
SELECT position, execution_id, kind, body, checksum FROM inbox WHERE position = ?;

-- name: last_position
-- Behind which place the inbox goes on.
SELECT max(seq, (SELECT coalesce(max(position), 0) FROM inbox)) FROM sqlite_sequence
WHERE name = 'inbox';

-- name: insert_mail
-- Accept a message.
INSERT INTO inbox (shard, execution_id, kind, body, checksum) VALUES (?, ?, ?, ?, ?)
RETURNING position;

-- name: delete_mail
-- Consume exactly one message.
DELETE FROM inbox WHERE position = ? AND execution_id = ?;

-- name: forget_mail
-- What nobody will feed any more: the execution is closed.
DELETE FROM inbox WHERE shard = ? AND execution_id = ?;

-- name: forget_notices
-- Notices of terminations, which only an owner would read.
DELETE FROM inbox WHERE kind = ?;

-- name: find_request
-- The answer that a request was given before.
SELECT result FROM requests WHERE shard = ? AND execution_id = ? AND request_id = ?;

-- name: insert_request
-- Remember an answer beside what it acknowledges.
INSERT INTO requests (shard, execution_id, request_id, result) VALUES (?, ?, ?, ?);

-- name: answer_request
-- What a sender waits for. One that is not known any more waits for nothing.
UPDATE requests SET result = ? WHERE shard = ? AND execution_id = ? AND request_id = ?;

-- name: refuse_mail
-- Consume a message unfed, under the lease of the run that refuses it.
DELETE FROM inbox WHERE position = ?1 AND execution_id = ?2 AND EXISTS (
    SELECT 1 FROM runs WHERE shard = ?3 AND run_id = ?4 AND lease_token = ?5 AND status < 10);

-- name: count_sent
-- Note the newest message of a sender. No row: it was noted before, so this is a repetition.
INSERT INTO requests (shard, execution_id, request_id, result) VALUES (?, ?, ?, ?)
ON CONFLICT (shard, execution_id, request_id) DO UPDATE SET result = excluded.result
    WHERE result < excluded.result
RETURNING 1;

-- name: forget_senders
-- Those that have sent nothing for long: nobody repeats it any more.
DELETE FROM requests
WHERE shard = ? AND execution_id = ? AND request_id > ? AND request_id < ? AND result < ?;

-- name: latest_run
-- The run that a workflow id means: the open one, else the newest. A clock that was set back must
-- not let a closed run stand in front of an open one.
SELECT * FROM runs WHERE shard = ?1 AND namespace = ?2 AND workflow_id = ?3 AND run_id = coalesce(
    (SELECT run_id FROM runs
     WHERE shard = ?1 AND namespace = ?2 AND workflow_id = ?3 AND status < 10),
    (SELECT max(run_id) FROM runs WHERE shard = ?1 AND namespace = ?2 AND workflow_id = ?3));

-- name: latest_run_id
-- Likewise, where the row itself may be damaged.
SELECT coalesce(
    (SELECT run_id FROM runs
     WHERE shard = ?1 AND namespace = ?2 AND workflow_id = ?3 AND status < 10),
    (SELECT max(run_id) FROM runs WHERE shard = ?1 AND namespace = ?2 AND workflow_id = ?3));

-- name: runs_of_execution
-- A whole execution, the oldest run first.
SELECT * FROM runs WHERE shard = ? AND execution_id = ? ORDER BY run_id;

-- name: requests_of
-- What was answered to those who wrote to an execution.
SELECT request_id, result FROM requests WHERE shard = ? AND execution_id = ? ORDER BY request_id;

-- name: items_of
-- Everything that an execution has published.
SELECT channel, number, at_us, payload, checksum FROM published
WHERE shard = ? AND execution_id = ? ORDER BY channel, number;

-- name: approvals_of
-- What a run asks, and what it was answered.
SELECT number, seq, answer, request FROM approvals WHERE shard = ? AND run_id = ? ORDER BY number;

-- name: blob_uses_of
-- What a run, or an execution's mail, refers to.
SELECT owner_id, digest FROM blob_uses WHERE shard = ? AND owner_id = ? ORDER BY digest;

-- name: import_run
-- A run that was exported elsewhere; nobody has it.
INSERT INTO runs (shard, run_id, execution_id, namespace, workflow_id, type, queue, status,
                  next_seq, lease_token, wake_us, started_us, closed_us, reason, request_id, version)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?);

-- name: depart_run
-- It goes on in another store: whoever knew a token of it has none any more. Until it is known to
-- have arrived, nothing sweeps it away.
UPDATE runs SET status = 3, closed_us = NULL, owner = NULL, wake_us = NULL, probation = 0,
                lease_token = lease_token + 1, reason = ?
WHERE shard = ? AND run_id = ?;

-- name: settle_run
-- Whether it has arrived there, or goes on here after all.
UPDATE runs SET status = ?, closed_us = ?, reason = ?, wake_us = ? WHERE shard = ? AND run_id = ?;

-- name: put_gone
-- An execution must not arrive any more.
INSERT INTO requests_of_types (namespace, request_id, at_us, result) VALUES (?, ?, ?, ?)
ON CONFLICT (namespace, request_id) DO UPDATE SET at_us = excluded.at_us, result = excluded.result;

-- name: import_approval
-- What it asks.
INSERT INTO approvals (shard, run_id, number, seq, answer, request) VALUES (?, ?, ?, ?, ?, ?);

-- name: newest_run
-- The greatest id of all: whoever mints new ones goes on from there.
SELECT max(run_id) FROM runs WHERE shard = 0;

-- name: latest_of_execution
-- The newest run of one execution, whose workflow id may have gone to another since.
SELECT * FROM runs WHERE shard = ? AND namespace = ? AND workflow_id = ? AND execution_id = ?
ORDER BY run_id DESC LIMIT 1;

-- name: run_of_request
-- The execution that a start with this request id began.
SELECT * FROM runs WHERE shard = ? AND namespace = ? AND workflow_id = ? AND request_id = ?;

-- name: user_of_request
-- The execution that was asked this (a start with this request id that found and used it, say), by
-- its newest run, and the answer to that. Looks at each kept run of the workflow id: 20 ms for 40,000.
SELECT runs.*, requests.result FROM runs CROSS JOIN requests
WHERE runs.shard = ?1 AND namespace = ?2 AND workflow_id = ?3 AND requests.shard = ?1
  AND requests.execution_id = runs.execution_id AND requests.request_id = ?4
ORDER BY runs.run_id DESC LIMIT 1;

-- name: get_run
-- One run by its id.
SELECT * FROM runs WHERE shard = ? AND run_id = ?;

-- name: run_by_id
-- One run by its id alone: for people, who do not know shards.
SELECT * FROM runs WHERE shard IN (SELECT DISTINCT shard FROM runs) AND run_id = ?;

-- name: terminate_run
-- Close from outside: the token moves on, so that the owner's next append is refused.
UPDATE runs
SET status = ?, closed_us = ?, next_seq = next_seq + 1, lease_token = lease_token + 1,
    owner = NULL, wake_us = NULL, probation = 0, reason = NULL
WHERE shard = ? AND run_id = ? AND status < 10
RETURNING next_seq - 1;

-- name: wake_run
-- A message for a run that nobody owns: somebody should look now, and not later than without it: what
-- has waited longest is claimed first. A blocked run stays parked, and one whose beginning is put off
-- begins when it should.
UPDATE runs SET wake_us = min(?1, coalesce(wake_us, ?1))
WHERE shard = ?2 AND run_id = ?3 AND owner IS NULL AND status = 0
  AND NOT (next_seq = 1 AND coalesce(wake_us, ?1) > ?1);

-- name: rouse_run
-- The same for a cancellation, which does not wait for a beginning.
UPDATE runs SET wake_us = min(?1, coalesce(wake_us, ?1))
WHERE shard = ?2 AND run_id = ?3 AND owner IS NULL AND status = 0;

-- name: resume_run
-- Try a blocked run again; it is held if somebody has paused it, or its type.
UPDATE runs SET status = ?1, wake_us = CASE ?1 WHEN 0 THEN ?2 END,
                losses = 0, strikes = 0, probation = 0, reason = NULL
WHERE shard = ?3 AND run_id = ?4 AND status = 1;

-- name: resume_blocked
-- A worker with other code has come: blocked runs of its types are tried again; poison is not.
UPDATE runs SET status = ?1, wake_us = CASE ?1 WHEN 0 THEN ?2 END, reason = NULL
WHERE status = 1 AND strikes < ?3 AND ((version IS NULL AND type IN (SELECT value FROM json_each(?4)))
       OR EXISTS (SELECT 1 FROM json_each(?5) AS mine
                  WHERE json_extract(mine.value, '$[0]') = runs.type
                    AND json_extract(mine.value, '$[1]') = runs.version))
  AND (EXISTS (SELECT 1 FROM pauses AS p
               WHERE p.shard = runs.shard AND p.execution_id = runs.execution_id)
       OR EXISTS (SELECT 1 FROM pauses_of_types AS p
                  WHERE p.namespace = runs.namespace AND p.type IN ('', runs.type))) = (?1 = 2);

-- name: put_pause
-- Somebody holds an execution; who was first has given the reason. That it is about to be moved gives
-- way to any other.
INSERT INTO pauses (shard, execution_id, namespace, workflow_id, since_us, by, reason)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (shard, execution_id) DO UPDATE SET
    since_us = excluded.since_us, by = excluded.by, reason = excluded.reason
    WHERE pauses.by = 'everlong move';

-- name: pause_run
-- From here on nothing is appended to it. Whoever owns it keeps it, for what it has at work.
UPDATE runs SET status = 2, wake_us = NULL WHERE shard = ? AND run_id = ? AND status = 0;

-- name: wake_at
-- When somebody should look at a run; NULL: nobody need.
UPDATE runs SET wake_us = ? WHERE shard = ? AND run_id = ?;

-- name: forget_pause
-- It is held no more for its own sake.
DELETE FROM pauses WHERE shard = ? AND execution_id = ?;

-- name: forget_pause_of
-- Likewise, if it is this one who holds it.
DELETE FROM pauses WHERE shard = ? AND execution_id = ? AND by = ?;

-- name: is_held
-- Whether somebody has paused an execution, or all of its type.
SELECT EXISTS (SELECT 1 FROM pauses WHERE shard = ?1 AND execution_id = ?2)
    OR EXISTS (SELECT 1 FROM pauses_of_types WHERE namespace = ?3 AND type IN ('', ?4));

-- name: unpause_run
-- It goes on: whoever has it looks again, or else somebody takes it.
UPDATE runs SET status = 0, wake_us = CASE WHEN owner IS NULL THEN ? END, reason = NULL
WHERE shard = ? AND run_id = ? AND status = 2;

-- name: put_pause_of_types
-- Somebody holds a type of workflow, or all of them ('').
INSERT INTO pauses_of_types (namespace, type, since_us, by, reason) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING;

-- name: pause_runs
-- The open runs of a type that are not held already.
UPDATE runs SET status = 2, wake_us = NULL
WHERE status < 10 AND status = 0 AND namespace = ?1 AND (?2 = '' OR type = ?2)
RETURNING shard, execution_id, owner;

-- name: forget_pause_of_types
-- It is not held any more.
DELETE FROM pauses_of_types WHERE namespace = ? AND type = ?;

-- name: unpause_runs
-- Those of a type that nothing else holds.
UPDATE runs SET status = 0, wake_us = CASE WHEN owner IS NULL THEN ?3 END, reason = NULL
WHERE status < 10 AND status = 2 AND namespace = ?1 AND (?2 = '' OR type = ?2)
  AND NOT EXISTS (SELECT 1 FROM pauses AS p
                  WHERE p.shard = runs.shard AND p.execution_id = runs.execution_id)
  AND NOT EXISTS (SELECT 1 FROM pauses_of_types AS p
                  WHERE p.namespace = runs.namespace AND p.type IN ('', runs.type))
RETURNING shard, execution_id, owner;

-- name: blocked_runs
-- Those of a type that are parked, poison too.
SELECT shard, run_id FROM runs
WHERE status < 10 AND status = 1 AND namespace = ?1 AND (?2 = '' OR type = ?2);

-- name: pause_at
-- Who holds an execution.
SELECT namespace, workflow_id, execution_id, since_us, by, reason FROM pauses
WHERE shard = ? AND execution_id = ?;

-- name: pauses_of
-- Those of a namespace, the oldest first.
SELECT namespace, workflow_id, execution_id, since_us, by, reason FROM pauses
WHERE namespace = ? ORDER BY since_us, execution_id LIMIT ?;

-- name: pauses_of_types
-- The types that somebody holds.
SELECT namespace, type, since_us, by, reason FROM pauses_of_types
WHERE namespace = ? ORDER BY since_us, type LIMIT ?;

-- name: find_request_of_types
-- What a request about many executions was answered before.
SELECT result FROM requests_of_types WHERE namespace = ? AND request_id = ?;

-- name: put_request_of_types
-- Remember it.
INSERT INTO requests_of_types (namespace, request_id, at_us, result) VALUES (?, ?, ?, ?);

-- name: put_answer_of_key
-- Which execution a debounced start has come to, in place of an earlier one of its sender.
INSERT INTO requests_of_types (namespace, request_id, at_us, result) VALUES (?, ?, ?, ?)
ON CONFLICT (namespace, request_id) DO UPDATE SET at_us = excluded.at_us, result = excluded.result;

-- name: start_key
-- Which execution has a key of a workflow.
SELECT shard, execution_id, first_us, until_us, starts FROM start_keys
WHERE namespace = ? AND type = ? AND kind = ? AND key = ?;

-- name: put_start_key
-- It has it from now on.
INSERT INTO start_keys (namespace, type, kind, key, shard, execution_id, first_us, until_us,
                        starts)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (namespace, type, kind, key) DO UPDATE SET shard = excluded.shard, execution_id = excluded.execution_id,
    first_us = excluded.first_us, until_us = excluded.until_us, starts = excluded.starts;

-- name: put_off
-- A run that nobody owns begins then, and not before.
UPDATE runs SET wake_us = ? WHERE shard = ? AND run_id = ? AND owner IS NULL;

-- name: forget_requests_of_types
-- Nobody repeats them any more.
DELETE FROM requests_of_types WHERE at_us < ?;

-- name: idle_pauses
-- Pauses of executions that are not open, or whose run goes on all the same.
SELECT execution_id FROM pauses AS p
WHERE NOT EXISTS (SELECT 1 FROM runs AS r WHERE r.shard = p.shard AND r.namespace = p.namespace
                  AND r.workflow_id = p.workflow_id AND r.execution_id = p.execution_id
                  AND r.status IN (1, 2));

-- name: held_by_nobody
-- Runs that are paused, and nothing says by whom; and runs that go on though all of their type are held.
SELECT r.run_id FROM runs AS r
WHERE r.status < 10 AND r.status IN (0, 2)
  AND (r.status = 2) <> (EXISTS (SELECT 1 FROM pauses AS p WHERE p.shard = r.shard
                                 AND p.execution_id = r.execution_id)
                         OR EXISTS (SELECT 1 FROM pauses_of_types AS p
                                    WHERE p.namespace = r.namespace AND p.type IN ('', r.type)));

-- name: pin_run
-- Which version may drive it from now on.
UPDATE runs SET version = ? WHERE shard = ? AND run_id = ? AND status < 3;

-- name: release_run
-- Hand back under the lease; the owner must have seen the whole history.
UPDATE runs SET owner = NULL, wake_us = CASE WHEN status <> 2 THEN ?1 END,
                status = max(status, ?2), reason = ?3, probation = 0
WHERE shard = ?4 AND run_id = ?5 AND lease_token = ?6 AND next_seq = ?7 AND status < 10
  AND owner IS NOT NULL
RETURNING run_id;

-- name: sleep_runs
-- The same for runs with nothing to tell: they sleep until they are due, or until mail comes.
WITH mine (shard, run_id, token, base, wake_us) AS (VALUES :rows:)
UPDATE runs SET owner = NULL, wake_us = CASE WHEN status = 0 THEN mine.wake_us END, reason = NULL,
                probation = 0
FROM mine
WHERE runs.shard = mine.shard AND runs.run_id = mine.run_id
  AND runs.lease_token = mine.token AND runs.next_seq = mine.base AND runs.status < 10
  AND runs.owner IS NOT NULL
RETURNING runs.run_id;

-- name: was_handed_back
-- Whether a refused hand-back is one whose commit succeeded: only its owner leaves its token behind.
SELECT 1 FROM runs
WHERE shard = ? AND run_id = ? AND lease_token = ? AND next_seq = ? AND status < 10
  AND owner IS NULL;

-- name: check_lease
-- Whether an owner's lease still stands; the run may be paused all the same.
SELECT status FROM runs WHERE shard = ? AND run_id = ? AND lease_token = ? AND status < 10;

-- name: mark_probation
-- The durable mark under which a suspected run is driven alone.
UPDATE runs SET probation = ? WHERE shard = ? AND run_id = ? AND lease_token = ?;

-- name: put_attempt
-- A started mark, or how an attempt ended.
INSERT INTO attempts (shard, run_id, activity_id, attempt, state, started_us, ended_us, retry_us,
                      error_type, error, traceback, worker, details)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (shard, run_id, activity_id, attempt) DO UPDATE SET
    state = excluded.state, started_us = excluded.started_us, ended_us = excluded.ended_us,
    retry_us = excluded.retry_us, error_type = excluded.error_type, error = excluded.error,
    traceback = excluded.traceback, worker = excluded.worker, details = coalesce(excluded.details, details);

-- name: newest_attempt
-- How the last known attempt of an activity stands.
SELECT attempt, state FROM attempts WHERE shard = ? AND run_id = ? AND activity_id = ?
ORDER BY attempt DESC LIMIT 1;

-- name: beat_attempt
-- A sign of life of an attempt that is completed elsewhere: state 5.
UPDATE attempts SET ended_us = ?, details = coalesce(?, details)
WHERE shard = ? AND run_id = ? AND activity_id = ? AND attempt = ? AND state = 5;

-- name: trim_attempts
-- Keep the last few attempts of an activity, and the one behind which its present set began; the
-- count stays exact, it is the attempt's number.
DELETE FROM attempts WHERE shard = ?1 AND run_id = ?2 AND activity_id = ?3 AND attempt <= ?4
  AND attempt <> (SELECT coalesce(max(attempt), 0) FROM attempts
                  WHERE shard = ?1 AND run_id = ?2 AND activity_id = ?3 AND state = 6);

-- name: put_task
-- Into its queue, with whatever attempt comes next.
INSERT INTO tasks (shard, run_id, activity_id, execution_id, attempt, queue, activity, due_us, seq,
                   origin, behind, rank, key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (shard, run_id, activity_id) DO UPDATE SET
    attempt = excluded.attempt, queue = excluded.queue, due_us = excluded.due_us,
    behind = excluded.behind, asked = 0, worker_id = NULL
WHERE excluded.attempt > tasks.attempt;

-- name: task_at
SELECT shard, run_id, activity_id, execution_id, attempt, queue, activity, due_us, seq, origin, behind,
       token, asked, worker_id, rank, key
FROM tasks WHERE shard = ? AND run_id = ? AND activity_id = ?;

-- name: drop_task
DELETE FROM tasks WHERE shard = ? AND run_id = ? AND activity_id = ?;

-- name: drop_waiting_task
DELETE FROM tasks WHERE shard = ? AND run_id = ? AND activity_id = ? AND worker_id IS NULL;

-- name: ask_task
-- Whoever has it is asked to end it, and nobody takes it any more.
UPDATE tasks SET asked = 1 WHERE shard = ? AND run_id = ? AND activity_id = ?;

-- name: drop_tasks
-- The run is over: whoever has one of them finds that out.
DELETE FROM tasks WHERE shard = ? AND run_id = ?;

-- name: waiting_tasks
-- The first queue and activity behind a pair of which something waits. Not by a comparison of pairs:
-- for that SQLite goes through all that waits of the pair itself.
SELECT * FROM (SELECT queue, activity FROM tasks
               WHERE worker_id IS NULL AND asked = 0 AND queue = ?1 AND activity > ?2
               ORDER BY activity LIMIT 1)
UNION ALL
SELECT * FROM (SELECT queue, activity FROM tasks
               WHERE worker_id IS NULL AND asked = 0 AND queue > ?1
               ORDER BY queue, activity LIMIT 1)
LIMIT 1;

-- name: due_tasks
-- What may begin, of one lane, the longest due first.
SELECT t.shard, t.run_id, t.activity_id FROM tasks AS t
JOIN runs AS r ON r.shard = t.shard AND r.run_id = t.run_id AND r.status = 0
WHERE t.worker_id IS NULL AND t.asked = 0 AND t.queue = ? AND t.activity = ? AND t.rank = ? AND t.key = ?
  AND t.due_us <= ?
ORDER BY t.due_us, t.shard, t.run_id, t.activity_id LIMIT ?;

-- name: next_task
-- When the first of one queue and activity is due, behind a moment, that may begin.
SELECT t.due_us FROM tasks AS t
JOIN runs AS r ON r.shard = t.shard AND r.run_id = t.run_id AND r.status = 0
WHERE t.worker_id IS NULL AND t.asked = 0 AND t.queue = ? AND t.activity = ? AND t.due_us > ?
ORDER BY t.due_us LIMIT 1;

-- name: next_rank
-- The first behind this one of which something waits.
SELECT rank FROM tasks
WHERE worker_id IS NULL AND asked = 0 AND queue = ? AND activity = ? AND rank > ?
ORDER BY rank LIMIT 1;

-- name: lane_without_key
-- When the first of it is due.
SELECT due_us FROM tasks
WHERE worker_id IS NULL AND asked = 0 AND queue = ? AND activity = ? AND rank = ? AND key = ''
ORDER BY due_us LIMIT 1;

-- name: next_key
-- The first behind this one of which something waits, and when its first is due.
SELECT key, due_us FROM tasks
WHERE worker_id IS NULL AND asked = 0 AND queue = ? AND activity = ? AND rank = ? AND key > ?
ORDER BY key, due_us LIMIT 1;

-- name: tasks_at_work
-- How many of each key of a queue workers have.
SELECT key, count(*) FROM tasks WHERE worker_id IS NOT NULL AND queue = ? GROUP BY key;

-- name: queue_limits
-- All there are; what is in force is the last of a queue.
SELECT queue, origin, concurrency, rate, rate_us, key_concurrency, key_rate, key_rate_us, set_us, set_by,
       at_limit
FROM queue_limits ORDER BY queue, origin;

-- name: put_limits
REPLACE INTO queue_limits (queue, origin, concurrency, rate, rate_us, key_concurrency, key_rate,
                           key_rate_us, set_us, set_by, at_limit)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: drop_limits
DELETE FROM queue_limits WHERE queue = ? AND origin = ?;

-- name: starts_of
-- When calls of a queue, or of a queue and key, began.
SELECT marks FROM queue_starts WHERE queue = ? AND key = ?;

-- name: put_starts
REPLACE INTO queue_starts (queue, key, until_us, marks) VALUES (?, ?, ?, ?);

-- name: forget_starts
-- What limits nothing any more.
DELETE FROM queue_starts WHERE until_us <= ?;

-- name: limits_of
-- Of one queue or pool; what is in force is the last.
SELECT queue, origin, concurrency, rate, rate_us, key_concurrency, key_rate, key_rate_us, set_us, set_by,
       at_limit
FROM queue_limits WHERE queue = ? ORDER BY origin;

-- name: turn_of
-- Where an execution stands in its pool.
SELECT state FROM turns WHERE shard = ? AND execution_id = ?;

-- name: ask_turn
-- It waits for its turn.
INSERT INTO turns (shard, execution_id, namespace, workflow_id, pool, key, rank, asked_us, until_us, state)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0);

-- name: put_turn
UPDATE turns SET state = ? WHERE shard = ? AND execution_id = ?;

-- name: drop_turn
DELETE FROM turns WHERE shard = ? AND execution_id = ?;

-- name: hand_back_turn
-- A run that has not begun waits for its turn, and for nothing else.
UPDATE runs SET owner = NULL, wake_us = ?, probation = 0
WHERE shard = ? AND run_id = ? AND lease_token = ? AND owner = ? AND status = 0;

-- name: forget_turns
-- What has begun and ended counts no more.
DELETE FROM turns WHERE pool = ? AND state > 0 AND NOT EXISTS (
    SELECT 1 FROM runs AS r WHERE r.shard = turns.shard AND r.namespace = turns.namespace
      AND r.workflow_id = turns.workflow_id AND r.status < 10 AND r.status < 3
      AND r.execution_id = turns.execution_id);

-- name: turns_begun
-- How many of each key of a pool have begun.
SELECT key, count(*) FROM turns WHERE state > 0 AND pool = ? GROUP BY key;

-- name: next_turn_rank
-- The first behind this one of which somebody waits.
SELECT rank FROM turns WHERE state = 0 AND pool = ? AND rank > ? ORDER BY rank LIMIT 1;

-- name: turn_without_key
-- Since when the first of it waits.
SELECT asked_us FROM turns WHERE state = 0 AND pool = ? AND rank = ? AND key = '' ORDER BY asked_us LIMIT 1;

-- name: next_turn_key
-- The first behind this one of which somebody waits, and since when.
SELECT key, asked_us FROM turns WHERE state = 0 AND pool = ? AND rank = ? AND key > ?
ORDER BY key, asked_us LIMIT 1;

-- name: next_turns
-- Who is first of one lane; the status tells whether it is still there. One that is paused or blocked is
-- passed over.
SELECT t.shard, t.execution_id, r.status FROM turns AS t
LEFT JOIN runs AS r ON r.shard = t.shard AND r.run_id = t.execution_id
WHERE t.state = 0 AND t.pool = ? AND t.rank = ? AND t.key = ? AND (r.status IS NULL OR r.status NOT IN (1, 2))
ORDER BY t.asked_us, t.shard, t.execution_id LIMIT ?;

-- name: wake_turn
-- Somebody should take it, before those that have come behind it and not asked yet.
UPDATE runs SET wake_us = min(?, started_us) WHERE shard = ? AND run_id = ? AND owner IS NULL AND status = 0;

-- name: late_turns
-- Who has waited for longer than its execution may last.
UPDATE turns SET until_us = NULL WHERE state = 0 AND pool = ? AND until_us <= ?
RETURNING shard, execution_id;

-- name: next_late_turn
-- When the next one has.
SELECT min(until_us) FROM turns WHERE state = 0 AND pool = ? AND until_us IS NOT NULL;

-- name: in_the_way
-- Who came first to a pool of those that nobody has asked to make room, of one key or (NULL) of all.
SELECT shard, execution_id, namespace, workflow_id, state FROM turns
WHERE pool = ?1 AND state < 2 AND (?2 IS NULL OR key = ?2) AND execution_id <> ?3
ORDER BY asked_us, execution_id LIMIT 1;

-- name: pools
-- How many of each pool wait and have begun.
SELECT t.pool, sum(t.state = 0), sum(t.state > 0), min(CASE t.state WHEN 0 THEN t.asked_us END)
FROM turns AS t
WHERE EXISTS (SELECT 1 FROM runs AS r WHERE r.shard = t.shard AND r.namespace = t.namespace
              AND r.workflow_id = t.workflow_id AND r.status < 10 AND r.status < 3
              AND r.execution_id = t.execution_id)
GROUP BY t.pool ORDER BY t.pool;

-- name: take_task
UPDATE tasks SET worker_id = ?, token = token + 1 WHERE shard = ? AND run_id = ? AND activity_id = ?;

-- name: details_of_task
-- The last heartbeat details that there are, and of which attempt.
SELECT details, attempt FROM attempts
WHERE shard = ? AND run_id = ? AND activity_id = ? AND attempt >= ? - 1 AND details IS NOT NULL
ORDER BY attempt DESC LIMIT 1;

-- name: attempt_at
-- One attempt.
SELECT activity_id, attempt, state, started_us, ended_us, retry_us, error_type, error, traceback,
       worker, details
FROM attempts WHERE shard = ? AND run_id = ? AND activity_id = ? AND attempt = ?;

-- name: task_held
-- Whether this worker has it under this token, and has been asked to end it.
SELECT asked FROM tasks
WHERE shard = ? AND run_id = ? AND activity_id = ? AND worker_id = ? AND token = ?;

-- name: requeue_task
UPDATE tasks SET worker_id = NULL, attempt = ?, due_us = ?
WHERE shard = ? AND run_id = ? AND activity_id = ?;

-- name: tasks_of_worker
SELECT run_id, activity_id, attempt, token, asked FROM tasks WHERE worker_id = ?;

-- name: orphaned_tasks
-- Tasks of workers that are dead, or of whom nobody has heard.
SELECT shard, run_id, activity_id FROM tasks AS t
WHERE t.worker_id IS NOT NULL AND NOT EXISTS
    (SELECT 1 FROM workers AS w WHERE w.worker_id = t.worker_id AND w.dead = 0)
ORDER BY t.shard, t.run_id, t.activity_id LIMIT ?;

-- name: queues
-- What stands in all queues.
SELECT queue, activity, sum(worker_id IS NULL), sum(worker_id IS NOT NULL),
       min(CASE WHEN worker_id IS NULL THEN due_us END)
FROM tasks GROUP BY queue, activity ORDER BY queue, activity;

-- name: attempts_of
-- What is known of a run's attempts.
SELECT activity_id, attempt, state, started_us, ended_us, retry_us, error_type, error, traceback,
       worker, details
FROM attempts WHERE shard = ? AND run_id = ? ORDER BY activity_id, attempt;

-- name: history_of
-- A run's events from a sequence number on.
SELECT seq, kind, at_us, body, checksum FROM history
WHERE shard = ? AND run_id = ? AND seq >= ? ORDER BY seq LIMIT ?;

-- name: whole_history_of
-- All that is stored of a run's events, whatever their numbers.
SELECT seq, kind, at_us, body, checksum, append_id FROM history
WHERE shard = ? AND run_id = ? ORDER BY seq;

-- name: last_event
-- How a closed run closed.
SELECT seq, kind, at_us, body, checksum FROM history
WHERE shard = ? AND run_id = ? ORDER BY seq DESC LIMIT 1;

-- name: put_blob
-- A payload that is too large for its event, once per content.
INSERT INTO blobs (shard, digest, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- name: unuse_blob
-- It is referred to no more by this one.
DELETE FROM blob_uses WHERE shard = ? AND owner_id = ? AND digest = ?;

-- name: drop_blob
-- Unless anybody else refers to it.
DELETE FROM blobs WHERE shard = ?1 AND digest = ?2 AND NOT EXISTS
    (SELECT 1 FROM blob_uses WHERE shard = ?1 AND digest = ?2);

-- name: use_blob
-- Who refers to it.
INSERT INTO blob_uses (shard, owner_id, digest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- name: blobs_of
-- All spilled payloads of a run and of its execution's mail.
SELECT digest, data FROM blobs WHERE shard = ?1 AND digest IN
    (SELECT digest FROM blob_uses WHERE shard = ?1 AND owner_id IN (?2, ?3));

-- name: due_runs
-- What is due of one type, the longest due first. A type at a time, so that the index gives the order.
SELECT wake_us, shard, run_id FROM runs
WHERE wake_us IS NOT NULL AND version IS NULL AND queue = ?2 AND type = ?3 AND wake_us <= ?1 AND status = 0
ORDER BY wake_us LIMIT ?4;

-- name: any_pinned
-- Whether a pinned run sleeps at all: the cheap first look.
SELECT 1 FROM runs WHERE wake_us IS NOT NULL AND version IS NOT NULL LIMIT 1;

-- name: due_pinned
-- The same as `due_runs` for what is pinned to one version.
SELECT wake_us, shard, run_id FROM runs
WHERE wake_us IS NOT NULL AND version = ?5 AND queue = ?2 AND type = ?3 AND wake_us <= ?1
  AND status = 0
ORDER BY wake_us LIMIT ?4;

-- name: claim_run
-- Take one run by its id, if nobody has it; the token moves on with each claim. A mark that came
-- behind the release that it should have preceded is void.
UPDATE runs SET owner = ?, lease_token = lease_token + 1, wake_us = NULL, probation = 0
WHERE shard = ? AND run_id = ? AND owner IS NULL AND status = 0
RETURNING *;

-- name: runs_of_owner
-- What bears a worker's name.
SELECT shard, run_id, execution_id FROM runs WHERE owner = ? ORDER BY run_id;

-- name: claim_again
-- Take anew what was claimed before, in an answer that was lost.
UPDATE runs SET lease_token = lease_token + 1, probation = 0
WHERE shard = ? AND run_id = ? AND owner = ?
RETURNING *;

-- name: pinned_of
-- What bears a worker's name and is pinned. Nothing is looked at where nothing is.
SELECT run_id, version FROM runs WHERE owner = ? AND version IS NOT NULL ORDER BY run_id;

-- name: next_wake
-- When the next of the runs that this worker hosts wants to be looked at.
SELECT min(wake_us) FROM runs
WHERE wake_us IS NOT NULL AND version IS NULL AND queue = ? AND type = ? AND status = 0;

-- name: next_wake_of_pinned
-- The same for what is pinned to one version.
SELECT min(wake_us) FROM runs
WHERE wake_us IS NOT NULL AND queue = ? AND type = ? AND version = ? AND status = 0;

-- name: shares
-- How the runs of some types that are under way, or due, lie with workers.
SELECT type, version, owner, count(*) FROM runs
WHERE status = 0 AND queue = ? AND type IN (SELECT value FROM json_each(?)) AND (owner IS NOT NULL OR wake_us <= ?)
GROUP BY type, version, owner ORDER BY type, version, owner;

-- name: open_versions
-- How many open runs there are of each type and version.
SELECT type, version, sum(status <> 1), sum(status = 1) FROM runs
WHERE namespace = ? AND status < 3 GROUP BY type, version ORDER BY type, version;

-- name: orphans
-- Runs of workers that are dead, or that nobody has heard of, in a bounded batch; suspects that
-- were driven come last.
SELECT shard, run_id FROM runs WHERE owner IS NOT NULL AND owner NOT IN
    (SELECT worker_id FROM workers WHERE NOT dead) ORDER BY probation IN (1, 2) LIMIT ?;

-- name: driven_suspect
-- Whether a dead worker was driving a suspect.
SELECT 1 FROM runs WHERE owner IS NOT NULL AND probation IN (1, 2) AND owner NOT IN
    (SELECT worker_id FROM workers WHERE NOT dead) LIMIT 1;

-- name: park_run
-- Whatever else its row says: nobody can drive it.
UPDATE runs SET status = 1, owner = NULL, wake_us = NULL, probation = 0, reason = ?
WHERE shard = ? AND run_id = ?;

-- name: take_orphan
-- Take one over, with what the judge found.
UPDATE runs SET owner = NULL, lease_token = lease_token + 1, wake_us = ?, status = ?,
                losses = ?, strikes = ?, probation = 0, reason = ?
WHERE shard = ? AND run_id = ? AND lease_token = ?;

-- name: put_worker
-- A worker says who it is and what it hosts.
INSERT INTO workers (worker_id, name, pid, host, started_us, beat_us, dead, queue, types, versions, slots)
VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?);

-- name: bury_workers
-- Whoever had the file before is gone: the lock is ours.
UPDATE workers SET dead = 1
WHERE dead = 0 AND hex(worker_id) NOT IN (SELECT upper(value) FROM json_each(?));

-- name: bury_worker
-- One worker, stopped in order.
UPDATE workers SET dead = 1 WHERE worker_id = ?;

-- name: forget_workers
-- Dead workers that own nothing any more.
DELETE FROM workers WHERE dead AND beat_us < ?
  AND NOT EXISTS (SELECT 1 FROM runs WHERE owner = workers.worker_id)
  AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.worker_id = workers.worker_id);

-- name: list_workers
-- Who is here.
SELECT worker_id, name, pid, host, started_us, beat_us, dead, queue, types, versions, slots, busy
FROM workers
ORDER BY worker_id;

-- name: worker_at
-- One of them.
SELECT worker_id, name, pid, host, started_us, beat_us, dead, queue, types, versions, slots, busy
FROM workers
WHERE worker_id = ?;

-- name: put_question
-- A query from another process. Asked again after an answer that was lost, it is there already.
INSERT INTO questions (question_id, shard, namespace, workflow_id, query, arguments, asked_us)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: open_questions
-- Queries that nobody has answered yet, oldest first.
SELECT question_id, shard, namespace, workflow_id, query, arguments FROM questions
WHERE answered IS NULL AND typeof(question_id) = 'blob' AND typeof(arguments) = 'blob'
ORDER BY asked_us, question_id LIMIT ?;

-- name: all_questions
-- Which there are, for when one of them is too large to be read.
SELECT question_id FROM questions WHERE answered IS NULL;

-- name: question_at
-- One query.
SELECT question_id, shard, namespace, workflow_id, query, arguments FROM questions
WHERE question_id = ?;

-- name: put_answer
-- The answer to one.
UPDATE questions SET answered = ?, answer = ? WHERE question_id = ?;

-- name: get_answer
-- What its asker waits for.
SELECT answered, answer FROM questions WHERE question_id = ?;

-- name: forget_question
-- Answered and read, or given up.
DELETE FROM questions WHERE question_id = ?;

-- name: forget_questions
-- Askers that died.
DELETE FROM questions WHERE asked_us < ?;

-- name: prune_candidates
-- Runs in the order of their start, from a cursor up to the first id that the horizon could mint:
-- what began later cannot be due.
SELECT shard, run_id, execution_id, closed_us FROM runs
WHERE (shard, run_id) > (?, ?) AND (shard, run_id) < (?, ?) ORDER BY shard, run_id LIMIT ?;

-- name: execution_is_open
-- Whether a later run of the same execution still lives.
SELECT 1 FROM runs WHERE shard = ? AND execution_id = ? AND namespace = ? AND workflow_id = ?
  AND status < 3;

-- name: missing_blobs
-- Payloads that are referred to and not there.
SELECT owner_id FROM blob_uses AS u WHERE NOT EXISTS
    (SELECT 1 FROM blobs AS b WHERE b.shard = u.shard AND b.digest = u.digest);

-- name: unused_blobs
-- Payloads that nobody refers to.
SELECT digest FROM blobs AS b WHERE NOT EXISTS
    (SELECT 1 FROM blob_uses AS u WHERE u.shard = b.shard AND u.digest = b.digest);

-- name: unowned_blob_uses
-- References of what is neither a run nor an execution.
SELECT DISTINCT owner_id FROM blob_uses
WHERE owner_id NOT IN (SELECT run_id FROM runs) AND owner_id NOT IN (SELECT execution_id FROM runs);

-- name: published_numbers
-- How far the output channels of an execution have come.
SELECT channel, max(number) + 1 FROM published WHERE shard = ? AND execution_id = ?
GROUP BY channel ORDER BY channel;

-- name: message_behind
-- Whether a history holds one of these kinds of events from a sequence number on.
SELECT 1 FROM history WHERE shard = ? AND run_id = ? AND seq >= ? AND kind IN (?, ?, ?, ?, ?, ?, ?, ?, ?)
LIMIT 1;

-- name: put_request
-- What senders are told from now on.
INSERT INTO requests (shard, execution_id, request_id, result) VALUES (?, ?, ?, ?)
ON CONFLICT (shard, execution_id, request_id) DO UPDATE SET result = excluded.result;

-- name: links_from_run
-- Whom a run waits for, and its children.
SELECT shard, execution_id, waiter_run, number, waiter_id, namespace, workflow_id, waiter,
       on_parent_close
FROM links WHERE shard = ? AND waiter_id = ? AND waiter_run = ? ORDER BY number;

-- name: forget_links_from_run
-- Another run has taken its place.
DELETE FROM links WHERE shard = ? AND waiter_id = ? AND waiter_run = ?;

-- name: any_link
-- Whether any execution has to do with another one: the cheap first look before an end.
SELECT 1 FROM links LIMIT 1;

-- name: put_link
-- An execution is waited for.
INSERT INTO links (shard, execution_id, waiter_run, number, waiter_id, namespace, workflow_id,
                   waiter, on_parent_close)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: links_to
-- Who waits for an execution.
SELECT shard, execution_id, waiter_run, number, waiter_id, namespace, workflow_id, waiter,
       on_parent_close
FROM links WHERE shard = ? AND execution_id = ? ORDER BY waiter_run, number;

-- name: links_from
-- Whom an execution waits for, and its children.
SELECT shard, execution_id, waiter_run, number, waiter_id, namespace, workflow_id, waiter,
       on_parent_close
FROM links WHERE shard = ? AND waiter_id = ? ORDER BY waiter_run, number;

-- name: link_at
-- What a run waits for under one of its numbers.
SELECT shard, execution_id, waiter_run, number, waiter_id, namespace, workflow_id, waiter,
       on_parent_close
FROM links WHERE shard = ? AND waiter_id = ? AND waiter_run = ? AND number = ?;

-- name: forget_links_to
-- It has ended, and who waited has been told.
DELETE FROM links WHERE shard = ? AND execution_id = ?;

-- name: forget_links_from
-- It has ended, and its children have what follows from that.
DELETE FROM links WHERE shard = ? AND waiter_id = ?;

-- name: idle_links
-- Links of executions that have ended or were never there, or that nobody of us has made.
SELECT execution_id, waiter_id FROM links AS l
WHERE on_parent_close NOT IN ('', 'terminate', 'cancel', 'abandon')
   OR NOT EXISTS (SELECT 1 FROM runs AS r WHERE r.shard = l.shard AND r.namespace = l.namespace
                  AND r.workflow_id = l.workflow_id AND r.execution_id = l.execution_id
                  AND r.status < 10)
   OR NOT EXISTS (SELECT 1 FROM runs AS r WHERE r.shard = l.shard AND r.namespace = l.namespace
                  AND r.workflow_id = l.waiter AND r.execution_id = l.waiter_id AND r.status < 10)
   OR NOT EXISTS (SELECT 1 FROM runs AS r WHERE r.shard = l.shard AND r.run_id = l.waiter_run
                  AND r.execution_id = l.waiter_id);

-- name: put_letters
-- What accepted appends leave for brokers.
INSERT INTO outgoing_letters (shard, outbox, execution_id, run_id, seq, number, at_us, payload, checksum)
SELECT * FROM (VALUES :rows:) WHERE column2 IS NOT NULL;

-- name: has_letters
SELECT 1 FROM outgoing_letters WHERE outbox = ? AND refused IS NULL LIMIT 1;

-- name: holder_of
-- Who publishes from an outbox, and is not dead.
SELECT holder, EXISTS (SELECT 1 FROM workers WHERE worker_id = holder AND NOT dead)
FROM outgoing_boxes WHERE outbox = ?;

-- name: hold_outbox
INSERT INTO outgoing_boxes (outbox, holder) VALUES (?, ?)
ON CONFLICT (outbox) DO UPDATE SET holder = excluded.holder;

-- name: waiting_letters
SELECT position, shard, outbox, execution_id, run_id, seq, number, at_us, payload, checksum, refused
FROM outgoing_letters WHERE outbox = ? AND refused IS NULL AND position > ? ORDER BY position LIMIT ?;

-- name: refused_letters
SELECT position, shard, outbox, execution_id, run_id, seq, number, at_us, payload, checksum, refused
FROM outgoing_letters WHERE outbox = ? AND refused IS NOT NULL AND position > ? ORDER BY position LIMIT ?;

-- name: drop_letters
-- Of these, whatever they are.
DELETE FROM outgoing_letters WHERE outbox = ? AND position IN (SELECT value FROM json_each(?));

-- name: drop_refused
DELETE FROM outgoing_letters WHERE outbox = ? AND refused IS NOT NULL;

-- name: refuse_letter
UPDATE outgoing_letters SET refused = ? WHERE outbox = ? AND position = ?;

-- name: send_again
UPDATE outgoing_letters SET refused = NULL
WHERE outbox = ? AND refused IS NOT NULL AND position IN (SELECT value FROM json_each(?));

-- name: send_all_again
UPDATE outgoing_letters SET refused = NULL WHERE outbox = ? AND refused IS NOT NULL;

-- name: outbox_works
-- Only where that is news.
UPDATE outgoing_boxes SET failures = 0, fault = NULL, fault_us = NULL WHERE outbox = ? AND failures > 0;

-- name: outbox_fails
UPDATE outgoing_boxes SET holder = NULL, failures = failures + 1, fault = ?, fault_us = ?
WHERE outbox = ? AND holder = ?;

-- name: outboxes
-- What is in them, and with which of them somebody got nowhere.
SELECT outbox, sum(waiting), sum(refused), min(oldest_us), max(holder), max(failures), max(fault),
       max(fault_us)
FROM (SELECT outbox, refused IS NULL AS waiting, refused IS NOT NULL AS refused,
             CASE WHEN refused IS NULL THEN at_us END AS oldest_us,
             NULL AS holder, 0 AS failures, NULL AS fault, NULL AS fault_us FROM outgoing_letters
      UNION ALL
      SELECT outbox, 0, 0, NULL, holder, failures, fault, fault_us FROM outgoing_boxes)
GROUP BY outbox HAVING sum(waiting) + sum(refused) + max(failures) > 0 ORDER BY outbox;

-- name: letters_of
SELECT count(*) FROM outgoing_letters
WHERE refused IS NULL AND hex(execution_id) IN (SELECT value FROM json_each(?));
