"""The engine under Everlong: histories, leases, stores. It runs no user code, reads no payload."""
