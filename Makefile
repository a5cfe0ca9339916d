# `make demo` and `make test` work from nothing but Python 3.11 or later with its venv module.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check
PORT ?= 7860
CPU ?=
PYTEST_ARGS ?= -n auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help env demo test lint format lock clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1|/' | column -t -s '|'

env: $(STAMP)  ## make .venv with the exact versions of requirements.txt and this package (CPU=1 for PyTorch's CPU build)

demo: $(STAMP)  ## serve the page on http://127.0.0.1:7860 (PORT=7861 for another port)
	@FUSION_HUB_PORT_COMMAND="make demo PORT=" $(BIN)/fusion-hub demo --port "$(PORT)"

test: lint  ## ruff, mypy, then every test on all cores (PYTEST_ARGS="-k tiling" for some)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff and mypy only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff write the formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## write requirements.txt, the versions of all packages, from requirements.in
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip compile requirements.in --universal --python-version 3.11 --no-annotate --no-emit-index-url --quiet \
	    --custom-compile-command "make lock" --output-file requirements.txt
	grep -vE '^(nvidia-|cuda-|triton==)' requirements.txt > requirements.new && mv requirements.new requirements.txt

clean:  ## remove .venv and everything that tools have cached
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .gradio
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Written last, so that an interrupted installation starts again.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo "Installing the packages of requirements.txt into $(VENV), once: 2.7 GB, or about 7 GB with PyTorch for CUDA."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(CPU),$(PIP) "$$(grep '^torch==' requirements.txt)" --index-url https://download.pytorch.org/whl/cpu)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --editable .
	touch $(STAMP)
