-- Version 4.

-- The runs that somebody looks for by their status, newest first: the open ones, and those that did not
-- end well, among a million that completed. These themselves are found in the order of their ids.
CREATE INDEX runs_of_status ON everlong.runs (namespace, status, run_id) WHERE status <> 10;
