# `make demo` and `make test` need nothing but Python 3.11 or later: the first of them sets up .venv by itself.
# Another interpreter: make venv PYTHON=python3.12 (a .venv of another version is replaced). Later calls keep to .venv's own.

PYTHON ?= $(if $(realpath .venv/bin/python),.venv/bin/python,python3)
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n > 8 ? 8 : n)))

VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
STAMP := $(VENV)/.ready-$(or $(VERSION),none)
DEMO_STAMP := $(VENV)/.demo-ready-$(or $(VERSION),none)
# One thread a worker: workers that each start a thread per core spend their time waiting for one another.
PYTEST := OMP_NUM_THREADS=1 MPLBACKEND=agg WANDB_SILENT=true $(BIN)/python -m pytest -q -n $(WORKERS)
DOCS := build/docs
LOWEST := .venv-lowest
LOWEST_VERSIONS := torch==2.8.0 torchvision==0.23.0 timm==1.0.24 numpy==1.26.4
LOWEST_TESTS := $(addprefix tests/activations/test_, activation.py curve.py exact.py facts.py gains.py genotype.py ops.py) \
	$(addprefix tests/models/test_, create.py functional.py hooks.py models.py shelf.py timm_names.py) \
	$(addprefix tests/search/test_, cell.py finish.py guard.py search.py shrink.py table.py) tests/zoo

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-lowest lint fmt docs dist venv clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP)) ## a small search on the embedded digits, from start to a model that uses what it found
	@$(BIN)/python tools/demo.py

test: lint ## lint, types and the quick tests
	@$(PYTEST) -m "not slow"

test-all: lint ## the same with the slow tests
	@$(PYTEST)

lint: $(STAMP) ## ruff, mypy and the direction of imports
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo 'not formatted: run make fmt' >&2; exit 1; }
	@$(BIN)/mypy
	@said=$$($(BIN)/lint-imports --no-cache --no-logo) || { echo "$$said" >&2; exit 1; }

fmt: $(STAMP) ## format the code and sort imports
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

docs: $(STAMP) ## the documentation site, in build/docs; open its index.html
	@NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir $(abspath $(DOCS))

dist: $(STAMP) ## sdist and wheel in dist/, their metadata checked
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation . > /dev/null
	@$(BIN)/python -m twine check --strict dist/*

# Each of these files runs without the optional libraries. Left out is what docs/install.md says of older versions.
test-lowest: ## the quick tests of the functions and models with the lowest supported versions, in .venv-lowest
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	@$(LOWEST)/bin/python -m pip install -qq --disable-pip-version-check -e . pytest $(LOWEST_VERSIONS)
	@OMP_NUM_THREADS=1 MPLBACKEND=agg $(LOWEST)/bin/python -m pytest -q -m "not slow" -k "not comes_back and not stays_compiled" $(LOWEST_TESTS)

venv: $(STAMP) ## set up .venv, or bring it up to date

clean: ## remove .venv and every cache; runs/ stays
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	@find grafs_timm tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# The demo needs no extra (Ray, transformers, ONNX, test tools). What is not imported is not compiled to bytecode.
$(STAMP): EXTRAS := [dev]
$(DEMO_STAMP): PIP := --no-compile
$(STAMP) $(DEMO_STAMP): pyproject.toml constraints.txt tools/mend_torchvision.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is missing or older than 3.11; name another: make venv PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up $(VENV) with Python $(VERSION): $(if $(EXTRAS),a few minutes,a minute or two) the first time"
	@test -x $(BIN)/python && $(BIN)/python -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(VERSION)")' \
		|| $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP) -c constraints.txt -e '.$(EXTRAS)'
	@$(BIN)/python tools/mend_torchvision.py
	@touch $@
