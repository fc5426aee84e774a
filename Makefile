# One command each. Everything happens in .venv; nothing outside this folder is touched.
#
#   make setup    installs; again only when pyproject.toml or constraints.txt has changed
#   make demo     installs, then takes real digits through the whole chain
#   make quick    installs, then runs the tests that answer at once: all but whole runs, exports and training
#   make test     installs, then runs the whole test suite
#   make docs     installs, then builds the documentation: docs/_build/html/index.html
#   make emulated prepares 64-bit Arm under QEMU, and proves files on it; three minutes
#   make check    format, lint, types, direction of imports
#
# PYTHON      the interpreter that .venv is made from (3.11 or newer)
# TORCH_ARGS  further arguments of `pip install torch torchvision`, for example another package index; see README

PYTHON ?= python3
TORCH_ARGS ?=

BIN := .venv/bin
# Twice quiet: pip then prints errors only. What is being done is said by this file.
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup demo quick test emulated docs check

setup: .venv/installed

# torch first and alone, so that the second command finds it satisfied and never chooses another build of it.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is no Python 3.11 or newer; give another: make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make environments; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "setup: making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv
	@$(PIP) setuptools
	@echo "setup: installing torch and torchvision; a few minutes where they must be downloaded"
	@begun=$$(date +%s); $(PIP) torch torchvision $(TORCH_ARGS) \
		&& echo "setup: installed torch in $$(($$(date +%s) - begun)) s"
	@echo "setup: installing edge-compress and all that it needs"
	@begun=$$(date +%s); $(PIP) --no-build-isolation --editable '.[dev]' \
		&& echo "setup: installed the rest in $$(($$(date +%s) - begun)) s"
	@touch $@

demo: setup
	@$(BIN)/compress run recipes/digits.yaml

quick: setup
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

test: setup
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

docs: setup
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs: docs/_build/html/index.html"

# Not skipped where packages are out of reach: what it promises cannot then be told.
emulated: setup
	@$(BIN)/compress device prepare qemu:aarch64
	@$(BIN)/python -m pytest -k "aarch64 and another_architecture" tests/benchmarks/test_qemu.py

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
