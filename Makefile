# The commands of this project; `make help` lists them. Each installs the environment first. `bench` and `bench-plain`
# also need the outputs of `dvc repro`.
PYTHON ?= python3
BIN := .venv/bin
export DVC_NO_ANALYTICS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo check test fault-test repro bench bench-plain lint dvc-yaml lock readme-picture tour clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo
	@echo "  With the environment active (. $(BIN)/activate):"
	@echo "  dvc repro             Flickr8k: every stage, from the download to the report and the model card"
	@echo "  edit params.yaml, dvc repro       rerun the stages that depend on what was changed, and no other"
	@echo "  dvc metrics diff, dvc plots diff  compare with the last commit"
	@echo "  dvc exp run -S train.lr=0.001     an experiment; dvc exp show lists them, dvc exp diff compares"

setup: $(BIN)/.done ## make .venv and install into it

$(BIN)/.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; say which: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(BIN)/.done ## run the whole pipeline on the built-in dataset, in .demo
	$(BIN)/python -m demo.run

test: $(BIN)/.done ## run all tests, and list the lines and branches of src/ that they do not cover
	$(BIN)/python -m pytest --cov

KILLS ?= 50
SEED ?= 1
fault-test: $(BIN)/.done ## kill the pipeline at random moments, KILLS=50 times, and compare the results
	$(BIN)/python -m tests.pipeline.faults --kills $(KILLS) --seed $(SEED)

repro: $(BIN)/.done ## run the pipeline with params.yaml (by default on Flickr8k)
	$(BIN)/python -m dev.dvc_lock
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

bench: $(BIN)/.done ## measure speed against common alternatives, after repro; writes docs/performance.md
	$(BIN)/python -m benchmarks

bench-plain: $(BIN)/.done ## measure the pairs as on a plain CPU (AVX2, single precision)
	$(BIN)/python -m benchmarks --plain

check: lint ## check form and types, and run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not pipeline and not slow"

lint: $(BIN)/.done ## check form and types, and that the lists in dvc.yaml are current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m dev.dvc_yaml --check

dvc-yaml: $(BIN)/.done ## write the code and the params of every stage into dvc.yaml
	$(BIN)/python -m dev.dvc_yaml

lock: $(BIN)/.done ## write constraints.txt from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.10 --extra dev --no-annotate --no-header pyproject.toml --output-file .venv/constraints.txt
	(echo '# The versions this project is tested with, made by `make lock`; pip applies them as constraints.'; cat .venv/constraints.txt) > constraints.txt

readme-picture: demo ## copy the demo's sample picture into the docs
	cp .demo/pictures/samples.png docs/samples.png

tour: demo ## execute docs/tour.ipynb with the cached results of the demo and save its outputs
	rm -rf .tour
	$(BIN)/python -m dev.tour

clean: ## delete the workspaces of demo and tour and the resume states; keep data, models and DVC's cache
	rm -rf .demo .tour .resume
