"""From a checkpoint to a verified GGUF file."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.models.families import Config, Family
from edgeprune.planning.tensors import ModelPlan, TensorPlan
from edgeprune.support.errors import CheckFailed
from edgeprune.support.files import atomic_path, flush
from edgeprune.support.progress import Stage
from exporters.base import Artifact, Model, StorageRequest
from exporters.gguf.hyperparameters import read_config
from exporters.gguf.imatrix import write_imatrix
from exporters.gguf.plan import PlannedTensor, plan_tensors
from exporters.gguf.same_ids import check_same_ids
from exporters.gguf.tokenizer import check_tokenizer
from exporters.gguf.verify import check_counts, verify
from exporters.gguf.write import set_counts, write


def plan(model: Model, wanted: StorageRequest) -> "GgufPlan":
    """Lay out a file; reject a model that cannot be exported.

    Raises:
        InputError: the architecture, a feature of it or the tokenizer is not supported.
        UsageError: a type is set for tensors that do not exist.
        CheckFailed: the tokenizer read from a GGUF file gives different ids than llama.cpp.
    """
    config, family = read_config(model.folder)
    laid_out = plan_tensors(model, config, family, wanted)
    if model.gguf:  # its tokenizer is kept, and the folder's, calibrated with, was made from it
        check_same_ids(model.gguf, model.folder)
    else:
        check_tokenizer(model.folder)
    return GgufPlan(config, family, wanted, tuple(laid_out))


@dataclass(frozen=True)
class GgufPlan:
    """The layout of a model in a GGUF file; see `exporters.base.FilePlan`.

    Attributes:
        config: the model's configuration.
        family: facts about its architecture.
        wanted: how weights are stored.
        laid_out: every tensor of the file, in file order.
    """

    config: Config
    family: Family
    wanted: StorageRequest
    laid_out: tuple[PlannedTensor, ...]

    @property
    def tensors(self) -> Sequence[TensorPlan]:
        """Make a row for each tensor of the checkpoint, not for those of the configuration."""
        return [tensor.row for tensor in self.laid_out if tensor.source]

    @property
    def steps(self) -> int:
        """Count the steps: each tensor is written, then verified."""
        return 2 * len(self.laid_out)

    def export(
        self,
        model: Model,
        plan: ModelPlan,
        path: Path,
        metadata: SparsityMetadata | None,
        quantized_by: str,
        stage: Stage,
    ) -> Artifact:
        """See `exporters.base.FilePlan.export`.

        If there are calibration tensors, ``<name>.imatrix.gguf`` is written beside the file.

        Raises:
            CheckFailed: zeros were lost, the file differs from the plan, or llama.cpp splits text
                into different tokens than the checkpoint's tokenizer.
        """
        tensors = [tensor.obeying(plan) for tensor in self.laid_out]
        if left_out := model.pruned - {tensor.source for tensor in tensors}:
            raise CheckFailed(
                f"The GGUF layout has no place for the pruned tensors {sorted(left_out)}."
            )
        with atomic_path(path) as temporary:
            write(
                temporary,
                model,
                self.config,
                self.family,
                tensors,
                self.wanted,
                metadata,
                quantized_by,
                stage.advance,
            )
            with ThreadPoolExecutor(2) as beside:
                stored = beside.submit(flush, temporary)  # the disk works while we read
                ids = beside.submit(check_same_ids, temporary, model.folder)
                written = open_gguf(temporary)
                facts = verify(written, model, tensors, stage.advance, self.wanted.lossy_zeros)
                ids.result()
                stored.result()
            if metadata:
                counted = {fact.name: fact.nonzeros for fact in facts if fact.pruned}
                metadata = replace(metadata, nonzeros=counted)
                set_counts(temporary, written, metadata)
            check_counts(written, facts)
        imatrix = path.with_name(f"{path.stem}.imatrix.gguf")
        data_sets = [metadata.task if metadata else "calibration"]
        if not write_imatrix(imatrix, model, tensors, data_sets):
            imatrix.unlink(missing_ok=True)  # of an earlier export
        return Artifact(path, facts, metadata, (path,))
