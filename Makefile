# phiforge: every target sets up what it needs, from a clean clone, with only Python 3.11 or later and pip.
PYTHON ?= python3
VENV ?= .venv
# PyTorch's own CPU wheels are much smaller than the default Linux ones (which carry CUDA):
#   make quickstart TORCH_INDEX=<PyTorch's CPU wheel index>
TORCH_INDEX ?=
# What to train on (a file or folder); empty = the sources and documentation that come with Python.
SOURCE ?=
# Further settings: make quickstart SETTINGS="pretrain.train_seconds=30"
SETTINGS ?=
OUT ?= runs/quickstart
WORKERS ?= 2

BIN := $(VENV)/bin
TORCH := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),)

.PHONY: help quickstart install develop extras test test-slow lint types docs format clean

help:
	@echo "make quickstart   set up, train a first model, and meet it (about 8 minutes on 2 cores)"
	@echo "make install      set up $(VENV) with the tested versions"
	@echo "make test         set up for development and run the tests"
	@echo "make extras       install Ray and TRL too, so that their tests don't skip"
	@echo "make test-slow    the long tests: kill campaigns, fuzzing"
	@echo "make lint types   style and types"
	@echo "make docs         write docs/cli.md anew"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "phiforge needs Python 3.11 or later: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH) -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

install: $(VENV)/.base
	@echo "installed: $(BIN)/phiforge --help"

develop: $(VENV)/.dev

# Ray and TRL: large, and needed only by `--cluster` and by the trainers built on TRL's; their tests skip without them.
extras: $(VENV)/.dev
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[cluster,align]"

quickstart: $(VENV)/.base
	$(BIN)/phiforge quickstart $(SOURCE) $(SETTINGS) --out $(OUT)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python -m tests.documentation > docs/cli.md

clean:
	rm -rf $(VENV) build dist src/*.egg-info
