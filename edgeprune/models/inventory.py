"""The tensors of a model by shape alone, for planning: nothing is converted or downloaded."""

import re
from dataclasses import dataclass
from pathlib import Path

from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.weights import Weights
from edgeprune.models.checkpoint import locate, weight_files
from edgeprune.models.hub import cached_folder
from edgeprune.support.errors import InputError
from edgeprune.support.extras import load

# Names of a block's tensors, in transformers' and in GGUF's spelling.
_IN_BLOCK = re.compile(r"(?:^|\.)(?:blk|layers|h|blocks)\.(\d+)\.")
_EMBEDDING = re.compile(r"token_embd|embed_tokens|wte")


@dataclass(frozen=True)
class TensorShape:
    """One tensor.

    Attributes:
        name: in the checkpoint.
        shape: (out, in), or (n,).
    """

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many weights."""
        product = 1
        for size in self.shape:
            product *= size
        return product

    @property
    def prunable(self) -> bool:
        """Whether it is a weight matrix of a decoder block."""
        return len(self.shape) == 2 and self.block is not None

    @property
    def block(self) -> int | None:
        """Index of the decoder block it belongs to."""
        found = _IN_BLOCK.search(self.name)
        return int(found[1]) if found else None

    @property
    def embedding(self) -> bool:
        """Whether it is the token embedding, (vocabulary, width)."""
        return len(self.shape) == 2 and _EMBEDDING.search(self.name) is not None


def inventory(model: str) -> list[TensorShape]:
    """All tensors of a model, from headers only.

    Raises:
        InputError: a header can't be read, or the hub can't be reached.
    """
    kind, place = locate(model)
    if kind == "gguf":
        return [TensorShape(t.name, t.shape) for t in open_gguf(Path(place)).tensors]
    if kind == "hub" and (cached := cached_folder(place)):
        kind, place = "folder", str(cached)
    if kind == "folder":
        weights = Weights(weight_files(Path(place)))
        return [TensorShape(name, weights.shape(name)) for name in weights.names()]
    try:
        metadata = load("huggingface_hub").get_safetensors_metadata(place)
    except Exception as error:  # the hub client raises many unrelated types
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise InputError(f"The hub model '{place}' can't be looked up: {reason}") from None
    return [
        TensorShape(name, tuple(info.shape))
        for file in metadata.files_metadata.values()
        for name, info in file.tensors.items()
    ]
