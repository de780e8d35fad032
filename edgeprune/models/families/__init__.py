"""Facts about each architecture, one file each, read by the exporters and by pruning.

A new one is a file here and its name in the list below (CONTRIBUTING.md).
"""

from importlib import import_module

from edgeprune.models.families.base import Config, Family, Gguf, Norms, Onnx, head_dim

_FILES = (
    "gemma3",
    "gpt2",
    "gpt_neox",
    "llama",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
)
FAMILIES: tuple[Family, ...] = tuple(import_module(f"{__name__}.{name}").FAMILY for name in _FILES)

__all__ = ["FAMILIES", "Config", "Family", "Gguf", "Norms", "Onnx", "by_model_type", "head_dim"]


def by_model_type() -> dict[str, Family]:
    """Map each of transformers' model types to its family."""
    return {name: family for family in FAMILIES for name in family.model_types}
