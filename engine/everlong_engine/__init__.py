"""The engine under Everlong: histories, leases and stores. It runs no user code and reads no payload."""
