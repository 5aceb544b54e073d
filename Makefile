# `make help` lists the verbs. PYTHON chooses the interpreter (3.11 to 3.14), VENV the virtual environment.
PYTHON ?= python3
VENV ?= .venv
# Recorded requests for the demo's engines: those that lie beside the checkout, or another file.
REQUESTS ?= $(wildcard ../shared/data/azure_llm_conv_2023.csv)
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock

.DEFAULT_GOAL := help
.PHONY: help demo docs up install test lint format lock screenshots bench clean

help: ## List the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(VENV)/.all ## Run everything here with a simulated fleet: the README's first command
	$(BIN)/gigawatch up --demo $(REQUESTS:%=--requests %)

up: $(VENV)/.all ## Run everything here on this machine's own GPUs
	$(BIN)/gigawatch up

install: $(VENV)/.dev ## Make the virtual environment for development

test: $(VENV)/.dev ## Run all tests: the README's second command
	tests/install-system-packages
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev ## Check style, types (of tests and benches, too) and the rooms' imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.dev ## Look for newer versions of the dependencies and lock them
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --all-extras \
	    --no-header --no-annotate --no-emit-package gigawatch --output-file requirements.lock pyproject.toml

docs: $(VENV)/.dev ## Write the generated parts of the documentation
	$(BIN)/python -m docs.generate

screenshots: $(VENV)/.dev ## Take the pictures of the README from a running demo
	$(BIN)/python docs/images/take.py

bench: $(VENV)/.dev ## Measure against limits and peers; an hour and a half, 40 GB of disk
	$(BIN)/python -m bench.agent
	$(BIN)/python -m bench.wire
	bench/install-victoria-metrics
	$(BIN)/python -m bench.ingest
	$(BIN)/python -m bench.rollup
	$(BIN)/python -m bench.queries
	$(BIN)/python -m bench.gigawatt
	$(BIN)/python -m bench.facility
	$(BIN)/python -m bench.alerts

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 15) else "Gigawatch needs Python 3.11 to 3.14; name one with PYTHON=…")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.all: $(VENV)/bin/python pyproject.toml requirements.lock
	$(INSTALL) '.[all]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml requirements.lock
	$(INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.all
