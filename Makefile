# The only requirement is Python 3.11 or newer: every target makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
GPU_VENV ?= .venv-gpu
RUNTIME ?= cpu
GPU_RUNTIME ?= cuda
WORKERS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
SOURCES := $(wildcard renom_onnx tests examples benchmarks docs)

.DEFAULT_GOAL := help
.PHONY: help setup fmt demo test check bench docs gpu operators clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.dev  ## install the package and everything to develop it into .venv

fmt: $(VENV)/.dev  ## format the code and apply the safe fixes
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

demo: $(VENV)/.demo  ## train on the digits data set, export, and check the file in a stock onnxruntime
	$(BIN)/python -m examples.digits

test: $(VENV)/.test  ## run the tests and the doctests
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

check: $(VENV)/.dev  ## format, lint, types and import borders
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_borders.py

bench: $(VENV)/.bench .venv-ort-training/.installed  ## run the benchmarks: ARGS="lenet --rounds 3 --out FOLDER"
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.docs  ## build the documentation into docs/_build/html
	@test -f docs/conf.py || { echo "docs: docs/conf.py is missing, nothing to build."; exit 1; }
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

gpu: $(GPU_VENV)/.test-gpu  ## run the GPU tests (NVIDIA GPU; own environment .venv-gpu)
	$(GPU_VENV)/bin/python -m pytest -m gpu --require-gpu $(PYTEST_ARGS)

operators: $(VENV)/.test  ## write the table of operators and their gradients, docs/operators.md
	$(BIN)/python -m docs.operators

clean:  ## remove the environments, caches and builds
	rm -rf .venv .venv-gpu .venv-ort-training build dist *.egg-info docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find renom_onnx tests examples benchmarks docs -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/.demo $(VENV)/.test $(VENV)/.docs: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$(RUNTIME),plot,$*]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$(RUNTIME),plot,dev]"
	@touch $(VENV)/.demo $(VENV)/.test $@

$(VENV)/.bench: $(VENV)/.test pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[$(RUNTIME),plot,test,bench]"
	@touch $@

# The last onnxruntime that trained, as a peer; it needs another NumPy and has wheels for Python 3.8 to 3.11.
.venv-ort-training/.installed:
	$(PYTHON) -m venv .venv-ort-training
	-.venv-ort-training/bin/python -m pip install --quiet "onnxruntime-training-cpu==1.19.2" "onnx==1.16.2" "numpy<2" torch
	@touch $@

$(GPU_VENV)/.test-gpu: pyproject.toml | $(GPU_VENV)/bin/python
	$(GPU_VENV)/bin/python -m pip install --quiet --editable ".[$(GPU_RUNTIME),plot,test]"
	@touch $@

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "renom_onnx needs Python 3.11 or newer, got " + sys.version.split()[0] + ". Choose one: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $*
