"""GGUF: plan the tensors, write them one by one, re-open the file and count its zeros."""

from exporters.gguf.export import check, export, grids, steps

__all__ = ["check", "export", "grids", "steps"]
