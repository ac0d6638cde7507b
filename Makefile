# Every target sets up what it needs: on a fresh machine `make run` or `make test` is enough.
#
#   make PYTHON=python3.12 run      another interpreter (3.11 or newer)
#   make run ARGS="--seeds 0-3"     arguments of the main job
#   make reproduce DATA=DIR         folder that holds the public logs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= ../shared/data
ARGS ?=
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/pytest -n 2 --dist loadfile
FAST := -m "not slow and not gpu"

# The version of pyright is pinned: no word about newer ones.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run test check lint docs bench reproduce clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

install: $(STAMP) ## create .venv and install the pinned packages and adsim (editable)

run: $(STAMP) ## run the main job (the ladder of estimates in `default`); ARGS="..." goes to `adsim run`
	@$(BIN)/adsim run $(ARGS)

test: lint ## lint, types and the whole test suite
	$(PYTEST)

check: lint ## lint, types and the fast tests
	$(PYTEST) $(FAST)

lint: $(STAMP) ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(STAMP) ## build the documentation as a site, site/index.html: no warnings, no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP) ## print the speed benchmark
	$(BIN)/adsim bench speed

reproduce: $(STAMP) ## regenerate the tables of the README; DATA=DIR holds the public logs
	$(BIN)/adsim run default --preset full
	$(BIN)/adsim run default --agent all
	$(BIN)/adsim replay ipinyou --data $(DATA)/ipinyou --campaign 2997
	$(BIN)/adsim bench speed

clean: ## remove caches and build outputs (results and .venv stay)
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name $(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# setuptools goes first, so that the pinned version builds the package too. torch is named with its
# exact version, so that the resolver takes the CPU build where one is offered.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -c 'import pip' 2>/dev/null || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo 'adsim needs Python 3.11 or newer: make PYTHON=python3.11 ...' >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear $(VENV); }
	@echo 'Installing into $(VENV) (a few minutes the first time) ...' >&2
	@$(PIP_INSTALL) setuptools
	@$(PIP_INSTALL) --no-build-isolation "$$(grep '^torch==' constraints.txt)" -e '.[dev]'
	@touch $@
