# `make demo` and `make test` need Python 3.11 or newer, make and git; everything else goes into .venv.
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint check clean

demo: .venv/installed
	$(BIN)/fpsgan demo -o demo

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"fpsGAN needs Python 3.11 or newer, not {v.major}.{v.minor}; try make PYTHON=python3.12" if v < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv demo build dist *.egg-info
