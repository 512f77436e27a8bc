"""Runnable examples, one idea a file; each is run by a test that names it."""
