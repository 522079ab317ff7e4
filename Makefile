# `make demo` on a fresh machine with Python 3.12 or 3.13 is all there is to do.
.DEFAULT_GOAL := help
.PHONY: help demo setup test lint format reference clean

PYTHON ?= $(firstword $(foreach name,python3 python3.12 python3.13 python,$(shell command -v $(name) 2>/dev/null)))
BIN := .venv/bin
MINUTES ?= 5
WALL ?=
PYTEST_ARGS ?=

# A ROS installation that is sourced in this shell would be mixed with the wheels of .venv.
# PYTHONDONTWRITEBYTECODE would have every process compile torch anew.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH AMENT_PREFIX_PATH LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE RMW_IMPLEMENTATION

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo:  ## a simulated arm learns before your eyes (MINUTES=5, WALL=1 for the real rate)
	@$(PYTHON) tools/setup_env.py demo
	@exec $(BIN)/qcfql demo --minutes $(MINUTES) $(if $(filter-out 0,$(WALL)),--wall)

setup:  ## make .venv with all that the demo, the tests and the linters need
	@$(PYTHON) tools/setup_env.py test

test: setup  ## the tests (PYTEST_ARGS='-k name' for some)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup  ## format check, lint, types, reference page
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tools/write_reference.py --check

format: setup  ## write the format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

reference: setup  ## write docs/parameters.md from the declarations
	$(BIN)/python tools/write_reference.py

clean:  ## remove .venv and all that was built; runs/ stays
	rm -rf .venv .setup.lock build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
