"""GGUF: plan the tensors, write them one by one, re-open the file and count its zeros."""

from exporters.gguf.export import export

__all__ = ["export"]
