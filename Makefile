# Everything runs in .venv; `make install` makes it and is what the other targets share. Idempotent: a second run does
# nothing. See CONTRIBUTING.md.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The system's own interpreter where it will do (3.11, venv): distributions build theirs with profiles, and keep it safe.
# One that was built without them is a tenth to a quarter slower on the core path. PYTHON=python3.12 chooses another.
SYSTEM_PYTHON ?= /usr/bin/python3
PYTHON ?= $(shell $(SYSTEM_PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    && echo $(SYSTEM_PYTHON) || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILED := $(VENV)/.compiled
PROFILE ?= dev
# processes that tests run in: two more than cores, because many tests wait for sockets and timers. JOBS=0: in this one
JOBS ?= $(shell echo $$(( $$(nproc) + 2 )))
# make fuzz: the seed is printed, so that a failure can be repeated with SEED=n
ifndef SEED
SEED := $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
endif
FUZZ_EXAMPLES ?= 5000
FUZZ_TESTS ?= tests/wire tests/core tests/vendors
# mutated MQTT packets; every fiftieth goes through sockets
MQTT_PACKETS ?= 1000000
# Bytecode is kept whatever the shell says: tests start hundreds of processes, and each would compile 400 files, which
# is half of what it costs to start one.
unexport PYTHONDONTWRITEBYTECODE
# make bench NAME=core
NAME ?= core

# make torture
ROUNDS ?= 50
QUEUED ?= 1000000
# of them, with one of two workers killed and the other going on
WORKER_ROUNDS ?= 20
# Kills of one of two workers with journals on the disk, of both, and of the gateway; and orderly ends.
JOURNAL_ROUNDS ?= 24
# and with stores on the disk: one worker killed, or all of them and another number started
STORES_ROUNDS ?= 12

.PHONY: help install demo test check format fuzz torture bench lock clean

help:  ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1@\2/' | column -t -s @

install: $(STAMP)  ## .venv with the locked dependencies and this project

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	    if [ "$$(id -u)" = 0 ]; then \
	        apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y python3-venv; \
	    else \
	        echo 'Python has no venv here. Install it, then run make again:' >&2; \
	        echo '    sudo apt-get install python3-venv' >&2; \
	        exit 1; \
	    fi; \
	fi
	@$(PYTHON) -m venv $(VENV)

# --no-build-isolation: setuptools comes from the lock file too, so a build fetches nothing that is not pinned
$(STAMP): requirements.lock pyproject.toml | $(VENV)/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install  ## simulators, gateway and devices; every message accounted for
	@$(BIN)/pushgw demo $(ARGS)

# Once, each file by one process: pytest's own form of a test costs more to make than most tests cost to run, and all
# processes of a first `make test` would make all of them. Later changes are few. A file that cannot be read is `make
# test`'s to report.
$(COMPILED): | $(STAMP)
	@$(BIN)/python -m compileall -q -j 0 gateway vendors bench || true
	@find tests -name 'test_*.py' | sort | awk -v n=$$(nproc) '{ pile[NR % n] = pile[NR % n] " " $$0 } END { for (at in pile) print pile[at] }' \
	    | xargs -P 0 -L 1 $(BIN)/python -m pytest --collect-only -qq >/dev/null 2>&1 || true
	@touch $@

test: install $(COMPILED)  ## all tests; PROFILE=ci looks longer
	@PROFILE=$(PROFILE) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

check: install  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install  ## what check wants of the layout
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

fuzz: install  ## property tests with FUZZ_EXAMPLES each and a printed SEED
	@echo "fuzz: SEED=$(SEED) FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(FUZZ_TESTS)"
	@PROFILE=fuzz FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest --hypothesis-seed=$(SEED) -n $(JOBS) --dist worksteal -m hypothesis $(FUZZ_TESTS) $(ARGS)
	@echo "fuzz: SEED=$(SEED) MQTT_PACKETS=$(MQTT_PACKETS) tests/actors/test_long_link_fuzz.py"
	@FUZZ_SEED=$(SEED) MQTT_PACKETS=$(MQTT_PACKETS) $(BIN)/python -m pytest tests/actors/test_long_link_fuzz.py $(ARGS)
	@echo "fuzz: passed, SEED=$(SEED) FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) MQTT_PACKETS=$(MQTT_PACKETS)"

torture: install  ## kill -9 under load: of the gateway ROUNDS times, of workers WORKER_ROUNDS and JOURNAL_ROUNDS times; what was found as JSON
	@report=$$(mktemp); first=0; second=0; trap 'rm -f "$$report"' EXIT; \
	TORTURE_ROUNDS=$(ROUNDS) TORTURE_QUEUED=$(QUEUED) TORTURE_WORKER_ROUNDS=$(WORKER_ROUNDS) \
	    TORTURE_JOURNAL_ROUNDS=$(JOURNAL_ROUNDS) TORTURE_REPORT="$$report" \
	    $(BIN)/python -m pytest -q tests/end_to_end/test_torture.py tests/end_to_end/test_torture_workers.py \
	    tests/end_to_end/test_torture_journals.py tests/test_app_journal.py $(ARGS) || first=$$?; \
	TORTURE_STORES_ROUNDS=$(STORES_ROUNDS) TORTURE_REPORT="$$report" PROFILE=ci \
	    $(BIN)/python -m pytest -q tests/end_to_end/test_stores_of_workers.py $(ARGS) || second=$$?; \
	cat "$$report"; exit $$((first | second))

bench: install  ## one benchmark, NAME=core
	@$(BIN)/python -m bench $(NAME) --json $(ARGS)

# The only target that chooses versions: newest that pyproject.toml allows, resolved in a venv of its own.
lock: $(VENV)/bin/python  ## new versions into requirements.lock
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder/venv"; \
	"$$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'setuptools>=77' '.[dev]'; \
	{ sed -n '/^#/p' requirements.lock; \
	  "$$folder/venv/bin/python" -m pip freeze --all --exclude pip --exclude wheel --exclude pushgw; \
	} > "$$folder/lock"; \
	cp "$$folder/lock" requirements.lock

clean:  ## removes .venv, caches and what was built
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
