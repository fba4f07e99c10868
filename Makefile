# `make demo` and `make test` need Python 3.11 or newer and a package index; they make .venv and reuse it.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt
INSTALL_KEY := setup.cfg constraints.txt

.PHONY: demo test lint docs clean

# Quantize a network that comes with its weights, to 8 bits, without any data.
demo: $(VENV)/.demo
	$(BIN)/ptq quantize --model efficientnet_lite0 --bits 8 --preset fast --out runs/demo

test: lint
	$(BIN)/pytest -m 'not timed' -n auto --maxprocesses 8 --dist loadscope
	$(BIN)/pytest -m timed

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in site/index.html; the tests build it, too.
docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

# A stamp for each set of extras, renewed when what to install changes.
$(VENV)/.demo: $(INSTALL_KEY) | $(BIN)/python
	$(PIP) -e '.[zoo,report]'
	@touch $@

$(VENV)/.test: $(INSTALL_KEY) | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed; say which: make PYTHON=...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
