# make run | test | bench | lint: each sets up .venv first, and is quick the second time.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# A Python that other users can reach is wanted, since a service user runs it in the systemd tests.
PYTHON ?= $(shell test -x /usr/bin/python3 && echo /usr/bin/python3 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard native/*.c native/*.h client/simpler/include/*.h cffi_build/*.py)

.PHONY: run test bench lint format setup native install clean

run: setup
	$(BIN)/python examples/digits.py

# The tests mostly wait, so that two runs share the processors, and what computes runs beside them at the lowest priority.
# What a run in the background found is shown after the first. A shell has such a one ignore SIGINT, which env undoes.
SECOND := tests/attacks tests/cli tests/executor tests/faults tests/network tests/systemd
COMPUTING := tests/fuzz tests/install tests/native

test: setup
	@tests/systemd/setup.sh
	@tests/cli/setup.sh "$(VENV)"
	@tests/executor/setup.sh "$(VENV)"
	said="$$(mktemp -d)"
	trap 'kill $$(jobs -p) 2>/dev/null || true; rm -rf "$$said"' EXIT
	beside() { exec env --default-signal=INT,QUIT $(BIN)/pytest -p no:cacheprovider "$$@" 2>&1; }
	(beside $(SECOND)) >"$$said/second" & second=$$!
	(renice -n 19 $$BASHPID >/dev/null; beside $(COMPUTING)) >"$$said/computing" & computing=$$!
	failed=0
	$(BIN)/pytest $(SECOND:%=--ignore=%) $(COMPUTING:%=--ignore=%) || failed=$$?
	for run in second computing; do wait "$${!run}" || failed=$$?; cat "$$said/$$run"; done
	exit "$$failed"

bench: setup
	$(BIN)/python -m benchmarks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror native/*.c native/*.h client/simpler/include/*.h tests/native/*.c

format: setup
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .
	$(BIN)/clang-format -i native/*.c native/*.h client/simpler/include/*.h tests/native/*.c

setup: $(VENV)/.installed
	@$(MAKE) --no-print-directory --quiet native

$(VENV)/.installed: pyproject.toml
	@PYTHON="$(PYTHON)" ./cffi_build/setup.sh "$(VENV)"
	touch $@

# An editable install sees changes in Python at once; only changes in C need this.
native: $(VENV)/.native

$(VENV)/.native: $(NATIVE) | $(VENV)/.installed
	@echo "building simpler._native"
	build() { flock $(VENV)/.lock $(BIN)/python -c 'import setuptools; setuptools.setup()' -q build_ext --inplace; }
	build >$(VENV)/build.log 2>&1 || { cat $(VENV)/build.log >&2; exit 1; }
	touch $@

# Below DESTDIR when that is set, for packaging; PREFIX is /usr/local unless it is set. `simplerctl service install` is for
# whoever has the package in a Python of their own.
install: setup
	@PIP="$(BIN)/pip" PYTHON="$(PYTHON)" DESTDIR="$(DESTDIR)" PREFIX="$(or $(PREFIX),/usr/local)" ./cffi_build/install.sh

clean:
	rm -rf $(VENV) build dist out client/simpler/_native*.so client/*.egg-info *.egg-info
