-- Version 10. A run may be in another store (status 3), where it goes on: earlier versions know no such one.

-- How many attempts a worker may have at work at once, and how many it had when it was last heard of.
ALTER TABLE workers ADD COLUMN slots INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN busy INTEGER NOT NULL DEFAULT 0;
