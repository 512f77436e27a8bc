"""The embedded default: one file."""
