# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# torch by name, in the same command as what depends on it: pip must not pick another build for it.
CORE := torch --editable ./agent --editable
STUDY_ARGS ?=
DEMO_ARGS ?=

.PHONY: help setup demo test lint format bench clean system-packages

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.core: pyproject.toml agent/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "edgehone needs Python 3.11 or newer; run: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up $(VENV) (torch and the runtimes; a minute or two the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(CORE) .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "adding what the tests need"
	@$(PIP) $(CORE) '.[dev]'
	@touch $@

setup: $(VENV)/.dev ## create .venv with everything

demo: $(VENV)/.core ## make a family of a network, publish it, serve it, change its world, and watch the fleet learn it
	@$(BIN)/edgehone optimize fashion-mnist --members 3 --max-drop 3pp --time 6min --output demo/study --resume $(STUDY_ARGS)
	@$(BIN)/python examples/edge/demo.py demo/study
	@$(BIN)/python examples/fleet/demo.py demo/study --output demo $(DEMO_ARGS)

test: $(VENV)/.dev system-packages ## run every test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(TEST_ARGS)

lint: $(VENV)/.dev ## check style, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev ## format the code
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev ## run the benchmarks that need no extra data; results go to benchmarks/results
	@$(BIN)/python benchmarks/conversion.py
	@$(BIN)/python benchmarks/latency_table.py
	@$(BIN)/python benchmarks/price_list.py
	@$(BIN)/python benchmarks/predict.py
	@$(BIN)/python benchmarks/serving.py
	@$(BIN)/python benchmarks/deltas.py
	@$(BIN)/python benchmarks/drift.py

# Debian packages that tests use; installed when we may, named when we may not.
system-packages:
	@for package in chromium dataset-fashion-mnist mosquitto postgresql strace; do \
	  command -v $$package >/dev/null && continue; \
	  test -d /usr/share/datasets/$${package#dataset-} && continue; \
	  test -d /usr/lib/$$package && continue; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing $$package for the tests"; \
	    apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$package >/dev/null && continue; \
	  fi; \
	  echo "package $$package is not installed: the tests that need it are skipped"; \
	done

clean: ## remove everything that was made
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis demo
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
