"""Bytes and texts that nobody would write, by coverage: `python -m tests.fuzz --seconds 600`."""
