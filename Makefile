# Everything on a fresh machine with Python 3.11 or newer: `make quickstart`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-cluster check bench bench-sampling bench-stages bench-store bench-gradient bench-search bench-functions bench-beta bench-scaling results chaos same-bits clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "autonat needs Python 3.11 or newer; try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	touch $@

quickstart: $(VENV)/installed  ## the main job: a whole study on real digits
	$(BIN)/autonat quickstart

test: $(VENV)/installed  ## the whole test suite
	$(BIN)/python -m pytest -n auto --dist loadfile

test-cluster: $(VENV)/installed  ## whole studies on imitated Ray nodes
	$(BIN)/python -m pytest -m cluster

check: $(VENV)/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed  ## side-by-side measurements
	$(BIN)/python -m benchmarks.sampling
	$(BIN)/python -m benchmarks.frechet
	$(BIN)/python -m benchmarks.dashboard
	$(BIN)/python -m benchmarks.stages --size digits
	$(BIN)/python -m benchmarks.stages --size cifar_cpu

bench-sampling: $(VENV)/installed  ## tokens a second of the sampler against the plain rule
	$(BIN)/python -m benchmarks.sampling_networks

bench-stages: $(VENV)/installed  ## where a study's time goes, and how far each stage is from the machine's best
	$(BIN)/python -m benchmarks.stages --size digits
	$(BIN)/python -m benchmarks.stages --size cifar_cpu

bench-store: $(VENV)/installed  ## the driver's own time for a block, and queries beside 100,000 results, on both databases
	$(BIN)/python -m benchmarks.store

bench-gradient: $(VENV)/installed  ## one gradient by three estimators, and whether its errors hold
	$(BIN)/python -m benchmarks.gradient

bench-functions: $(VENV)/installed  ## the searches on noisy functions whose truth is known: three minutes on an idle core
	$(BIN)/python -m benchmarks.known_functions

bench-search: $(VENV)/installed  ## the schedule searches side by side; hours: narrow it down with ARGS="--seeds 0 --steps 4"
	$(BIN)/python -m benchmarks.search $(ARGS)

bench-beta: $(VENV)/installed  ## the Beta search against a grid of 16 trainings; hours, and goes on where it was cut off
	$(BIN)/python -m benchmarks.beta_grid $(ARGS)

results: $(VENV)/installed  ## the tables of docs/results.md: make results ARGS="cifar10_cpu --seeds 0 --front 2 3 6 8 12"
	$(BIN)/python -m benchmarks.results $(ARGS)

bench-scaling: $(VENV)/installed  ## sleeping tasks on 1 to 64 Ray workers; a million blocks on a virtual clock
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.virtual_clock

chaos: $(VENV)/installed  ## 50 faults: workers, nodes, the driver, the database and the disk die under small studies
	$(BIN)/python -m benchmarks.chaos

same-bits: $(VENV)/installed  ## one study in every way it can be run, and one number each
	$(BIN)/python -m benchmarks.same_bits

clean:
	rm -rf $(VENV)
