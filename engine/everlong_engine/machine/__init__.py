"""Pure decisions: rows and events in, verdicts out. No I/O, no clock."""
