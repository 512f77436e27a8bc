# One entry for people and for .ci/run. Every target sets itself up: a stamp in .venv stands for each
# extra that is installed, and is out of date as soon as pyproject.toml is newer.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

BIN := .venv/bin
EVERLONG_SOAK_SEEDS ?= 20000
BENCHMARKS ?= throughput sequential fanout roundtrip sleepers recovery replay retention streams
export PYTHON EVERLONG_SOAK_SEEDS
# Tests and benchmarks start hundreds of processes: each would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test check format bench chaos soak harder postgres distributed fuzz proof clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: .venv/.ready-dev ## Make .venv with everything that work on Everlong needs

demo: .venv/.ready-samples ## Run an order stream and kill its worker, again and again (under two minutes)
	$(BIN)/python -m samples.order_stream_demo $(ARGS)

test: .venv/.ready-test ## Run the tests, three at a time; ARGS="-k lease" and the like go to pytest
	$(BIN)/python -m pytest -q -n 3 --dist worksteal --durations=10 $(ARGS)

check: .venv/.ready-dev ## Lint, check the format, the types (two checkers) and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: .venv/.ready-dev ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/.ready-test ## Measure; BENCHMARKS="throughput replay" measures only those
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks $$name $(ARGS) || exit 1; done

chaos: .venv/.ready-test ## Kill workers at random moments, at full length
	EVERLONG_CHAOS=full $(BIN)/python -m pytest tests/chaos -m chaos -q --durations=10 --timeout=3600 $(ARGS)

soak: .venv/.ready-test ## Simulate EVERLONG_SOAK_SEEDS histories of faults, and plant every defect
	$(BIN)/python -m tests.simulation --seeds $(EVERLONG_SOAK_SEEDS) --workers 2 $(ARGS)
	$(BIN)/python -m tests.simulation --mutants
	EVERLONG_CODE_CHANGES=1000 $(BIN)/python -m pytest -q tests/replay/test_changed_code.py

harder: .venv/.ready-test ## The acceptance tests with the cache off, then with every prefix replayed
	EVERLONG_HARDER=cache-off $(BIN)/python -m pytest -q tests/acceptance $(ARGS)
	EVERLONG_HARDER=every-prefix $(BIN)/python -m pytest -q tests/acceptance $(ARGS)

postgres: .venv/.ready-test ## The acceptance tests on a PostgreSQL server, which they start themselves
	EVERLONG_STORE=postgres $(BIN)/python -m pytest -q -n 2 tests/acceptance $(ARGS)

distributed: .venv/.ready-test ## The same, and the tests of stores, where a transaction must not write to two shards
	EVERLONG_STORE=distributed $(BIN)/python -m pytest -q -n 2 tests/acceptance tests/store $(ARGS)

fuzz: .venv/.ready-test ## Give every decoder bytes that nobody would write; ARGS="--seconds 600"
	$(BIN)/python -m tests.fuzz $(ARGS)

proof: .venv/.ready-test ## Try to break every invariant at full length, and write docs/reliability.md
	$(BIN)/python -m tests.proof $(ARGS)

clean: ## Remove .venv, caches and builds; databases stay
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find sdk engine tests samples benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# An extra contains the one before it, so the larger stamps stand for the smaller ones too.
.venv/.ready-samples: pyproject.toml ci/setup-venv.sh
	@ci/setup-venv.sh samples && touch $@

.venv/.ready-test: pyproject.toml ci/setup-venv.sh
	@ci/setup-venv.sh test && touch .venv/.ready-samples $@

.venv/.ready-dev: pyproject.toml ci/setup-venv.sh
	@ci/setup-venv.sh dev && touch .venv/.ready-samples .venv/.ready-test $@
