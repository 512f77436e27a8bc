"""What Everlong costs, beside what the machine itself can do: `python -m benchmarks NAME`.

One file per benchmark holds its workload; `_catalogue` says what each measures and what was
promised. Every measurement runs in a fresh process (`_child`), on a database of its own on a real
disk, and prints one JSON object. `_limit` measures bare sqlite3 right before and right after it,
because on a shared machine only the ratio to that means anything; `_report` prints ratios first
and absolute figures in brackets. `peers/` holds the same workloads for other engines. Nothing here
asserts a time.
"""
