"""Whole builds of the real model, wheels, sanitizers: minutes each."""

from pathlib import Path

import pytest

from tests.support.no_amx import refuse
from tests.support.runtimes import dense_f32, sparse_weights, tiny_recipe

__all__ = ["dense_f32", "sparse_weights", "tiny_recipe"]

refuse()  # before torch or llama.cpp asks for it: here they share a process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what stands in this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
