# Everything is done in a virtual environment of its own, made on first use and kept up to date.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# What `pip install .` gives: compiled where there is a C compiler. AMQPD_COMPILE=0 does without.
COMPILED := build/compiled/.installed
SOURCES := $(shell find amqpd exchanges storage -name '*.py') hatch_build.py pyproject.toml
ifneq ($(AMQPD_COMPILE),0)
BUILT := $(COMPILED)
AS_BUILT := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/compiled:$(CURDIR)
JUDGED := --amqpd "env $(AS_BUILT) $(abspath $(BIN))/python -m amqpd"
endif
ARGS ?=
TESTS ?= tests

.PHONY: help run example several-brokers test test-compiled check lint types imports bench bench-flush bench-peers bench-curves sim sim-campaign kill-campaign compat compat-quick clean

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: $(INSTALLED) $(BUILT)  ## Start the broker: make run ARGS="--in-memory --listen 127.0.0.1:0"
	@$(AS_BUILT) exec $(BIN)/python -m amqpd serve $(ARGS)

example: $(INSTALLED)  ## Three brokers, federated: what arrives where
	@$(BIN)/python examples/three_brokers.py

several-brokers: $(INSTALLED)  ## Three amqpd and a RabbitMQ joined by links, in trouble: nothing is lost
	@$(BIN)/python -m pytest -q -rs -s tests/runtime/test_several_brokers.py $(ARGS)

test: $(INSTALLED)  ## Run the tests: make test TESTS=tests/broker ARGS="-k confirm"
	@$(BIN)/python -m pytest -n auto -q -rs $(TESTS) $(ARGS)

test-compiled: $(INSTALLED) $(BUILT)  ## The tests again, on the compiled build
	@[ "$(AMQPD_COMPILE)" != 0 ] || { echo "AMQPD_COMPILE=0: nothing is compiled"; exit 0; }; \
		ls build/compiled/*.so >/dev/null 2>&1 || { \
		command -v cc >/dev/null && { echo "the core did not compile: pip install . says why"; exit 1; }; \
		echo "no C compiler: nothing is compiled"; exit 0; }; \
		$(AS_BUILT) AMQPD_TEST_COMPILED=1 \
		$(BIN)/pytest -n auto -q --ignore=tests/compat --ignore=tests/simulation $(TESTS) $(ARGS)

check: lint types imports test test-compiled  ## What CI runs

lint: $(INSTALLED)  ## Style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(INSTALLED)  ## mypy, strict
	@$(BIN)/mypy

imports: $(INSTALLED)  ## The layers hold
	@$(BIN)/lint-imports

bench: $(INSTALLED) $(BUILT)  ## Measure: make bench ARGS="--quick --json figures.json"
	@$(AS_BUILT) $(BIN)/python -m tests.bench $(ARGS)

bench-flush: $(INSTALLED) $(BUILT)  ## The same where each flush takes MS milliseconds longer
	@$(AS_BUILT) $(BIN)/python -m tests.bench.slow_flush $(MS) $(ARGS)

bench-peers: $(INSTALLED) $(BUILT)  ## Beside RabbitMQ, in turns, with the goals: ARGS="--quick --json peers.json"
	@$(AS_BUILT) $(BIN)/python -m tests.bench --peers $(ARGS)

bench-curves: $(INSTALLED) $(BUILT)  ## Throughput against queue length, bindings, connections, queues, size: docs/curves
	@$(AS_BUILT) $(BIN)/python -m tests.bench.curves --write docs/curves $(ARGS)

sim: $(INSTALLED)  ## Simulate new seeds: make sim ARGS="--seconds 300", --seed 17 --trace, or --links
	@$(BIN)/python -m tests.simulation $(ARGS)

sim-campaign: $(INSTALLED)  ## Simulate until there were 1,000,000 power cuts
	@$(BIN)/python -m tests.simulation --cuts 1000000 $(ARGS)

kill-campaign: $(INSTALLED)  ## Kill a broker under load 1,000 times: ARGS="--kills 100"
	@$(BIN)/python -m tests.runtime.kill_campaign $(ARGS)

compat: $(INSTALLED) $(BUILT)  ## The clients' own test suites: make compat ARGS="go_amqp091"
	@$(BIN)/python -m compat.run $(JUDGED) $(ARGS)

compat-quick: $(INSTALLED) $(BUILT)  ## Those of them that take less than a minute
	@$(BIN)/python -m compat.run --quick $(JUDGED) $(ARGS)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "amqpd needs Python 3.11 or newer; say which with: make PYTHON=python3.12"; exit 1; }
	@echo "Installing what amqpd and its tests need into $(VENV), which takes a minute."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --editable . --group dev
	@# pip compiles what it installs, but not what it installs as editable: the first start would.
	@$(BIN)/python -m compileall -q amqpd exchanges storage
	@touch $@

$(COMPILED): $(INSTALLED) $(SOURCES)
	@echo "Compiling the core with mypyc, which takes a minute or two; AMQPD_COMPILE=0 make ... does without."
	@rm -rf build/compiled
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target build/compiled .
	@touch $@

clean:  ## Remove what was made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
