# Every target sets up what it needs; see scripts/setup.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test check format bench soak clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / - /'

demo: ## the whole protocol, step by step, against a real server on this machine
	@scripts/setup run
	@$(BIN)/dpop demo

test: ## all tests, those against real peers included
	@scripts/setup test
	$(BIN)/python -m pytest -n 2 $(ARGS)

check: ## lint and types
	@scripts/setup dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" pyright --verifytypes dpop --ignoreexternal

format: ## mend what can be mended
	@scripts/setup dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: ## benchmarks, as ratios against a baseline of the same run
	@scripts/setup test
	$(BIN)/python tests/benchmarks/bench.py $(ARGS)

soak: ## 100,000 requests; memory must stay flat
	@scripts/setup test
	$(BIN)/python tests/benchmarks/soak.py $(ARGS)

clean: ## remove everything that setup made
	rm -rf .venv .ci/venvs dist build tests/interop/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
