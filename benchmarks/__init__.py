"""What Everlong costs, measured beside what the machine itself can do: `python -m benchmarks NAME`."""
