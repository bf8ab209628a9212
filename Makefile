# Everything happens in .venv, which is made and filled on first use.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-all docs bench bench-gpu kills soak lint format clean

help: ## list the targets
	@grep -E '^[a-z.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z.-]+):.*## /make \1\t/' | expand -t 16

demo: .venv/core ## train and evaluate a policy on the bundled data, into runs/demo-fast
	$(BIN)/tiltrl run demo

test: .venv/dev ## run the tests
	$(BIN)/pytest

test-all: .venv/dev ## run the slow ones too: every fault of every write, measurements, long fits
	$(BIN)/pytest -m ""

docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv/dev ## build the manual into site/; a warning is an error, and nothing is downloaded
	$(BIN)/mkdocs build --strict

bench: .venv/torch ## rates on this machine and beside PyTorch, into benchmarks/results/cpu (half an hour; keep it quiet)
	$(BIN)/tiltrl bench --out benchmarks/results/cpu/bench.json
	$(BIN)/python benchmarks/torch_reference.py --preset paper --out benchmarks/results/cpu/torch-paper.json
	$(BIN)/python benchmarks/torch_reference.py --preset fast --out benchmarks/results/cpu/torch-fast.json

bench-gpu: export JAX_PLATFORMS = cuda
bench-gpu: .venv/gpu ## the same on a GPU, and the paper preset as a whole, into benchmarks/results/gpu
	$(BIN)/tiltrl bench --out benchmarks/results/gpu/bench.json
	$(BIN)/python benchmarks/torch_reference.py --device cuda --preset paper --out benchmarks/results/gpu/torch-paper.json
	$(BIN)/python benchmarks/torch_reference.py --device cuda --preset fast --out benchmarks/results/gpu/torch-fast.json
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/whole_run.py --preset paper --out benchmarks/results/gpu/paper-run.json

kills: .venv/dev ## kill and resume commands 200 times and compare bit by bit (about half an hour); goes on where it was
	$(BIN)/python tests/faults/kills.py --kills 200 --workers 2 --out runs/kills --results benchmarks/results/kills.md

soak: .venv/dev ## two hours of small runs in one process: memory, open files and threads, into runs/soak
	$(BIN)/python tests/faults/soak.py --hours 2 --out runs/soak

lint: .venv/dev ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: .venv/dev ## repair style and formatting where that is safe
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove the environment, caches and builds; runs/ stays
	rm -rf .venv build dist site .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Each file says that its packages are installed.
.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable .
	touch $@

.venv/dev: .venv/core
	$(INSTALL) --editable '.[dev]'
	touch $@

.venv/torch: .venv/core
	$(INSTALL) --editable '.[torch]'
	touch $@

.venv/gpu: .venv/torch
	$(INSTALL) --editable '.[gpu,torch]'
	touch $@
