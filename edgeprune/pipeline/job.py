"""The input of every stage of a build, made once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgeprune.data.loading import Data, load_data
from edgeprune.models.checkpoint import Checkpoint, open_checkpoint
from edgeprune.pipeline.workspace import Workspace
from edgeprune.planning.patterns import Pattern, parse
from edgeprune.pruning.methods import METHODS
from edgeprune.recipe.schema import Recipe, make
from edgeprune.support.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.pruning.matrix import Pruning
    from exporters.base import Exporter, FilePlan, Model, StorageRequest


@dataclass(frozen=True)
class Job:
    """One build, or one trial of a search.

    Attributes:
        recipe: the recipe.
        checkpoint: the dense model.
        data: the rows.
        exporter: exporter of the recipe's target.
        file: layout of the model's tensors in the artifact.
        run: workspace of the stages.
    """

    recipe: Recipe
    checkpoint: Checkpoint
    data: Data
    exporter: "Exporter"
    file: "FilePlan"
    run: Workspace

    def changed(self, settings: Mapping[str, Any], **parts: Any) -> "Job":
        """Return the job with other settings, by dotted names, and other ``parts``."""
        return replace(self, recipe=self.recipe.changed(settings), **parts)

    def in_type(self, kind: str) -> "Job":
        """Return the job with its file in another type."""
        changed = self.changed({"artifact.type": kind})
        file = self.exporter.plan(dense_model(self.checkpoint), wanted(changed.recipe))
        return replace(changed, file=file)

    @property
    def pattern(self) -> Pattern:
        """Return the sparsity pattern."""
        return parse(self.recipe.pruning.pattern)

    @property
    def sees_data(self) -> bool:
        """Tell whether the method uses the calibration streams."""
        return METHODS[self.recipe.pruning.method].sees != "nothing"

    @cached_property
    def tokenizer(self) -> Any:
        """Return transformers' tokenizer of the model."""
        from edgeprune.models.loading import load_tokenizer

        return load_tokenizer(self.checkpoint)

    @cached_property
    def pruning(self) -> "Pruning":
        """Convert the recipe's settings to the engine's."""
        from edgeprune.pruning.fusion import FusionRule
        from edgeprune.pruning.matrix import Pruning

        asked = self.recipe.pruning
        return Pruning(
            method=asked.method,
            fusion=FusionRule(
                mode=asked.fusion.mode,
                tau=asked.fusion.tau,
                tau_mode=asked.fusion.tau_mode,
                task_share=asked.fusion.task_share,
                task_weight=asked.fusion.task_weight,
                hessian=asked.fusion.gram,
            ),
            swaps=asked.swaps,
            refit=asked.refit,
            permute=asked.permute,
            head=asked.head,
            sink_positions=asked.sink_positions,
            answer_weight=self.recipe.data.answer_weight,
            high_perplexity_weight=asked.high_perplexity_weight,
        )


def open_job(recipe: Recipe, run: Workspace, data: Data | None = None) -> Job:
    """Open the model and lay it out; unsupported models are rejected before any work is done.

    Args:
        recipe: the recipe.
        run: workspace of the stages.
        data: the rows, if already loaded.

    Raises:
        UsageError: the recipe has mistakes.
        EdgepruneError: naming the model, the architecture, the tokenizer or the feature.
    """
    import exporters

    recipe = make(recipe.model_dump())  # `Recipe.changed` does not look at what it is given
    data = data or rows_for(recipe)
    checkpoint = open_checkpoint(recipe.model.name, run.progress)
    exporter = exporters.get(recipe.artifact.target)
    file = exporter.plan(dense_model(checkpoint), wanted(recipe))
    return Job(recipe, checkpoint, data, exporter, file, run)


def rows_for(recipe: Recipe) -> Data:
    """Open the rows that a recipe calibrates and evaluates on.

    Raises:
        UsageError: unknown names, or virtual tokens for a task without a chat template.
        InputError: rows that are unavailable or invalid.
    """
    asked = recipe.measurement
    data = load_data(
        recipe.data.task, recipe.data.general, asked.eval_rows, asked.perplexity_tokens
    )
    if recipe.training.virtual_tokens and not data.task.task.chat:
        raise UsageError(
            "training.virtual_tokens stand in the chat template, and rows of "
            f"'{data.task.task.name}' do not go through it.",
            "Choose a task whose answers are written (tool_call, short_answer, or metric "
            "exact_match), or leave virtual_tokens out.",
        )
    return data


def wanted(recipe: Recipe) -> "StorageRequest":
    """Return how the recipe stores weights."""
    from exporters.base import StorageRequest

    asked = recipe.artifact
    return StorageRequest(
        type=asked.type,
        overrides=tuple(asked.type_map.items()),
        embedding="" if asked.embedding_type == "auto" else asked.embedding_type,
        head="" if asked.head_type == "auto" else asked.head_type,
        lossy_zeros=asked.allow_lossy_zeros or not recipe.pruning.sparsity,
        block=asked.block_size,
        operators=asked.operators,
    )


def dense_model(checkpoint: Checkpoint) -> "Model":
    """Return the checkpoint as an exporter's model."""
    from exporters.base import Model

    return Model(checkpoint.folder, checkpoint.weights(), gguf=checkpoint.gguf)
