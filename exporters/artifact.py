"""What every exporter is given and gives back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.formats.weights import Weights


class Stage(Protocol):
    """What an exporter reports its steps to."""

    def advance(self, steps: int = 1) -> None:
        """Say that some steps are done."""


@dataclass(frozen=True)
class Storage:
    """How weights are stored.

    Attributes:
        type: a key of the target's own in `edgeprune.plan.types.TYPES_OF`.
        overrides: pairs of a regular expression on the name in the file and the type of tensors
            that match; the first that matches counts.
        lossy_zeros: whether zeros that a type can't hold may be lost; the loss is counted.
        block: ONNX: weights of a row that share a scale.
        flavour: ONNX: ``ort``, onnxruntime's own operators, or ``portable``, standard ones.
    """

    type: str
    overrides: tuple[tuple[str, str], ...] = ()
    lossy_zeros: bool = False
    block: int = 32
    flavour: str = "ort"


@dataclass(frozen=True)
class Model:
    """A model to export, dense or pruned.

    Attributes:
        folder: transformers folder with configuration and tokenizer.
        weights: what to write.
        pruned: names of the pruned tensors, whose zeros must survive.
        gguf: the GGUF file the model was converted from, if it was; its tokenizer is kept.
        calibration: what calibration left for the export, if there was one: ``<tensor>.importance``
            (in,), mean squares of the input; ``<tensor>.scales`` (out, blocks), of weights that
            stand on a grid already.
    """

    folder: Path
    weights: Weights
    pruned: frozenset[str] = frozenset()
    gguf: Path | None = None
    calibration: Weights = field(default_factory=lambda: Weights([]))


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
        lost_zeros: pruned weights that are not zero in the file; 0 unless lossy zeros are allowed.
    """

    name: str
    source: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    pruned: bool
    nonzeros: int
    rounded_to_zero: int
    lost_zeros: int = 0


@dataclass(frozen=True)
class Artifact:
    """A finished, verified file.

    Attributes:
        path: the file that runtimes open.
        tensors: what stands in it.
        metadata: what it says about its zeros; None if dense.
        files: all that hold the model, ``path`` among them.
    """

    path: Path
    tensors: list[TensorFacts]
    metadata: SparsityMetadata | None
    files: tuple[Path, ...]
