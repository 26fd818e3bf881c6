# Python >= 3.11, make and a package index are all this needs.
#
#   TORCH_INDEX=URL   take torch (alone) from this index, for example PyTorch's CPU wheels. By default it
#                     comes from your usual index: on x86-64 that is the CUDA build, some GB large.
#   PYTHON=python3.x  the interpreter .venv is made from
#   INPUT=, TOKENIZER=  your own text and tokenizer for `make demo`

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stoker-setup
EXTRAS := pipelines,loaders,bench,test
# The first interpreter that is new enough and can make an environment.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
TORCH_INDEX ?=
export TORCH_INDEX

.PHONY: help setup setup-system peers demo test test-slow test-install format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo; sed -nE 's/^#   //p' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with everything in it (once; demo and tests call it)

$(STAMP): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "make setup: needs Python >= 3.11 with venv (Debian: python3-venv), or PYTHON=..." >&2; exit 1; }
	@[ -x $(BIN)/python ] || { echo "make setup: $(VENV) from $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
ifneq ($(TORCH_INDEX),)
	@echo "make setup: torch from $(TORCH_INDEX)"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps \
		--index-url "$(TORCH_INDEX)" --constraint constraints.txt torch
endif
	@echo "make setup: packages as pinned in constraints.txt: minutes the first time"
	@$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt \
		--editable '.[$(EXTRAS)]' | { grep --line-buffered -v '^Requirement already satisfied' || true; }
	@touch $@

setup-system:  ## Debian packages that a few tests need, where they are missing: a compiler for DeepSpeed on CPU, Chromium
	@{ command -v c++ && $(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'; } \
		> /dev/null 2>&1 \
		|| { apt-get update -qq && apt-get install --yes -qq --no-install-recommends g++ python3-dev; }
	@{ command -v chromium && command -v chromedriver; } > /dev/null 2>&1 \
		|| { apt-get update -qq && apt-get install --yes -qq --no-install-recommends chromium chromium-driver; }

# A venv for each, since their requirements exclude each other (numpy, transformers, xxhash). What
# can't be installed is named in .peers/NAME.failed, and the benchmark's table says so.
PEERS := datasets datatrove litdata mosaicml

peers:  ## venvs of the peers that benchmarks.tokenize, .load and .starvation run: 5 GB, minutes
	@mkdir -p .peers; for peer in $(PEERS); do \
		echo "make peers: $$peer"; rm -f .peers/$$peer.failed; \
		pip=".peers/$$peer/bin/python -m pip install --disable-pip-version-check --quiet"; \
		pins="benchmarks/peers/$$peer.txt"; \
		{ { [ -x .peers/$$peer/bin/python ] || $(PYTHON) -m venv .peers/$$peer; } \
		&& { [ -z "$(TORCH_INDEX)" ] || ! grep -q '^torch==' $$pins \
			|| $$pip --no-deps --index-url "$(TORCH_INDEX)" $$(grep -E '^torch(vision)?==' $$pins); } \
		&& $$pip --requirement $$pins; } 2> .peers/$$peer.log \
		|| { rm -rf .peers/$$peer; \
			{ grep -m 1 ERROR .peers/$$peer.log || echo "see .peers/$$peer.log"; } > .peers/$$peer.failed; \
			echo "make peers: $$peer: $$(cat .peers/$$peer.failed)" >&2; }; \
	done

demo: setup  ## tokenize real text, stream it, write demo/report.html (INPUT=, TOKENIZER= take your own)
	@$(BIN)/python -m benchmarks.demo $(if $(INPUT),--input '$(INPUT)') $(if $(TOKENIZER),--tokenizer '$(TOKENIZER)')

# Runs of their own, since Ray reads its authentication once in each process, and a process that has
# joined a Ray should not fork: the tests of the job give it a home of their own, those of the
# benchmarks run as a user would, all others know no Ray. Two processes each: much of a test is waiting.
TEST_RUNS := "--ignore=tests/pipelines --ignore=tests/benchmarks" tests/pipelines tests/benchmarks
PYTEST := $(BIN)/pytest -n 2 --dist worksteal

test: setup  ## lint, format check, types, tests: minutes
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	for run in $(TEST_RUNS); do $(PYTEST) -m "not slow" $$run; done

test-slow: setup  ## the tests that kill processes, install and drive frameworks
	for run in $(TEST_RUNS); do $(PYTEST) -m slow $$run; done

test-install: setup  ## each side installs alone into an empty venv and imports outside the repository
	$(BIN)/pytest -m slow tests/test_install.py

format: setup  ## apply ruff's fixes and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove what tests and demo made; keeps .venv
	rm -rf demo report build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
