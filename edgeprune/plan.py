"""What a build will need and give, before any work is done."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.errors import MachineError
from edgeprune.methods import METHODS
from edgeprune.models.checkpoint import locate
from edgeprune.models.inventory import TensorShape, inventory
from edgeprune.recipe import Recipe, budget_seconds, rounds
from edgeprune.recovering import REBUILT_ON
from edgeprune.sparsity.types import TYPES_OF, WeightType

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
        seconds: estimated time on this machine, by its measured matrix throughput.
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
    parameters = sum(t.elements for t in tensors)
    prunable = sum(t.elements for t in tensors if t.prunable)
    pruned = prunable + (
        sum(t.elements for t in tensors if t.embedding) if recipe.prune_head else 0
    )
    kind = TYPES_OF[recipe.target][recipe.type]
    if recipe.target == "onnx":
        size = sum(_onnx_bytes(tensor, kind.base, recipe.block_size) for tensor in tensors)
    else:
        size = sum(_stored_bytes(tensor, kind) for tensor in tensors)
    stored = (
        4 if locate(recipe.model)[0] == "gguf" else 2
    )  # dequantised weights are kept as float32
    width = next((t.shape[1] for t in tensors if t.embedding), 0)
    hidden = 2 * recipe.samples * recipe.length * width * 2
    tokens = 2 * recipe.samples * recipe.length
    flops = 2.0 * tokens * 2 * prunable  # every block runs twice: to be seen, and once pruned
    gram_bytes = 0
    if METHODS[recipe.method].sees == "gram" or recipe.swaps or recipe.resolve:
        matrices = [t for t in tensors if t.prunable]
        inputs = sum(t.shape[1] ** 2 for t in matrices) / _READERS
        flops += tokens * inputs  # half a Gram matrix
        flops += sum(_SOLVER_PRODUCTS * 2 * t.shape[0] * t.shape[1] ** 2 for t in matrices)
        gram_bytes = 4 * 8 * max((t.shape[1] for t in matrices), default=0) ** 2
    if recipe.max_loss:
        flops *= 1 + _TRIALS
    trained_bytes = kept_bytes = 0
    if recipe.recover and recipe.recover_by == ["reconstruct"]:
        trained_bytes, kept_bytes = _rebuilding(recipe, tensors, stored * parameters)
    elif recipe.recover:
        trained_bytes, kept_bytes = _training(recipe, tensors)
    recovery_seconds = budget_seconds(recipe) if recipe.recover else 0
    evaluation_tokens = 2 * (recipe.eval_rows * _TOKENS_PER_ROW + recipe.perplexity_tokens)
    return BuildPlan(
        parameters=parameters,
        prunable=prunable,
        zeros=round(pruned * recipe.sparsity),
        artifact_bytes=size,
        disk_bytes=2 * size + stored * pruned + 2 * hidden + kept_bytes,
        memory_bytes=round(
            _BASE_MEMORY + max(stored * parameters + 2 * hidden + gram_bytes, trained_bytes)
        ),
        seconds=(flops + evaluation_tokens * 2 * parameters) / _flops_per_second()
        + (1 + _TRIALS * bool(recipe.max_loss)) * recovery_seconds,
    )


def _training(recipe: Recipe, tensors: list[TensorShape]) -> tuple[int, int]:
    """Bytes that training takes in memory and on disk.

    In memory: float32 weights, gradients and two moments, both models and the gradients in what
    they compute in, a step's logits and activations; with adapters those of the whole are small,
    and at the end the whole model stands there in float32 twice. On disk: the best weights, the run
    as it is kept (weights and moments) while it is written anew, for a moment the student, and what
    each way and round has trained.
    """
    parameters = sum(t.elements for t in tensors)
    prunable = sum(t.elements for t in tensors if t.prunable)
    trained = prunable
    if recipe.recover_rank:
        trained = sum(recipe.recover_rank * sum(t.shape) for t in tensors if t.prunable)
    both = (12 if recipe.recover_rank else 6) * parameters
    logits = 6 * max((t.shape[0] for t in tensors if t.embedding), default=0)
    if recipe.recover_save_memory:
        tokens = recipe.length * logits
    else:
        inner = 2 * sum(sum(t.shape) for t in tensors if t.prunable)
        tokens = recipe.recover_batch * recipe.length * (logits + inner)
    kept = 4 * (8 if recipe.recover_selective else 7) * trained + 4 * parameters
    kept += 4 * prunable * (len(rounds(recipe)) * (len(recipe.recover_by) + 1) - 1)
    return (6 if recipe.recover_selective else 4) * 4 * trained + both + tokens, kept


def _rebuilding(recipe: Recipe, tensors: list[TensorShape], dense: int) -> tuple[int, int]:
    """Bytes that reconstruction takes in memory and on disk, beside a ``dense`` model of so many.

    In memory: the pruned model in float32, of one block weights, gradients and two moments, and the
    hidden states of both models before and after it, and what it is to give. On disk: what each
    round has pruned and rebuilt, for a moment the pruned model, and later the hidden states.
    """
    parameters = sum(t.elements for t in tensors)
    prunable = [t for t in tensors if t.prunable]
    rebuilt = 4 * sum(t.elements for t in prunable)
    width = next((t.shape[1] for t in tensors if t.embedding), 0)
    states = 2 * REBUILT_ON * recipe.length * width * 2
    block = 4 * rebuilt // max(1, len({t.block for t in prunable}))
    kept = rebuilt * (2 * len(rounds(recipe)) - 1) + 4 * max(parameters, states)
    return dense + 4 * parameters + block + 5 * states, kept


def check_disk(recipe: Recipe, folder: Path) -> None:
    """Refuse a build that the disk cannot hold, before it starts.

    Raises:
        MachineError: too little free space for what is not there yet.
    """
    needed = plan(recipe).disk_bytes
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
