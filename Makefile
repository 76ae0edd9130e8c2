# Two commands do everything on a machine with Python 3.11+ and make:
#   make demo   sets up, writes a function, serves it with an engine, calls it   (ONCE=1: and ends)
#   make test   sets up and runs every test that this machine can run
#
# Also: make check (lint, types, import contracts), make bench, make lock, make clean.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
TESTS ?= tests

.PHONY: demo test check format bench lock clean

# What `make demo` needs: fnship and what it runs on.
$(VENV)/runtime: requirements/runtime.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fnship needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 2; }
	@echo "setting up $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes --requirement requirements/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# What the tests and checks need beside that. The existing SDK has a folder of its own: it brings
# a package of the same name as one of ours.
$(VENV)/dev: requirements/dev.txt requirements/existing-sdk.txt $(VENV)/runtime
	@echo "setting up the test tools …"
	@$(PIP) install --require-hashes --requirement requirements/dev.txt
	@$(PIP) install --require-hashes --no-deps --upgrade --target $(VENV)/existing-sdk \
		--requirement requirements/existing-sdk.txt
	@touch $@

demo: $(VENV)/runtime
	@$(BIN)/python examples/demo.py $(if $(ONCE),--once)

test: $(VENV)/dev
	$(BIN)/python -m pytest --numprocesses 2 $(TESTS)

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/dev
	@PYTHON=$(BIN)/python benchmarks/run
	@PYTHON=$(BIN)/python benchmarks/activities

lock: $(VENV)/dev
	requirements/lock

clean:
	rm -rf $(VENV) .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
