# Two commands on a fresh machine: `make train` and `make test`. Needs Python 3.11 or newer with venv, and make.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/connect4

.PHONY: train test test-slow oracles check setup clean

train: setup
	$(BIN)/zeroloop train connect4 --preset laptop --run $(RUN)

# The fast tests in one process a core, whole files each: what a file's tests share is made once.
# Python may keep its bytecode: each process, and each program that a test starts, imports in half the time.
test: export PYTHONDONTWRITEBYTECODE =
test: check
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

oracles: setup
	REQUIRE_ORACLES=1 $(BIN)/python -m pytest tests/games tests/players

# The slow tests in one process: they learn with all cores, kill programs, and wait.
test-slow: test
	$(BIN)/python -m pytest -m slow

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell README.md CHANGELOG.md LOG.md docs zeroloop tests examples

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "zeroloop needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Give one: make PYTHON=python3.12 train")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/ready

clean:
	rm -rf .venv
