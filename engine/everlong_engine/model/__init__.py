"""Pure structs: events, payloads, failures, errors. No I/O, no clock."""
