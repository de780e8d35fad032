"""What a target is: a folder with an `Exporter`, and one line in `exporters`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.formats.weights import Weights
from edgeprune.plan.tensors import ModelPlan, TensorPlan
from edgeprune.plan.types import WeightType
from edgeprune.support.progress import Stage


@dataclass(frozen=True)
class StorageRequest:
    """How the user wants weights to be stored.

    Attributes:
        type: a key of the target's own types.
        overrides: pairs of a regular expression on the name in the file and the type of tensors
            that match; the first that matches counts.
        lossy_zeros: whether zeros that a type can't hold may be lost; the loss is counted.
        block: ONNX: weights of a row that share a scale.
        operators: ONNX: ``ort``, onnxruntime's own, or ``portable``, standard ones.
    """

    type: str
    overrides: tuple[tuple[str, str], ...] = ()
    lossy_zeros: bool = False
    block: int = 32
    operators: str = "ort"


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
    """A finished, verified artifact.

    Attributes:
        path: the file or folder that runtimes open.
        tensors: what stands in it.
        metadata: what it says about its zeros; None if dense.
        files: all that hold the model, ``path`` among them where it is a file.
    """

    path: Path
    tensors: list[TensorFacts]
    metadata: SparsityMetadata | None
    files: tuple[Path, ...]


class FilePlan(Protocol):
    """How one model stands in one artifact; made once, for the dense model and all pruned ones.

    Attributes:
        tensors: a row each, in the type that was asked for, none pruned. ``storage.grid`` is what
            calibrated rounding may choose codes on.
        steps: how many steps `export` reports.
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
        """Write ``path`` and prove what it holds; it appears only if every check passed.

        Args:
            model: what to export.
            plan: how each tensor is stored.
            path: the file or folder.
            metadata: facts about the zeros, without their counts; None for a dense model.
            quantized_by: what the artifact names as its maker.
            stage: told of every step.

        Raises:
            CheckFailed: zeros were lost, or the artifact is not what was planned.
        """


class Exporter(Protocol):
    """A target.

    Attributes:
        name: as ``--target`` takes it.
        requirements: modules that building for it takes, besides those of every build.
        types: what ``--type`` takes.
        default_type: where nothing is said.
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
    file_format: str
    artifact: str
    runner: str
    zeros_cost: str
    opens_packed: str
    how_to_use: str
    next_verb: str

    def plan(self, model: Model, wanted: StorageRequest) -> FilePlan:
        """Lay a model out, from its configuration and headers alone.

        Raises:
            InputError: the architecture, a feature of it or the tokenizer is not supported.
            UsageError: a type is asked for tensors that are not there.
        """

    def estimate(
        self, shapes: Mapping[str, tuple[int, ...]], wanted: StorageRequest
    ) -> list[TensorPlan]:
        """Rows for a model of which only names and shapes are known, as `FilePlan.tensors`."""
