"""Estimate what a build needs and produces, before any work is done."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import exporters
from edgeprune.models.checkpoint import locate
from edgeprune.models.inventory import inventory
from edgeprune.pipeline import planner
from edgeprune.pipeline.job import wanted
from edgeprune.planning.tensors import ModelPlan, Role
from edgeprune.pruning.methods import METHODS
from edgeprune.recipe.schema import Recipe, training_rounds, training_seconds
from edgeprune.recovery.settings import RECONSTRUCTION_SEQUENCES
from edgeprune.support.errors import MachineError

_GIB = 1 << 30
# torch, transformers and their buffers, whatever the model.
_BASE_MEMORY = 0.8 * _GIB
_TOKENS_PER_ROW = 250
# Matrices that read one input, on average; products of a matrix with its Gram matrix in a solver.
_READERS = 1.75
_TRIALS = 6  # of a search by --max-loss
_SOLVER_PRODUCTS = 20


@dataclass(frozen=True)
class Estimate:
    """Figures known or estimated in advance.

    Attributes:
        plan: the plan of all tensors; with uniform zeros if the allocation must be measured.
        parameters: number of weights of the model.
        prunable: number of weights in the decoder blocks' matrices.
        zeros: number of weights that will be zero.
        artifact_bytes: size of the model file without its tokenizer.
        disk_bytes: free disk space the build needs.
        memory_bytes: estimated peak memory.
        seconds: estimated time on this machine, by the measured matrix throughput of its CPU.
    """

    plan: ModelPlan
    parameters: int
    prunable: int
    zeros: int
    artifact_bytes: int
    disk_bytes: int
    memory_bytes: int
    seconds: float


def plan(recipe: Recipe) -> Estimate:
    """Plan every tensor and estimate what a build needs, from headers alone.

    Raises:
        EdgepruneError: as `edgeprune.models.inventory.inventory`.
    """
    needs = _Needs(recipe)
    return Estimate(
        plan=needs.plan,
        parameters=needs.parameters,
        prunable=needs.prunable,
        zeros=needs.plan.zeros,
        artifact_bytes=needs.plan.bytes,
        disk_bytes=needs.disk_bytes(),
        memory_bytes=needs.memory_bytes(),
        seconds=needs.seconds(),
    )


def check_disk(recipe: Recipe, folder: Path) -> None:
    """Reject a build that the disk cannot hold, before it starts.

    Raises:
        MachineError: too little free space for files not yet written.
    """
    needed = _Needs(recipe).disk_bytes()
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if free + there < needed:
        raise MachineError(
            f"{folder} has {free / _GIB:.1f} GiB of free space, but the build needs "
            f"{needed / _GIB:.1f} GiB.",
            "Free some space, or choose a folder on another disk with --out.",
        )


class _Needs:
    """Estimate bytes and operations of one recipe."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        exporter = exporters.get(recipe.artifact.target)
        rows = exporter.estimate(inventory(recipe.model.name), wanted(recipe))
        self.plan = planner.by_rule(recipe, rows)
        self.rows = list(self.plan.tensors.values())
        self.matrices = [row for row in self.rows if row.prunable]
        self.parameters = sum(row.size for row in self.rows)
        self.prunable = sum(row.size for row in self.matrices)
        embedding = next((row for row in self.rows if row.role == Role.EMBEDDING), None)
        self.vocabulary, self.width = embedding.shape if embedding else (0, 0)
        # Of a weight as the build has it at hand: dequantised ones are kept as float32.
        self.weight_bytes = 4 if locate(recipe.model.name)[0] == "file" else 2
        data = recipe.data
        # Hidden states of both streams at one place of the model, twice.
        self.hidden = 2 * (2 * data.samples * data.length * self.width * 2)

    def disk_bytes(self) -> int:
        """Estimate disk: two artifacts, pruned weights, hidden states, and recovery's files."""
        changed = self.weight_bytes * sum(row.size for row in self.rows if row.zeros)
        return 2 * self.plan.bytes + changed + self.hidden + self._recovery()[1]

    def memory_bytes(self) -> int:
        """Estimate peak memory: the larger of pruning's and recovery's."""
        gram = 0
        if self._sees_gram():
            gram = 4 * 8 * max((row.shape[1] for row in self.matrices), default=0) ** 2
        pruning = self.weight_bytes * self.parameters + self.hidden + gram
        return round(_BASE_MEMORY + max(pruning, self._recovery()[0]))

    def seconds(self) -> float:
        """Estimate time from the number of products and this machine's measured speed."""
        recipe = self.recipe
        tokens = 2 * recipe.data.samples * recipe.data.length
        flops = 2.0 * tokens * 2 * self.prunable  # every block runs twice: seen, and once pruned
        if self._sees_gram():
            flops += tokens * sum(r.shape[1] ** 2 for r in self.matrices) / _READERS  # half a Gram
            flops += sum(_SOLVER_PRODUCTS * 2 * r.size * r.shape[1] for r in self.matrices)
        builds = 1 + _TRIALS * bool(recipe.pruning.max_loss)
        asked = recipe.measurement
        evaluated = 2 * (asked.eval_rows * _TOKENS_PER_ROW + asked.perplexity_tokens)
        flops = builds * flops + evaluated * 2 * self.parameters
        recovery = training_seconds(recipe) if recipe.training.enabled else 0
        return flops / _flops_per_second() + builds * recovery

    def _sees_gram(self) -> bool:
        asked = self.recipe.pruning
        return METHODS[asked.method].sees == "gram" or asked.swaps or asked.refit

    def _recovery(self) -> tuple[int, int]:
        """Estimate recovery's bytes in memory and on disk."""
        if not self.recipe.training.enabled:
            return 0, 0
        if self.recipe.training.ways in (["reconstruct"], []):
            return self._reconstruction()
        return self._training()

    def _training(self) -> tuple[int, int]:
        """Estimate training's bytes in memory and on disk.

        In memory: float32 weights, gradients and two moments, both models and the gradients in what
        they compute in, a step's logits and activations; with adapters what is trained is small,
        and at the end the matrices stand there in float32. On disk: the best weights, the run as it
        is kept (weights and moments) while it is written anew, between rounds the whole model, and
        what each way and round has trained.
        """
        asked, length = self.recipe.training, self.recipe.data.length
        trained, both = self.prunable, 6 * self.parameters
        if asked.rank:
            trained = sum(asked.rank * sum(row.shape) for row in self.matrices)
            both = 4 * (self.parameters + self.prunable)
        logits = 6 * self.vocabulary
        if asked.save_memory:
            tokens = length * logits
        else:
            inner = 2 * sum(sum(row.shape) for row in self.matrices)
            tokens = asked.batch * length * (logits + inner)
        rounds = len(training_rounds(self.recipe))
        kept = 4 * (8 if asked.selective else 7) * trained + 4 * self._written()
        kept += 4 * self.prunable * (rounds * (len(asked.ways) + 1) - 1)
        return (6 if asked.selective else 4) * 4 * trained + both + tokens, kept

    def _reconstruction(self) -> tuple[int, int]:
        """Estimate reconstruction's bytes in memory and on disk.

        In memory: the dense model, the pruned one in float32, of one block weights, gradients and
        two moments, and the hidden states of both models before and after it, and what it is to
        give. On disk: what each round has pruned and reconstructed, between rounds the whole model,
        and later the hidden states.
        """
        changed = 4 * self.prunable
        states = 2 * RECONSTRUCTION_SEQUENCES * self.recipe.data.length * self.width * 2
        block = 4 * changed // max(1, len({row.block for row in self.matrices}))
        rounds = len(training_rounds(self.recipe))
        kept = changed * (2 * rounds - 1) + 4 * max(self._written(), states)
        dense = self.weight_bytes * self.parameters
        return dense + 4 * self.parameters + block + 5 * states, kept

    def _written(self) -> int:
        """Estimate the weights that a round keeps on disk while the next one prunes."""
        return self.parameters if len(training_rounds(self.recipe)) > 1 else 0


def _flops_per_second() -> float:
    """Measure float32 matrix throughput for a moment; bfloat16's gain covers other work."""
    a = np.ones((1024, 1024), np.float32)
    a @ a
    rounds, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.2:
        a @ a
        rounds += 1
    return rounds * 2 * 1024**3 / (time.perf_counter() - start)
