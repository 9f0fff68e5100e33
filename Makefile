# Everything a checkout needs, on a machine with Python, git and make. Paths are relative: a checkout may lie anywhere.

PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

DATA_DIR ?= data
POLICIES ?= policies
PORT ?= 8420
PYTEST_ARGS ?=
BENCH_ARGS ?=

# pyright comes with its program and its Node.js in wheels; it is told to look nowhere else.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PYRIGHT_PYTHON_GLOBAL_NODE := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo up test chaos check bench lock clean
.DEFAULT_GOAL := install

install: $(INSTALLED)

$(INSTALLED): pyproject.toml sdk/pyproject.toml requirements.lock
	@command -v "$(PYTHON)" >/dev/null || { echo "make: $(PYTHON) is not installed; name a Python 3.11 or newer with PYTHON=…" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is `"$(PYTHON)" -V 2>&1`; Holdfast needs Python 3.11 or newer, named with PYTHON=…" >&2; exit 1; }
	@"$(PYTHON)" -m venv "$(VENV)" || { \
	  echo "make: $(PYTHON) cannot make a virtual environment; on Debian install python3-venv" >&2; exit 1; }
	"$(PY)" -m pip install --quiet --root-user-action=ignore "uv==$(UV_VERSION)"
	"$(PY)" -m uv pip install --quiet --python "$(PY)" --require-hashes -r requirements.lock
	"$(PY)" -m uv pip install --quiet --python "$(PY)" --no-deps --no-build-isolation -e sdk -e .
	@touch "$@"

demo: install
	"$(PY)" -P -m console.cli.main demo

up: install
	"$(PY)" -P -m console.cli.main up --data-dir "$(DATA_DIR)" --policies "$(POLICIES)" --port "$(PORT)"

# pytest's summary is the last line.
test: install
	@"$(PY)" -m pytest $(PYTEST_ARGS)

# Everything that injects faults, the long runs included. The marker given last counts.
chaos: install
	@"$(PY)" -m pytest tests/chaos -m "chaos or chaos_long" $(PYTEST_ARGS)

check: install
	"$(PY)" -m ruff check
	"$(PY)" -m ruff format --check
	"$(PY)" -m mypy
	"$(PY)" -m pyright
	"$(VENV)/bin/lint-imports"

bench: install
	"$(PY)" -m benchmarks $(BENCH_ARGS)

# The runtime lock holds the same versions as the development lock, without the tools.
lock: install
	"$(PY)" -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --no-emit-package holdfast --group dev pyproject.toml -o requirements.lock
	"$(PY)" -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --no-emit-package holdfast --constraints requirements.lock pyproject.toml -o requirements.runtime.lock

clean:
	rm -rf "$(VENV)" .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
