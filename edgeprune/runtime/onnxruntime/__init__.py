"""Sparse weights inside onnxruntime."""
