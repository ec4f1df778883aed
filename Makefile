# Every target sets up what it needs; once that is done, the check takes a few milliseconds.
SHELL := bash
.DEFAULT_GOAL := help

# Spark runs on the Java that set-up found, and its workers on this environment's Python; gRPC's channels die in silence.
unexport SPARK_HOME PYTHONPATH
# A process of the tests imports thousands of modules: compiled each time, that is half of what its start takes.
unexport PYTHONDONTWRITEBYTECODE
# The theme prints a red banner about another product, which reads like a failure.
export NO_MKDOCS_2_WARNING = 1
python = GRPC_VERBOSITY=ERROR JAVA_HOME="$$(cat .venv/java-home)" PYSPARK_PYTHON="$$PWD/.venv/bin/python" .venv/bin/python

# Two workers; a group of tests stays with one of them, and tests/conftest.py puts the longest first.
pytest = $(python) -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: set-up
set-up: ## make .venv with all packages, jars and Java (every other target does this first)
	@./set-up.sh

.PHONY: demo
demo: set-up ## the whole path of sample events on this machine (DEMO_HOURS=<n> for more hours, BROKER=kafka)
	@$(python) -m $(if $(filter kafka,$(BROKER)),tests.servers.kafka_demo,lakehouse.sandbox.demo)

.PHONY: fleet
fleet: set-up ## 300 topics in two applications: deployed, broken while events flow, replaced, and every event counted
	@$(python) -m lakehouse.sandbox.fleet

.PHONY: crash
crash: set-up ## die at every step and by random schedules, go on, and count what came out (CRASH="--help" for more)
	@$(python) -m lakehouse.crash $(CRASH)

.PHONY: sandbox
sandbox: set-up ## a Pub/Sub broker on this machine, until Ctrl-C
	@$(python) -m lakehouse.cli sandbox

.PHONY: services
services: set-up ## HDFS, Hive, Kafka, BigQuery and GCS on this machine, with their addresses, until services-stop
	@$(python) -m tests.servers start

.PHONY: services-stop
services-stop: set-up ## end what `make services` started
	@$(python) -m tests.servers stop

.PHONY: test
test: checks ## all checks of a change: format, lint, types, manual, and the tests that need no big download
	$(pytest) -m "not stores and not long"

.PHONY: test-fast
test-fast: set-up ## of the tests only those that take seconds and start no servers
	$(pytest) -m "not slow and not long and not services and not stores"

.PHONY: test-all
test-all: checks ## everything: with real HDFS and Hive, emulators of BigQuery and GCS (900 MB, once), long lives
	$(pytest)

.PHONY: test-stores
test-stores: set-up ## of these only the mirrors against real HDFS and Hive and emulators of BigQuery and GCS
	$(python) -m pytest -m stores

.PHONY: fuzz
fuzz: set-up ## decode generated payloads until one does harm (FUZZ="--seconds 3600 --first 1")
	$(python) -m tests.fuzz_decode $(FUZZ)

.PHONY: checks
checks: set-up ## format, lint rules, imports, types and the manual; two at a time
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target types lint docs-check

.PHONY: lint
lint: set-up ## format, lint rules and the contracts on imports, changing nothing
	$(python) -m ruff format --check
	$(python) -m ruff check
	.venv/bin/lint-imports

.PHONY: format
format: set-up ## put the code into the house format
	$(python) -m ruff check --fix
	$(python) -m ruff format

.PHONY: types
types: set-up ## mypy, strict
	$(python) -m mypy lakehouse jobs

bench-%: set-up ## measure: bench-ingest, bench-fleet, bench-seal, bench-validate, bench-mirror, bench-path, bench-store (each a file in bench/)
	@$(python) -m bench.$*

.PHONY: docs
docs: set-up ## write the manual's generated pages and build it into build/docs; any broken link is an error
	@$(python) -m docs.generate
	@$(python) -m mkdocs build --strict --quiet

.PHONY: docs-serve
docs-serve: set-up ## the manual at an address of this machine, built again at each change
	@$(python) -m docs.generate
	@$(python) -m mkdocs serve

.PHONY: docs-check
docs-check: set-up ## the manual as CI builds it: generated pages must be as the code says
	@$(python) -m docs.generate --check
	@$(python) -m mkdocs build --strict --quiet

.PHONY: screenshots
screenshots: set-up ## the manual's pictures of pages and commands, from the lake of `make demo` (needs Chromium)
	@$(python) -m docs.screenshots
	@$(python) -m docs.terminals

.PHONY: notebooks
notebooks: set-up ## run the notebooks on the lake of `make demo`, and keep what they show
	@$(python) -m docs.notebooks

.PHONY: constraints
constraints: set-up ## pin the newest versions that pyproject.toml allows into constraints.txt
	$(python) -m uv --system-certs pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-emit-index-url \
		--extra dev --group set-up pyproject.toml --output-file constraints.txt

.PHONY: clean
clean: ## remove what runs leave behind (build/)
	rm -rf build

.PHONY: dist-clean
dist-clean: clean ## remove the set-up, too
	rm -rf .venv *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
