# Everything runs inside .venv, which `make install` builds from the hash-locked requirements.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WORKERS ?= auto
# Otherwise each of the many processes that tests start would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE
SOURCES := service tests benchmarks examples protos docs deploy

.DEFAULT_GOAL := help
.PHONY: help install run demo test soak check lint types imports generated generate format lock torture postgresql-torture cluster-torture replicas skew trace clocks partitions reloads abuse migrations bench polling-day browser console clients proxies stops interop deploy-check alerts dashboard rolling image clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-19s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with everything in it

$(STAMP): requirements/dev.txt requirements/example.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("JobStatus needs Python 3.11 or newer; `make PYTHON=python3.11 …` names another one" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/example.txt 2>$(VENV)/example.log \
		|| echo "PocketSphinx could not be installed ($(VENV)/example.log says why): the example worker will measure recordings instead of transcribing them."
	@touch $@

run: install ## serve in development mode until Ctrl-C
	@exec $(BIN)/jobstatus serve --dev

demo: install ## the whole path once: serve, transcribe a recording, poll until 200
	@exec $(BIN)/python examples/demo.py

test: install ## every test, in as many processes as the machine has room for (WORKERS=0: in one)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup

soak: install ## what takes minutes: faults under load, the benchmarks' runs, more examples of the properties
	$(BIN)/python -m pytest -o faulthandler_timeout=0 --durations 10 tests/soak
	HYPOTHESIS_PROFILE=ci $(BIN)/python -m pytest -o faulthandler_timeout=0 --numprocesses $(WORKERS) --dist loadgroup -m hypothesis

check: lint types imports generated test ## lint, types, imports, drift of generated files, tests

lint: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/codespell $(SOURCES) README.md CHANGELOG.md CONTRIBUTING.md
	$(BIN)/buf lint protos
	$(BIN)/buf format --diff --exit-code protos

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

generate: install ## regenerate what is made from protos/ and docs/openapi.yaml
	$(BIN)/python protos/generate.py
	$(BIN)/python docs/openapi.py

generated: install
	$(BIN)/python protos/generate.py --check
	$(BIN)/python docs/openapi.py --check

format: install ## format the code and the protos
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/buf format --write protos

lock: ## lock the requirements anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-strip-extras \
		--all-extras pyproject.toml -o requirements/runtime.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-strip-extras \
		--all-extras --group pyproject.toml:dev pyproject.toml -o requirements/dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-strip-extras \
		--constraint requirements/dev.txt --group pyproject.toml:example -o requirements/example.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-strip-extras \
		--constraint requirements/dev.txt --group pyproject.toml:build -o requirements/build.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-strip-extras \
		deploy/tools/requirements.in -o deploy/tools/requirements.txt

torture: install ## kill the service 20 times under load and look for a lost write (minutes)
	$(BIN)/python tests/soak/torture.py --writers 500 --jobs 20000 --kills 20

postgresql-torture: install ## restart, crash and replace a PostgreSQL primary under load and look for a lost write (minutes)
	$(BIN)/python tests/soak/postgresql_torture.py --rounds 3

cluster-torture: install ## kill a primary of a cluster 20 times under load and look for a lost write (minutes)
	$(BIN)/python tests/soak/cluster_torture.py --runs 20

replicas: install ## two services on each shared store under load: does anybody read what is older than acknowledged?
	$(BIN)/python tests/soak/replicas.py

skew: install ## an earlier build (AGAINST=its checkout, installed) and this one upon one store: is anything lost, wrong or refused?
	$(BIN)/python tests/soak/version_skew.py --against $(AGAINST)

clocks: install ## clocks that differ, a clock that steps, processes that stand still: does a live worker lose its job? (minutes)
	$(BIN)/python tests/soak/clocks.py

trace: install ## one job from its submission to its delivery, as a receiver of OpenTelemetry's traces sees it
	@exec $(BIN)/python tests/soak/trace.py

partitions: install ## networks that fall silent under load: who waits how long, is anything lost, does it heal? (minutes)
	$(BIN)/python tests/soak/partitions.py

outages: install ## fill each store, take its writes, freeze it: what probes say, and whether a poll is lost (two minutes)
	$(BIN)/python tests/soak/outages.py

reloads: install ## SIGHUP under load: how soon are a new certificate and a new secret in use, and does a call fail?
	$(BIN)/python tests/soak/reloads.py

abuse: install ## floods, slow readers, crowds of waiters, costly results: what do they cost the others? (half an hour; ABUSE=--help tells more)
	$(BIN)/python tests/soak/abuse.py $(ABUSE)

migrations: install ## 200,000 jobs through all stores and back: does any poll notice?
	$(BIN)/python tests/soak/migrations.py

bench: install ## measure polls, writes, waiting and growth beside their references (BENCH=--help tells more)
	@exec $(BIN)/python -m benchmarks $(BENCH)

polling-day: install ## a simulated day: the polls that a learned Retry-After saves, and how late the news comes
	$(BIN)/python benchmarks/polling_day.py

browser: install ## pages in headless Chromium poll, wait and follow, from other origins too (needs Chromium and ChromeDriver)
	$(BIN)/python tests/soak/browser_stream.py

proxies: install ## waits, events, large results, gRPC and a stop through each proxy of docs/proxies that is installed (minutes)
	$(BIN)/python tests/soak/proxies.py

stops: install ## stop one of two replicas amid writes that are never tried again, directly, through HAProxy and through nginx: is any lost?
	$(BIN)/python tests/soak/stops.py

console: install ## the console in headless Chromium: steps, strangers, policy, axe, a dead fleet, a killed process (needs Chromium, ChromeDriver, npm; CONSOLE=--help)
	$(BIN)/python tests/soak/console_page.py $(CONSOLE)

clients: install ## clients that eight generators make of /openapi.json poll a running service (needs Java, Maven, Go, Node.js)
	$(BIN)/python tests/soak/generated_clients.py $(CLIENTS)

interop: install ## workers in six languages through all that can happen to a job (needs their tools; minutes)
	$(BIN)/python tests/soak/interop.py $(INTEROP)

deploy-check: install ## render and validate deploy/ with the field's own tools, which it installs into deploy/tools/bin (needs Go)
	$(BIN)/python deploy/check.py

alerts: install ## make each alert fire by a real fault, in a real Prometheus (a quarter of an hour; after deploy-check)
	$(BIN)/python tests/soak/alerts.py

dashboard: install ## draw the Grafana dashboard of two replicas under load into docs/dashboard.png (after deploy-check)
	$(BIN)/python tests/soak/dashboard.py

rolling: install ## restart two replicas behind HAProxy and nginx with the chart's times, amid polls and writes: is any lost?
	$(BIN)/python tests/soak/rolling.py $(ROLLING)

image: install ## the Containerfile's steps in an empty root, and its service read-only as a nameless user (needs root, debootstrap)
	$(BIN)/python tests/soak/image.py

clean: ## remove .venv and what runs leave behind
	rm -rf $(VENV) var deploy/tools/bin deploy/tools/python .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
