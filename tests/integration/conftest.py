"""Tests that start processes, load runtimes or run the real model."""

from tests.support.no_amx import refuse
from tests.support.runtimes import dense_f32, pruned_tiny, sparse_weights, tiny_recipe

__all__ = ["dense_f32", "pruned_tiny", "sparse_weights", "tiny_recipe"]

refuse()  # before torch or llama.cpp asks for it: here they share a process
