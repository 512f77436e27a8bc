"""Everlong: durable execution for ordinary async Python."""
