"""Everlong's tests. A package, so that `tests.support` is found before any installed `tests`."""
