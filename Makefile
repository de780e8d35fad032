# Two commands do all the set-up: `make demo` and `make test`. Both are fast the second time.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
NATIVE := hatch_build.py $(wildcard edgeprune/runtime/CMakeLists.txt edgeprune/runtime/*/*.cpp edgeprune/runtime/*/*.h)
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test check clean

demo: .venv/.demo
	$(BIN)/edgeprune build --task medqa --target gguf

test: .venv/.test
	$(BIN)/pytest

check: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The reference: two pages from the code that are checked in, and HTML of all docstrings.
.PHONY: docs
docs: .venv/.test
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/api.py

clean:
	rm -rf docs/reference/_build .venv builds dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/pip install -e '.[prune,gguf,eval,report,demo]'
	touch $@

.venv/.test: pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/pip install -e '.[all,dev]'
	touch $@
