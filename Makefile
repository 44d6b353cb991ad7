# Few verbs. `make env` is the first step of each of them, so a fresh clone needs nothing else.
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DEMO ?= demo-flights
UNTIL ?= 2013-12-31
export PY

.PHONY: help env demo test test-faults lint bench promised pins
.DEFAULT_GOAL := help

help:
	@echo 'make env          build $(VENV) from the pinned requirements'
	@echo 'make demo         nine months of real flights through the loop, faults and all, into ./$(DEMO)'
	@echo 'make test         the whole test suite'
	@echo 'make test-faults  faults at 200 points an operation and 40 power cuts (needs root for the cuts)'
	@echo 'make lint         ruff, mypy, the floors'
	@echo 'make bench        measure everything; document in bench/out'
	@echo 'make promised     measure again what has been promised so far'
	@echo 'make pins         renew the pinned requirements'

# Everything is pinned with hashes; what is built is built by pinned tools, without a look at the network.
# The demo needs a part of it only, so that a newcomer does not wait for the servers that the tests talk to.
$(VENV)/.demo: requirements/system.sh requirements/build.txt requirements/demo.txt pyproject.toml
	@sh requirements/system.sh
	@test -x $(BIN)/python || $(PY) -m venv $(VENV)
	@echo 'building $(VENV) from the pinned requirements (a minute or two)'
	@$(PIP) --require-hashes -r requirements/build.txt
	@$(PIP) --require-hashes --no-build-isolation --use-pep517 -r requirements/demo.txt
	@$(PIP) --no-index --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.made: $(VENV)/.demo requirements/dev.txt
	@sh requirements/system.sh tests
	@$(PIP) --require-hashes --no-build-isolation --use-pep517 -r requirements/dev.txt
	@touch $@

env: $(VENV)/.made

demo: $(VENV)/.demo
	$(BIN)/lw demo flights $(DEMO) --until $(UNTIL)

test: env
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-faults: env
	$(BIN)/python bench/ground.py --only faults,power --json bench/out/faults.json

lint: env
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: env
	$(BIN)/python bench/loop.py --json bench/out/loop.json
	$(BIN)/python bench/ground.py --json bench/out/ground.json
	$(BIN)/python bench/beside.py --json bench/out/beside.json

promised: env
	$(BIN)/python bench/loop.py --short --json bench/out/promised-loop.json
	$(BIN)/python bench/ground.py --short --json bench/out/promised-ground.json

pins:
	sh requirements/pin.sh
