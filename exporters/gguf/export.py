"""From a checkpoint to a verified GGUF file."""

from pathlib import Path
from typing import Protocol

from edgeprune.errors import CheckFailed
from edgeprune.files import atomic_path
from edgeprune.sparsity.metadata import SparsityMetadata
from exporters.artifact import Artifact, Model
from exporters.gguf.architectures import read_config
from exporters.gguf.plan import plan_tensors
from exporters.gguf.tokenizer import check_tokenizer
from exporters.gguf.verify import verify
from exporters.gguf.write import write


class Stage(Protocol):
    """What the exporter reports its steps to."""

    def advance(self, steps: int = 1) -> None:
        """Say that some steps are done."""


def check(model: Model, type_name: str) -> None:
    """Refuse a model that can't be exported, from its configuration and headers alone.

    Raises:
        InputError: the architecture, a feature of it or the tokenizer is not supported.
    """
    config, architecture = read_config(model.folder)
    plan_tensors(model, config, architecture, type_name)
    if not model.gguf:
        check_tokenizer(model.folder)


def steps(model: Model) -> int:
    """How many steps `export` reports: each tensor is written, then verified."""
    return 2 * len(model.weights.names())


def export(
    model: Model,
    type_name: str,
    path: Path,
    metadata: SparsityMetadata | None,
    quantized_by: str,
    stage: Stage,
) -> Artifact:
    """Write ``path`` and prove what it holds; it appears only if every check passed.

    Args:
        model: what to export.
        type_name: a key of `exporters.gguf.plan.TYPES`.
        path: the ``.gguf`` file.
        metadata: facts about the zeros, without their counts; None for a dense model.
        quantized_by: written to ``general.quantized_by``.
        stage: told of every tensor written and verified.

    Raises:
        InputError: the architecture or the tokenizer is not supported.
        CheckFailed: zeros were lost, or the file is not what was planned.
    """
    config, architecture = read_config(model.folder)
    tensors = plan_tensors(model, config, architecture, type_name)
    if left_out := model.pruned - {tensor.source for tensor in tensors}:
        raise CheckFailed(f"Pruned tensors have no place in the file: {sorted(left_out)}.")
    with atomic_path(path) as temporary:
        written = write(
            temporary,
            model,
            config,
            architecture,
            tensors,
            type_name,
            metadata,
            quantized_by,
            stage.advance,
        )
        facts = verify(temporary, model, tensors, stage.advance)
    return Artifact(path, facts, written)
