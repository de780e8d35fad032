"""What every exporter is given and gives back."""

from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.sparsity.metadata import SparsityMetadata
from edgeprune.sparsity.weights import Weights


@dataclass(frozen=True)
class Model:
    """A model to export, dense or pruned.

    Attributes:
        folder: transformers folder with configuration and tokenizer.
        weights: what to write.
        pruned: names of the pruned tensors, whose zeros must survive.
        gguf: the GGUF file the model was converted from, if it was; its tokenizer is kept.
    """

    folder: Path
    weights: Weights
    pruned: frozenset[str] = frozenset()
    gguf: Path | None = None


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of an artifact, as read back from its bytes.

    Attributes:
        name: in the artifact.
        source: in the checkpoint.
        type: storage type.
        shape: (out, in), or (n,).
        bytes: in the file.
        pruned: whether its zeros were promised.
        nonzeros: non-zero weights after dequantisation.
        rounded_to_zero: kept weights that quantisation turned into zeros.
    """

    name: str
    source: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    pruned: bool
    nonzeros: int
    rounded_to_zero: int


@dataclass(frozen=True)
class Artifact:
    """A finished, verified file.

    Attributes:
        path: the file.
        tensors: what stands in it.
        metadata: what it says about its zeros; None if dense.
    """

    path: Path
    tensors: list[TensorFacts] = field(default_factory=list)
    metadata: SparsityMetadata | None = None
