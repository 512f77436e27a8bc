"""Runs workflow code so that every process, today or after a crash, sees it do the same."""
