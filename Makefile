# `make demo` and `make test` are all a new user needs; both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINUTES ?= 30

.DEFAULT_GOAL := help
.PHONY: help setup demo up test lint bench bench-engine chaos

help: ## lists what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## creates .venv with everything in it

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Baton needs Python 3.11 or newer; name one: make PYTHON=python3.12 " + "setup")'
	@echo "Setting up $(VENV): about 2 GB, a few minutes the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[engine,local-triton,dev]'
	@touch $@

demo: setup ## the whole story on this machine, in minutes: real Triton, real traffic
	@$(BIN)/python -m demo.story

up: setup ## starts Triton and the control plane on the demo checkpoints
	@$(BIN)/python -m demo.up

test: setup ## all tests, real Triton included
	@$(BIN)/python -m pytest

lint: setup ## static checks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup ## rollouts, measured: step by step, against four other ways to update, and what a split costs
	@$(BIN)/python -m demo.bench

bench-engine: setup ## the engine, measured: against one pair at a time, behind Triton, and on a GPU where there is one
	@$(BIN)/python -m demo.bench_engine

chaos: setup ## faults on a real Triton and a real control plane under load for MINUTES=30, then a third of that in simulation
	@$(BIN)/python -m demo.chaos --minutes $(MINUTES)
	@$(BIN)/python -m tests.simulation --processes $$(nproc) --minutes $$(( ($(MINUTES) + 2) / 3 ))
