# From a fresh clone to a trained agent:  make sim-train      Everything else:  make help
#
# PYTHON=…  interpreter for the virtual environment, 3.10 or 3.11 (PyBullet has no wheels for newer ones)
# SEED=…    seed of `make sim-train`, `make cell-check` and `make bench`
# PARTS="…"  what `make cell-check` checks or `make bench` measures
# ARGS="…"  any further options of `vlm-agent train`, `cell-check`, `bench` or of pytest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup sim-train cell-check bench test lint sft clean

supported := import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.11 python3.10; do $$p -c '$(supported)' 2>/dev/null && command -v $$p && break; done)
endif
VENV := .venv
BIN := $(VENV)/bin
# The set-up is done when the stamp of exactly these files and this interpreter exists.
key := $(shell { cat setup.py pyproject.toml constraints.txt; $(or $(PYTHON),false) -V; pwd; } 2>&1 | sha256sum | cut -c1-16)
STAMP := $(VENV)/.setup-$(key)

# ROS 2 comes from the virtual environment: a sourced distribution must not leak into it, nor its topics out of here.
unexport PYTHONPATH LD_LIBRARY_PATH RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE
export AMENT_PREFIX_PATH := $(CURDIR)/$(VENV)
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

setup: $(STAMP)  ## create .venv with ROS 2 Jazzy, PyTorch for the CPU and this package (done once)

$(STAMP): | check-python
	@echo 'Setting up $(VENV) with $(PYTHON): about 2 minutes and 2 GB, once.'
	@rm -f $(VENV)/.setup-*
	$(PYTHON) -m venv $(if $(stale),--clear) $(VENV)
	@# Spelled exactly: the CPU build satisfies it, while any wider range takes gigabytes of CUDA libraries.
	$(BIN)/pip install --quiet --no-deps torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[sim,train,ros,cluster,bench,dev]'
	@touch $@

# A virtual environment of another Python version is made anew.
stale = $(shell [ ! -x $(BIN)/python ] || [ "`$(PYTHON) -V`" = "`$(BIN)/python -V`" ] || echo yes)

.PHONY: check-python
check-python:
	@$(or $(PYTHON),false) -c '$(supported)' 2>/dev/null || { echo 'vlm_agent_ros needs Python 3.10 or 3.11,' \
	  'because PyBullet has no wheels for other versions: install one and name it, e.g. make PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo '$(PYTHON) cannot create virtual environments:' \
	  'install its venv module, e.g. sudo apt install python3-venv' >&2; exit 1; }

sim-train: setup  ## fine-tune the shipped VLM by RL in the simulated cell, through ROS 2 topics
	$(BIN)/vlm-agent train $(if $(SEED),--seed $(SEED)) $(ARGS)

cell-check: setup  ## measure what the robot side promises against an emulated cell; ends with one line of JSON
	$(BIN)/vlm-agent cell-check $(if $(PARTS),--parts $(PARTS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: setup  ## measure how fast each part is; table and JSON go to bench/
	$(BIN)/vlm-agent bench $(if $(PARTS),--parts $(PARTS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

test: setup  ## run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

sft: setup  ## make the shipped VLM again: record the expert, then supervised fine-tuning
	$(BIN)/vlm-agent record
	$(BIN)/vlm-agent sft

clean:  ## remove the virtual environment and what was built; runs/ and data/ stay
	rm -rf $(VENV) build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
