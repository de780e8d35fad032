"""Targets: each is a folder with an `Exporter`, and one line in `exporters`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.formats.weights import Weights
from edgeprune.planning.stored import Stored
from edgeprune.planning.tensors import ModelPlan, TensorPlan
from edgeprune.planning.types import WeightType
from edgeprune.support.errors import UsageError
from edgeprune.support.progress import Stage


@dataclass(frozen=True)
class StorageRequest:
    """How weights are stored, as the user set it.

    Attributes:
        type: a key of the target's own types.
        embedding: type of the embedding; empty: by the target's rules.
        head: type of the output head; empty: by the target's rules.
        overrides: pairs of a regular expression on names in the file and the type of matching
            tensors; the first match counts.
        lossy_zeros: whether zeros that a type cannot hold may be lost; lost zeros are counted.
        block: for ONNX, the number of weights in a row that share a scale.
        operators: for ONNX, ``ort``, onnxruntime's own, or ``portable``, standard ones.
    """

    type: str
    overrides: tuple[tuple[str, str], ...] = ()
    embedding: str = ""
    head: str = ""
    lossy_zeros: bool = False
    block: int = 32
    operators: str = "ort"

    def of_vocabulary(self, embedding: bool, head: bool) -> str:
        """Return the type set for a tensor with a row for each token; empty: none is.

        Args:
            embedding: whether it is the embedding.
            head: whether it is the output head; of tied models it is both.

        Raises:
            UsageError: it is both, and should have two types.
        """
        if embedding and head and self.embedding and self.head and self.embedding != self.head:
            raise UsageError(
                f"This model's embedding is its output head too, so it can't be {self.embedding} "
                f"and {self.head}.",
                "Set only one of artifact.embedding_type and artifact.head_type.",
            )
        return (self.embedding if embedding else "") or (self.head if head else "")


@dataclass(frozen=True)
class Model:
    """A model to export, dense or pruned.

    Attributes:
        folder: transformers folder with configuration and tokenizer.
        weights: weights to write.
        pruned: names of the pruned tensors, whose zeros must survive.
        gguf: the GGUF file the model was converted from, if any; its tokenizer is kept.
        calibration: tensors from calibration, if there was one: ``<tensor>.importance``
            (in,), mean squares of the input; ``<tensor>.scales`` (out, blocks), of weights that
            are already on a grid.
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
        name: the tensor's name in the artifact.
        source: the tensor's name in the checkpoint.
        type: storage type.
        shape: (out, in), or (n,).
        bytes: size in the file.
        pruned: whether the tensor was pruned and its zeros must survive.
        nonzeros: number of non-zero weights after dequantisation.
        rounded_to_zero: number of kept weights that quantisation rounded to zero.
        lost_zeros: number of pruned weights that are not zero in the file; 0 unless lossy zeros are
            allowed.
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
    """A finished, verified artifact.

    Attributes:
        path: the file or folder that runtimes open.
        tensors: tensors of the artifact.
        metadata: its sparsity metadata; None if dense.
        files: all files of the model, including ``path`` if that is a file.
    """

    path: Path
    tensors: list[TensorFacts]
    metadata: SparsityMetadata | None
    files: tuple[Path, ...]


class FilePlan(Protocol):
    """The layout of one model in one artifact, made once for the dense and all pruned models.

    Attributes:
        tensors: a row for each tensor, in the requested type, none pruned. ``storage.grid`` is what
            calibrated rounding may choose codes on.
        steps: number of steps that `export` reports.
    """

    @property
    def tensors(self) -> Sequence[TensorPlan]: ...  # noqa: D102

    @property
    def steps(self) -> int: ...  # noqa: D102

    def export(
        self,
        model: Model,
        plan: ModelPlan,
        path: Path,
        metadata: SparsityMetadata | None,
        quantized_by: str,
        stage: Stage,
    ) -> Artifact:
        """Write ``path`` and verify it; the file appears only if every check passes.

        Args:
            model: model to export.
            plan: how each tensor is stored.
            path: file or folder to write.
            metadata: sparsity metadata without counts; None for a dense model.
            quantized_by: name of the tool, recorded in the artifact.
            stage: receives progress by steps.

        Raises:
            CheckFailed: zeros were lost, or the artifact differs from the plan.
        """


class Exporter(Protocol):
    """An artifact format (target).

    Attributes:
        name: as ``--target`` takes it.
        requirements: modules that building for it takes, besides those of every build.
        types: what ``--type`` takes.
        default_type: where nothing is said.
        choices: by runtime, ``stock`` or ``edgeprune``: ways to store that are chosen from; those
            without zeros first, by falling size.
        file_format: what people call its files.
        artifact: name of the file or folder in a build.
        runner: the runtime that measures it, a key of `runtime_tests.runners.RUNNERS`.
        zeros_cost: what zeros save or cost in this format, in words.
        opens_packed: who opens a packed artifact, in words; empty: there is no such form.
        how_to_use: lines for a model card that run ``{file}``.
        next_verb: edgeprune's command that takes the artifact on from here.
    """

    name: str
    requirements: tuple[str, ...]
    types: Mapping[str, WeightType]
    default_type: str
    choices: Mapping[str, tuple[Stored, ...]]
    file_format: str
    artifact: str
    runner: str
    zeros_cost: str
    opens_packed: str
    how_to_use: str
    next_verb: str

    def plan(self, model: Model, wanted: StorageRequest) -> FilePlan:
        """Lay out a model from its configuration and headers alone.

        Raises:
            InputError: the architecture, a feature of it or the tokenizer is not supported.
            UsageError: a type is set for tensors that do not exist.
        """

    def estimate(
        self, shapes: Mapping[str, tuple[int, ...]], wanted: StorageRequest
    ) -> list[TensorPlan]:
        """Make rows as in `FilePlan.tensors` for a model known only by names and shapes."""

    def reopen(self, path: Path, model: Model) -> Any:
        """Open an artifact's model in transformers, in float32, with the weights that it stores.

        Args:
            path: the artifact.
            model: what it was written from, for what formats leave out.

        Raises:
            InputError: transformers can't.
        """
