"""The manifest of a build, typed; its JSON is the file ``manifest.json``."""

import math
from pathlib import Path

from pydantic import Field

from edgeprune.manifest.base import Facts
from edgeprune.manifest.results import Results
from edgeprune.recipe.schema import Recipe
from edgeprune.support.errors import InputError

# Raised whenever a field changes its name or its meaning.
SCHEMA = 3


class Machine(Facts):
    """Where the build ran."""

    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str | None]


class ModelFacts(Facts):
    """The dense model, and where it comes from."""

    name: str
    source: str
    sha256: str
    hub_id: str
    license: str
    license_name: str
    license_link: str
    languages: list[str]


class SourceFacts(Facts):
    """A task or corpus, and the ids of the rows that took part."""

    name: str
    version: int
    hub_id: str
    license: str
    source: str
    sha256: str
    calibration_rows: list[str]
    evaluation_rows: list[str]


class TaskFacts(SourceFacts):
    """The task."""

    description: str
    kind: str
    warning: str


class DataFacts(Facts):
    """Both sources.

    Attributes:
        chat: the conversations beside general text, in words; empty without any.
        template_problems: what in the model's chat template small engines may not read.
    """

    task: TaskFacts
    general: SourceFacts
    chat: str = ""
    template_problems: list[str] = Field(default_factory=list)


class GridFacts(Facts):
    """A grid that weights were rounded to."""

    low: int
    high: int
    block: int
    masked: bool = False


class StorageFacts(Facts):
    """How a tensor was planned to stand in the artifact."""

    type: str
    bytes: int
    grid: GridFacts | None
    alphabet: GridFacts | None = None
    scale_bits: int = 16
    name: str = ""


class PlannedTensor(Facts):
    """One row of the plan."""

    name: str
    stored_as: str
    shape: list[int]
    role: str
    pattern: str
    zeros: int
    storage: StorageFacts
    packed_bits: float | None = None

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


class StoredTensor(Facts):
    """One tensor of the artifact, as read back from its bytes."""

    name: str
    source: str
    type: str
    shape: list[int]
    bytes: int
    pruned: bool
    nonzeros: int
    rounded_to_zero: int
    lost_zeros: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def zeros(self) -> int:
        """Weights that are exactly zero."""
        return self.size - self.nonzeros


class FileFacts(Facts):
    """An artifact: its file or folder, relative to the build, and the hash of all its files."""

    file: str
    sha256: str
    bytes: int
    files: dict[str, str]


class Replies(Facts):
    """Greedy replies held against transformers; see `edgeprune.pipeline.parity`."""

    turns: int
    tokens: int
    ties: int
    tie: float
    apart: int
    widest: float


class ArtifactFacts(FileFacts):
    """The build's own artifact, with every tensor."""

    tensors: list[StoredTensor]
    replies: Replies | None = None

    @property
    def pruned_tensors(self) -> list[StoredTensor]:
        """Those whose zeros were promised."""
        return [tensor for tensor in self.tensors if tensor.pruned]


class PackedFacts(Facts):
    """The packed file beside the artifact."""

    file: str
    files: dict[str, str]
    bytes: int
    packed_bytes: int
    tensors: int
    tensor_bytes: int
    packed_tensor_bytes: int


class PrunedTensor(Facts):
    """What pruning did to one matrix; see `edgeprune.engine.store.TensorRecord`."""

    name: str
    shape: list[int]
    nonzeros: int
    exclusive: list[float] | None
    error: float | None
    rounded_to_zero: int | None
    sparsity: float


class Probe(Facts):
    """One sparsity, or one bound that storages were chosen under, that the search tried.

    Attributes:
        sparsity: share of zeros.
        divergence: the bound; None if the storages were set.
        bytes: predicted size of the file, likewise.
        value: metric on the held-out rows.
        worst: worse end of the metric's interval, with the search's confidence.
        holds: whether ``worst`` is within the bound.
    """

    sparsity: float
    divergence: float | None = None
    bytes: int | None = None
    value: float
    worst: float
    holds: bool


class SearchFacts(Facts):
    """How ``max_loss`` found its sparsity, or the storages of its file.

    Attributes:
        sparsity: the highest that held.
        divergence: or, where storages are chosen, the largest bound on their losses that held.
        metric: ``accuracy``, or ``nats_per_answer_token`` where accuracy is near chance level or
            there is none.
        dense: the dense model's value.
        bound: the worst value allowed.
        confidence: one-sided confidence that what was tried is within the bound on other rows.
        rows: number of held-out rows.
        probes: what was tried, in order.
    """

    sparsity: float
    divergence: float | None = None
    metric: str
    dense: float
    bound: float
    confidence: float
    rows: int
    probes: list[Probe]


class ChoiceFacts(Facts):
    """How storages were chosen.

    Attributes:
        goal: what was asked of the file, in words.
        runtime: what may be reckoned with, ``edgeprune`` or ``stock``.
        bytes: predicted size; of the packed file if edgeprune's runtime opens it.
        loss: predicted divergence from the dense model before training, in nats a token.
        losses: the same by tensor.
        front: pairs of cost and loss, of other choices: bytes, or with ``decode`` seconds a token.
        decode: predicted tokens/s, where that was asked for.
        device: where they are predicted for; None: for the machine of the build.
    """

    goal: str
    runtime: str
    bytes: int
    loss: float
    losses: dict[str, float]
    front: list[tuple[float, float]]
    decode: float | None = None
    device: str | None = None


class CurvePoint(Facts):
    """A point of the loss curve, in nats per token; there is no ``train`` loss at the first."""

    step: int
    train: float | None
    held_out: float
    rounded: bool


class Trained(Facts):
    """One training of the kept weights."""

    steps: int
    planned_steps: int
    rounded: int
    task_share: float
    curve: list[CurvePoint] = Field(min_length=1)

    @property
    def held_out_losses(self) -> tuple[float, float]:
        """Held-out loss before training, and of the weights that were kept; nats per token."""
        rounded = bool(self.rounded)  # only weights on their grid are kept then
        kept = [point.held_out for point in self.curve if point.rounded == rounded]
        return self.curve[0].held_out, min(kept, default=self.curve[0].held_out)


class Reconstructed(Facts):
    """Reconstruction: mean relative error of submodules' outputs before and after."""

    before: float
    after: float
    submodules: int


class TrainingFacts(Facts):
    """What was trained, by the way of training; earlier rounds by their sparsity."""

    reconstruct: Reconstructed | None = None
    distill: Trained | None = None
    finetune: Trained | None = None
    virtual: Trained | None = None
    rounds: dict[str, "TrainingFacts"] = Field(default_factory=dict)

    @property
    def trained(self) -> dict[str, Trained]:
        """Trainings by their way, in the order in which they ran."""
        ways = {"distill": self.distill, "finetune": self.finetune, "virtual": self.virtual}
        return {way: facts for way, facts in ways.items() if facts}


class Manifest(Facts):
    """Everything about a build. ``schema`` in the file is `schema_number` here."""

    schema_number: int = Field(alias="schema")
    edgeprune: str
    recipe: Recipe
    machine: Machine
    model: ModelFacts
    data: DataFacts
    plan: list[PlannedTensor]
    artifact: ArtifactFacts
    dense_artifact: FileFacts
    pruned_tensors: list[PrunedTensor]
    rounded_with_data: int
    search: SearchFacts | None
    choice: ChoiceFacts | None = None
    training: TrainingFacts | None
    packed: PackedFacts | None
    results: Results
    gates: list[str]


def read(folder: Path) -> Manifest:
    """The manifest of a finished build.

    Raises:
        InputError: the folder is not a finished build, its manifest is damaged, or another version
            of edgeprune wrote it.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise InputError(
            f"{folder} is not a finished build: it has no manifest.json.",
            "Give the folder of a build; edgeprune build makes one.",
        )
    hint = "Run the same edgeprune build again: finished stages are reused."
    return Manifest.read_file(path, SCHEMA, hint)
