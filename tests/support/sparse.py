"""Sparse weights inside llama.cpp: skip where they are off, and begin with the stock loader."""

import pytest
from llama_cpp import llama_cpp as api

from edgeprune.runtime import status
from edgeprune.runtime.llamacpp import loading

needs_kernels = pytest.mark.skipif(
    not status().on, reason=f"sparse weights are off here, so they were not checked: {status()}"
)


def begin_with_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo another test's `enable`, and let every kernel take every type.

    Break-even densities leave some types to llama.cpp otherwise.
    """
    monkeypatch.setenv("EDGEPRUNE_LAYOUT", "sparse")
    original = getattr(api, loading._MARK, api.llama_model_load_from_file)
    monkeypatch.setattr(api, "llama_model_load_from_file", original)
