"""Stores that somebody else has written to: every table, every column, every body."""
