# `make test` is all that a clean machine needs; .ci/run calls it.

PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python -m
RUNS   ?= 200
SEED   ?= 1000
MINUTES ?= 30
KILLS  ?= 300
SECONDS ?= 600
PYTEST_ARGS ?=
EXTRAS ?= dev

.PHONY: help install demo test unit versions lint format torture soak containers clean

help:
	@echo "make demo                 watch a live pair being backed up, destroyed and restored"
	@echo "make test                 check the code, run all tests against real servers"
	@echo "make unit                 only the tests that need no server"
	@echo "make versions             the integration tests on every supported server version"
	@echo "make lint                 ruff and mypy --strict"
	@echo "make torture RUNS=200     that many random scenarios (SEED=1000 is the first)"
	@echo "make soak MINUTES=30      backups under writers while servers are killed"
	@echo "make crash KILLS=300      backups and prunes killed and stopped at every store operation"
	@echo "make fuzz SECONDS=600     hostile repositories, found by coverage"
	@echo "make containers           the image, compose, and integration tests on servers in containers"

# Installed again when the dependencies change.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

install: $(VENV)/.installed

demo: install
	$(RUN) vbackup demo

test: lint
	$(RUN) pytest -m "not slow" $(PYTEST_ARGS)

unit: install
	$(RUN) pytest tests/unit $(PYTEST_ARGS)

lint: install
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: install
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# Every test that can run on each supported server version does.
versions: install
	VBACKUP_TEST_VERSIONS=all $(RUN) pytest tests/integration $(PYTEST_ARGS)

# A seed is printed with every failure; the same seed gives the same scenario.
torture: install
	SIMULATE=all $(RUN) pytest tests/unit/watermark $(PYTEST_ARGS)
	TORTURE_RUNS=$(RUNS) TORTURE_SEED=$(SEED) $(RUN) pytest tests/torture -m torture --timeout=0 $(PYTEST_ARGS)

soak: install
	SOAK_MINUTES=$(MINUTES) $(RUN) pytest tests/torture -k soak --timeout=0 $(PYTEST_ARGS)

# An engine of its own where podman is installed and we are root; see docs/development.md.
containers: install
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,deploy]'
	$(RUN) tests.containers.engine sh -c '$(RUN) tests.containers.images \
	    && VBACKUP_TEST_COMPOSE=1 $(RUN) pytest tests/containers tests/integration $(PYTEST_ARGS)'

# A backup, a prune and a reader killed or stopped at every store operation, and killed at KILLS
# random instants.
crash: install
	VBACKUP_KILLS=$(KILLS) $(RUN) pytest tests/torture/repository tests/unit/repository/test_crash.py \
	    --timeout=0 $(PYTEST_ARGS)

# Hostile repositories, found by coverage, under a limit of address space.
fuzz: install
	$(RUN) pip install --quiet --disable-pip-version-check atheris
	MALLOC_ARENA_MAX=2 $(RUN) tests.torture.repository.fuzzing atheris -max_total_time=$(SECONDS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
