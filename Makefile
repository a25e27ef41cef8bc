# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs; see scripts/setup, which also reads PYTHON and VENV.
SHELL := /bin/bash
VENV ?= .venv
export VENV
PYTEST ?= python -m pytest
RUN := PATH="$(abspath $(VENV))/bin:$$PATH"

.PHONY: help demo test check fresh platforms lowest format lock site links reproducible installs api vectors bench bench-hardware soak storm load crash model fuzz fuzz-targets browser conformance mutate coverage clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## / - /'

demo: ## the whole protocol, step by step, against a real server on this machine
	@scripts/setup run
	@$(RUN) dpop demo

test: ## all tests, those against real peers included
	@scripts/setup test
	$(RUN) $(PYTEST) -n 2 $(ARGS)

check: ## lint and types
	@scripts/setup dev
	$(RUN) python scripts/generate_twins.py --check
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) zizmor --offline --quiet .github
	$(RUN) mypy
	$(RUN) mypy tests/typing
	$(RUN) pyright tests/typing
	$(RUN) pyright --verifytypes dpop --ignoreexternal

fresh: ## make demo and make test on a fresh Debian: make fresh SUITE=trixie ARGS=--user
	@scripts/fresh $(ARGS) $(or $(SUITE),trixie)

platforms: ## every row of docs/platforms.md, or: make platforms ARGS="'Debian 13'"; an hour and a half in all
	@python3 scripts/platforms.py $(ARGS)

lowest: ## tests of the integrations with the lowest versions that pyproject.toml allows
	@scripts/setup test
	$(RUN) python -m pip install -q --group versions
	$(RUN) python -m venv --clear .ci/venvs/lowest
	$(RUN) uv pip install -q --python .ci/venvs/lowest/bin/python --resolution lowest-direct -e '.[all]' --group test
	ln -sfn $(abspath $(VENV))/urllib3-future $(abspath $(VENV))/unpacked .ci/venvs/lowest/
	PATH="$(abspath .ci/venvs/lowest)/bin:$(abspath $(VENV))/bin:$$PATH" $(PYTEST) -n 2 tests/adapters tests/frameworks \
	  tests/keys/kms tests/redis tests/google tests/mcp tests/test_keyring.py tests/cli/test_main.py tests/cli/commands/test_completion.py

format: ## mend what can be mended
	@scripts/setup dev
	$(RUN) python scripts/generate_twins.py
	$(RUN) ruff check --fix
	$(RUN) ruff format

lock: ## find the newest versions of all that tests and tools need, for every Python; writes constraints.txt
	@scripts/setup run
	$(RUN) python -m pip install -q --group versions
	$(RUN) uv pip compile -q --universal --python-version 3.11 --all-extras --group dev --group bench --group site --upgrade \
	  --no-emit-index-url --no-annotate --no-header --output-file constraints.new pyproject.toml
	@{ echo "# Versions that tests and tools run with, on every Python; written by: make lock"; cat constraints.new; } >constraints.txt
	@rm constraints.new

site: ## the documentation as a site in .site/html; fails at a warning or a link that leads nowhere
	@scripts/setup dev
	$(RUN) python -m pip install -q -c constraints.txt --group site
	$(RUN) python docs/site $(ARGS)

links: ## try each link of the documentation that leads to another site
	@$(MAKE) --no-print-directory site ARGS=--external

reproducible: ## the wheel and the source archive in dist/, built twice; fails if the bytes differ
	@scripts/setup dev
	@rm -rf dist && mkdir -p dist
	@again=$$(mktemp -d) && trap 'rm -rf "$$again"' EXIT && \
	  export SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 1577836800) && \
	  $(RUN) python -m build -q --outdir dist && $(RUN) python -m build -q --outdir "$$again" && \
	  (cd dist && sha256sum *) && diff <(cd dist && sha256sum *) <(cd "$$again" && sha256sum *)

installs: ## the package as people install it: wheel, editable, pipx, uv, zipapp, one bundled program, read-only, unknown user
	@scripts/setup dev
	@$(RUN) scripts/installs

api: ## write the public interface to docs/public-api.txt, after a change that the changelog names
	@scripts/setup run
	$(RUN) python -m pip install -q -c constraints.txt -e '.[all]'
	$(RUN) python tests/support/public_api.py

vectors: ## write the vectors anew, byte for byte as before
	@scripts/setup test
	$(RUN) python vectors/generate.py

bench: ## the toolkit beside other libraries and the physical limit; writes docs/benchmarks, in half an hour
	@scripts/setup test
	$(RUN) python -m pip install -q --group bench
	$(RUN) python tests/benchmarks $(or $(ARGS),--out docs/benchmarks)

bench-hardware: ## of these the row of keys in SoftHSM and a TPM in software
	@scripts/setup test
	$(RUN) python tests/benchmarks --only hardware $(ARGS)

soak: ## 100,000 requests; memory must stay flat
	@scripts/setup test
	$(RUN) python tests/benchmarks/soak.py $(ARGS)

storm: ## processes and threads on expired tokens at oidc-provider: one refresh for each expiry
	@scripts/setup test
	$(RUN) python tests/benchmarks/storm.py $(ARGS)

load: ## the whole chain for 15 minutes: 4 client processes, 4 API workers, Redis, tokens that live for 10 s
	@scripts/setup test
	$(RUN) python tests/benchmarks/load.py $(ARGS)

crash: ## kill -9 at random moments of 500 refreshes; nothing that was handed out may be lost
	@scripts/setup test
	$(RUN) python tests/benchmarks/crash.py $(ARGS)

model: ## an hour of kills, freezes, clocks and lies: no grant is lost that nobody says is lost
	@scripts/setup test
	$(RUN) python tests/benchmarks/grant_model.py $(ARGS)

browser: ## the tests in a real browser: a page reads the refusals of an API, and the playground
	@scripts/setup test
	$(RUN) python -m pytest -q tests/browser

coverage: ## all tests, and which lines of the package none of them runs
	@scripts/setup test
	$(RUN) python -m pytest -n 2 --cov=dpop --cov=dpop_cli --cov-report=term-missing:skip-covered $(ARGS)

conformance: ## the DPoP scenarios of the Model Context Protocol's own suite; brings Node.js 22 if there is none, 240 MB
	@scripts/setup test
	$(RUN) python tests/mcp/conformance.py

mutate: ## change the code in 800 places, one at a time, and see whether a test notices; an hour
	@scripts/setup test
	$(RUN) python tests/mutation/mutate.py $(ARGS)

fuzz: ## fuzz what strangers send, as long as told: make fuzz ARGS="--seconds 600 proof"
	@scripts/setup test
	$(RUN) python -m pip install -q --group fuzz
	$(RUN) python tests/fuzz/fuzz.py $(ARGS)

fuzz-targets: ## look for request-targets that are read in two ways: make fuzz-targets ARGS="--seconds 600 waitress"
	@scripts/setup test
	$(RUN) python tests/fuzz/request_targets.py $(ARGS)

clean: ## remove everything that setup made
	rm -rf .venv .bench .site .ci/venvs dist build tests/interop/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/fuzz/broken
