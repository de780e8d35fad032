"""What a build will need and give, before any work is done."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.models.checkpoint import locate
from edgeprune.models.inventory import TensorShape, inventory
from edgeprune.plan.types import TYPES_OF, WeightType
from edgeprune.pruning.methods import METHODS
from edgeprune.recipe.schema import Recipe, budget_seconds, rounds
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
class BuildPlan:
    """Figures known or estimated in advance.

    Attributes:
        parameters: weights of the model.
        prunable: weights in the decoder blocks' matrices.
        zeros: weights that will be zero.
        artifact_bytes: the model file, without its tokenizer; zeros take as many bytes as any
            weight in GGUF.
        disk_bytes: free space the build needs.
        memory_bytes: estimated peak memory.
        seconds: estimated time on this machine, by the measured matrix throughput of its CPU.
    """

    parameters: int
    prunable: int
    zeros: int
    artifact_bytes: int
    disk_bytes: int
    memory_bytes: int
    seconds: float


def plan(recipe: Recipe) -> BuildPlan:
    """Plan a build from headers alone.

    Raises:
        EdgepruneError: as `edgeprune.models.inventory.inventory`.
    """
    tensors = inventory(recipe.model)
    return BuildPlan(
        parameters=sum(t.elements for t in tensors),
        prunable=sum(t.elements for t in tensors if t.prunable),
        zeros=round(_pruned(recipe, tensors) * recipe.sparsity),
        artifact_bytes=_artifact_bytes(recipe, tensors),
        disk_bytes=_disk_bytes(recipe, tensors),
        memory_bytes=_memory_bytes(recipe, tensors),
        seconds=_seconds(recipe, tensors),
    )


def _pruned(recipe: Recipe, tensors: list[TensorShape]) -> int:
    """Weights of the matrices that a build prunes."""
    return sum(t.elements for t in tensors if t.prunable or (recipe.prune_head and t.embedding))


def _artifact_bytes(recipe: Recipe, tensors: list[TensorShape]) -> int:
    kind = TYPES_OF[recipe.target][recipe.type]
    if recipe.target == "onnx":
        return sum(_onnx_bytes(tensor, kind.base, recipe.block_size) for tensor in tensors)
    return sum(_stored_bytes(tensor, kind) for tensor in tensors)


def _weight_bytes(recipe: Recipe) -> int:
    """Of a weight as the build has it at hand: dequantised ones are kept as float32."""
    return 4 if locate(recipe.model)[0] == "gguf" else 2


def _hidden_bytes(recipe: Recipe, tensors: list[TensorShape]) -> int:
    """Hidden states of both streams at one place of the model, twice."""
    width = next((t.shape[1] for t in tensors if t.embedding), 0)
    return 2 * (2 * recipe.samples * recipe.length * width * 2)


def _disk_bytes(recipe: Recipe, tensors: list[TensorShape]) -> int:
    _, kept = _recovery_bytes(recipe, tensors)
    own = _weight_bytes(recipe) * _pruned(recipe, tensors) + _hidden_bytes(recipe, tensors)
    return 2 * _artifact_bytes(recipe, tensors) + own + kept


def _memory_bytes(recipe: Recipe, tensors: list[TensorShape]) -> int:
    dense = _weight_bytes(recipe) * sum(t.elements for t in tensors)
    gram = 0
    if _sees_gram(recipe):
        gram = 4 * 8 * max((t.shape[1] for t in tensors if t.prunable), default=0) ** 2
    held, _ = _recovery_bytes(recipe, tensors)
    return round(_BASE_MEMORY + max(dense + _hidden_bytes(recipe, tensors) + gram, held))


def _recovery_bytes(recipe: Recipe, tensors: list[TensorShape]) -> tuple[int, int]:
    """Bytes that recovery takes in memory and on disk."""
    if not recipe.recover:
        return 0, 0
    if recipe.recover_by == ["reconstruct"]:
        dense = _weight_bytes(recipe) * sum(t.elements for t in tensors)
        return _reconstruction(recipe, tensors, dense)
    return _training(recipe, tensors)


def _sees_gram(recipe: Recipe) -> bool:
    return METHODS[recipe.method].sees == "gram" or bool(recipe.swaps or recipe.resolve)


def _seconds(recipe: Recipe, tensors: list[TensorShape]) -> float:
    """Counts products, and measures how fast this machine does them: takes a moment."""
    matrices = [t for t in tensors if t.prunable]
    tokens = 2 * recipe.samples * recipe.length
    # Every block runs twice: to be seen, and once pruned.
    flops = 2.0 * tokens * 2 * sum(t.elements for t in matrices)
    if _sees_gram(recipe):
        flops += tokens * sum(t.shape[1] ** 2 for t in matrices) / _READERS  # half a Gram matrix
        flops += sum(_SOLVER_PRODUCTS * 2 * t.shape[0] * t.shape[1] ** 2 for t in matrices)
    builds = 1 + _TRIALS * bool(recipe.max_loss)
    evaluated = 2 * (recipe.eval_rows * _TOKENS_PER_ROW + recipe.perplexity_tokens)
    flops = builds * flops + evaluated * 2 * sum(t.elements for t in tensors)
    recovery = budget_seconds(recipe) if recipe.recover else 0
    return flops / _flops_per_second() + builds * recovery


def _training(recipe: Recipe, tensors: list[TensorShape]) -> tuple[int, int]:
    """Bytes that training takes in memory and on disk.

    In memory: float32 weights, gradients and two moments, both models and the gradients in what
    they compute in, a step's logits and activations; with adapters what is trained is small, and at
    the end the matrices stand there in float32. On disk: the best weights, the run as it is kept
    (weights and moments) while it is written anew, between rounds the whole model, and what each
    way and round has trained.
    """
    parameters = sum(t.elements for t in tensors)
    prunable = sum(t.elements for t in tensors if t.prunable)
    trained = prunable
    if recipe.recover_rank:
        trained = sum(recipe.recover_rank * sum(t.shape) for t in tensors if t.prunable)
    both = 4 * (parameters + prunable) if recipe.recover_rank else 6 * parameters
    logits = 6 * max((t.shape[0] for t in tensors if t.embedding), default=0)
    if recipe.recover_save_memory:
        tokens = recipe.length * logits
    else:
        inner = 2 * sum(sum(t.shape) for t in tensors if t.prunable)
        tokens = recipe.recover_batch * recipe.length * (logits + inner)
    kept = 4 * (8 if recipe.recover_selective else 7) * trained + 4 * _written(recipe, parameters)
    kept += 4 * prunable * (len(rounds(recipe)) * (len(recipe.recover_by) + 1) - 1)
    return (6 if recipe.recover_selective else 4) * 4 * trained + both + tokens, kept


def _reconstruction(recipe: Recipe, tensors: list[TensorShape], dense: int) -> tuple[int, int]:
    """Bytes that reconstruction takes in memory and on disk, beside a ``dense`` model of so many.

    In memory: the pruned model in float32, of one block weights, gradients and two moments, and the
    hidden states of both models before and after it, and what it is to give. On disk: what each
    round has pruned and reconstructed, between rounds the whole model, and later the hidden
    states.
    """
    parameters = sum(t.elements for t in tensors)
    prunable = [t for t in tensors if t.prunable]
    blocks = 4 * sum(t.elements for t in prunable)
    width = next((t.shape[1] for t in tensors if t.embedding), 0)
    states = 2 * RECONSTRUCTION_SEQUENCES * recipe.length * width * 2
    block = 4 * blocks // max(1, len({t.block for t in prunable}))
    kept = blocks * (2 * len(rounds(recipe)) - 1) + 4 * max(_written(recipe, parameters), states)
    return dense + 4 * parameters + block + 5 * states, kept


def _written(recipe: Recipe, parameters: int) -> int:
    """Weights that stand on the disk as a round has left them, while the next one prunes."""
    return parameters if len(rounds(recipe)) > 1 else 0


def check_disk(recipe: Recipe, folder: Path) -> None:
    """Refuse a build that the disk cannot hold, before it starts.

    Raises:
        MachineError: too little free space for what is not there yet.
    """
    needed = _disk_bytes(recipe, inventory(recipe.model))
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if free + there < needed:
        raise MachineError(
            f"{folder} has {free / _GIB:.1f} GiB free, the build needs {needed / _GIB:.1f} GiB.",
            "Free some space, or choose a folder on another disk with --out.",
        )


def _stored_bytes(tensor: TensorShape, kind: WeightType) -> int:
    """By the type of most matrices; a mix is a little larger."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    from exporters.gguf.mixes import fitting, storage_type

    if len(tensor.shape) < 2:
        return 4 * tensor.elements
    stored = fitting(GGMLQuantizationType[kind.base], tensor.shape[1])
    if tensor.embedding:
        stored = storage_type(kind, "token_embd.weight", tensor.shape[1], 0, tied=True)
    block, block_bytes = GGML_QUANT_SIZES[stored]
    return tensor.elements // block * block_bytes


def _onnx_bytes(tensor: TensorShape, kind: str, block: int) -> int:
    """Integers have a scale of 4 bytes a block; embedding and head have at least 8 bits."""
    bits = {"FP32": 32, "FP16": 16, "INT8": 8, "INT4": 8 if tensor.embedding else 4}[kind]
    if len(tensor.shape) < 2:
        return 4 * tensor.elements
    return tensor.elements * bits // 8 + (4 * tensor.elements // block if bits <= 8 else 0)


def _flops_per_second() -> float:
    """Float32 matrix throughput, measured for a moment; bfloat16 makes up for what else is done."""
    a = np.ones((1024, 1024), np.float32)
    a @ a
    rounds, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.2:
        a @ a
        rounds += 1
    return rounds * 2 * 1024**3 / (time.perf_counter() - start)
