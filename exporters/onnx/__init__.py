"""ONNX: build the graph, write weights beside it, re-open both and count zeros."""

from exporters.onnx.export import check, export, grids, steps

__all__ = ["check", "export", "grids", "steps"]
