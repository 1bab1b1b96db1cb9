# Every target sets up what it needs: on a bare machine with Python 3.10-3.13, pip, git and make,
# `make demo` and `make test` work as they stand.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS ?= dev,joblib,slurm,supervision,simplify
# uv from the PATH, else one fetched into .uv/ (no root, no virtual environment needed)
UV     := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
# folders of local wheels known to pip are made known to uv as well
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: setup demo test test-all bench lint audit format tensorboard clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(VENV)/.ready  ## make .venv with everything in it

.uv/bin/uv:
	$(PYTHON) -m pip install --quiet --target .uv uv

$(VENV)/.ready: pyproject.toml constraints.txt | $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: setup  ## train, draw and export on the embedded data set (under 5 minutes on 2 cores)
	$(BIN)/python -m roiseg.train model=roialign loss=ce_dice

test: lint  ## lint, types, fast tests with coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal --cov --cov-report=term

test-all: setup  ## the slow tests; their coverage is added to that of `make test`
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n auto --dist worksteal --cov --cov-append --cov-report=term

bench: setup  ## all measurements of benchmarks/README.md (ROISEG_REALDATA=FOLDER)
	$(BIN)/python -m benchmarks

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: setup  ## ask for known vulnerabilities of every installed package (needs the network)
	$(UV) tool run pip-audit --progress-spinner off --path \
	  $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

format: setup  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tensorboard: setup  ## curves and overlays of every run, on localhost:6006
	$(BIN)/tensorboard --logdir outputs --host localhost

clean:  ## remove what runs made (keeps data and the environment)
	rm -rf outputs checkpoints .pytest_cache .mypy_cache .ruff_cache .coverage
