# Every target sets up what it needs. After a clone, a machine with Python 3.10 to 3.13, pip, git and make can run
# `make demo` and `make test`. constraints.txt lists the versions that `setup` installs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal
EXTRAS ?= dev,joblib,slurm,supervision,simplify
# uv from the PATH, or installed into .uv/ (needs neither root nor a virtual environment)
UV     := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
# uv searches the same folders of local wheels as pip
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: setup demo test test-all coverage bench lint audit format tensorboard clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(VENV)/.ready  ## create .venv with all dependencies

.uv/bin/uv:
	$(PYTHON) -m pip install --quiet --target .uv uv

$(VENV)/.ready: pyproject.toml constraints.txt | $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: setup  ## train, draw overlays and export on synthetic people (under 5 minutes on 2 cores)
	$(BIN)/python -m roiseg.train model=roialign loss=ce_dice

test: lint  ## lint, types, fast tests
	$(PYTEST) -m "not slow"

test-all: setup  ## slow tests
	$(PYTEST) -m slow

coverage: setup  ## coverage of the fast tests, then of all tests
	$(PYTEST) -m "not slow" --cov --cov-report=term
	$(PYTEST) -m slow --cov --cov-append --cov-report=term

bench: setup  ## run the benchmarks of benchmarks/README.md (ROISEG_REALDATA=FOLDER)
	$(BIN)/python -m benchmarks

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: setup  ## check installed packages for known vulnerabilities (needs the network)
	$(UV) tool run pip-audit --progress-spinner off --path \
	  $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

format: setup  ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tensorboard: setup  ## show curves and overlays of all runs on localhost:6006
	$(BIN)/tensorboard --logdir outputs --host localhost

clean:  ## remove run outputs and tool caches (keeps data and the environment)
	find outputs checkpoints -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .coverage
