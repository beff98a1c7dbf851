# `make` or `make help` lists the targets. Every target that needs the environment sets it up first.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
JOBS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=
LOCK_ARGS ?=
FUZZ ?= 10000
SEED ?= $(shell date +%s)

# The environment is up to date when this file exists: it is named after what the environment is made from and where.
RECIPE := requirements.lock pyproject.toml scripts/common.sh scripts/setup.sh
STAMP := .venv/.stamp-$(shell { cat $(RECIPE) 2>&1; pwd -P; } | cksum | tr ' ' -)

.PHONY: help setup ros demo test test-fast fuzz coverage lint format docs pages lock build clean distclean FORCE

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
		while IFS=$$'\t' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done
	@echo 'Arguments: make test PYTEST_ARGS="tests/rise_env -k spaces" JOBS=4; make demo DEMO_ARGS="--json demo.json"'

setup: $(STAMP) ## make .venv with the locked packages and check off-screen rendering
	@scripts/setup_ros.sh --optional
	@echo 'ready: .venv/bin/rise'

# A stamp beside an interpreter that is gone counts for nothing.
$(STAMP): $(if $(shell test -x $(PYTHON) && echo ok),,FORCE)
	@scripts/setup.sh $@

FORCE:

ros: $(STAMP) ## unpack ROS 1 (rospy, master, roslaunch) below .venv, without root
	@scripts/setup_ros.sh

demo: $(STAMP) ## improve a policy in imagination and check it in the robot cell
	@.venv/bin/rise demo $(DEMO_ARGS)

test: lint ## check style and types, then run every test
	@scripts/setup_ros.sh --optional
	@$(PYTHON) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-fast: $(STAMP) ## run the tests that take seconds
	@scripts/setup_ros.sh --optional
	@$(PYTHON) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow" $(PYTEST_ARGS)

# The mutations are divided among the 54 tests of tests/fuzz.
fuzz: $(STAMP) ## try 10,000 mutations of data, checkpoints, presets and commands (FUZZ=1000 for fewer; SEED=...)
	@echo 'again with the same mutations: make fuzz FUZZ=$(FUZZ) SEED=$(SEED)'
	@RISE_FUZZ_EXAMPLES=$$(( ($(FUZZ) + 53) / 54 )) $(PYTHON) -m pytest -n $(JOBS) -o timeout=1200 -q \
		--hypothesis-seed=$(SEED) tests/fuzz $(PYTEST_ARGS)

coverage: $(STAMP) ## run every test and list the lines that none reaches
	@scripts/setup_ros.sh --optional
	@$(PYTHON) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --cov $(PYTEST_ARGS)

lint: $(STAMP) ## check style, formatting and types
	@status=0; \
	for check in "ruff check ." "ruff format --check ." "mypy"; do \
		echo "$$check"; $(PYTHON) -m $$check || status=1; \
	done; \
	exit $$status

format: $(STAMP) ## fix style and formatting where that is safe
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

docs: $(STAMP) ## build these pages as a site into build/docs; broken links fail
	@$(PYTHON) -m sphinx -W --keep-going -q -E -a -b html docs build/docs
	@echo 'open build/docs/index.html'

pages: $(STAMP) ## write the pages that are made from the code again
	@$(PYTHON) docs/write_pages.py

lock: ## resolve pyproject.toml into requirements.lock again (LOCK_ARGS=--upgrade for newer versions)
	@scripts/lock.sh $(LOCK_ARGS)

build: $(STAMP) ## build wheel and source distribution into dist/
	@$(PYTHON) -m hatchling build

clean: ## remove caches and builds
	@rm -rf build dist htmlcov .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environment as well
	@rm -rf .venv .cache
