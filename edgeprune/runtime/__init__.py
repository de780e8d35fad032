"""What unmodified llama.cpp gains from edgeprune inside one process."""

from edgeprune.runtime.packed import enable, load_model

__all__ = ["enable", "load_model"]
