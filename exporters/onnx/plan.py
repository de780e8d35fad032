"""Plan the tensors of the model and their storage, without reading them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from edgeprune.planning.grid import Grid
from edgeprune.planning.tensors import ModelPlan, Role, Storage, TensorPlan, role_of
from edgeprune.support.errors import InputError, UsageError
from exporters.base import Model, StorageRequest
from exporters.onnx.decoder import Decoder
from exporters.onnx.types import TYPES

BITS = {"INT8": 8, "INT4": 4}
_LEAST_BLOCK = 16  # of onnxruntime's operators
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_SCALE_BITS = 32  # of a float32


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor to be written.

    Attributes:
        name: the tensor's name in the checkpoint and in the model.
        shape: as in the checkpoint, (out, in) or (n,).
        type: ``FP32``, ``FP16``, ``INT8`` or ``INT4``.
        block: number of weights in a row that share a scale; 0: no scales.
        transposed: whether it is stored as (in, out), as ONNX multiplies.
        looked_up: whether its rows are looked up, as in an embedding.
        alphabet: the only codes of an integer type that are used; None: all.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    block: int = 0
    transposed: bool = False
    looked_up: bool = False
    alphabet: Grid | None = None

    @property
    def grid(self) -> Grid:
        """Return the grid of an integer type, symmetric around the code of zero."""
        if self.alphabet:
            return replace(self.alphabet, block=self.block)
        high = 2 ** (BITS[self.type] - 1) - 1
        return Grid(-high if self.type == "INT8" else -high - 1, high, self.block)

    @property
    def bytes(self) -> int:
        """Return the size in the data file, without padding; scales take 4 bytes each."""
        elements = 1
        for size in self.shape:
            elements *= size
        if self.type in BITS:
            return elements * BITS[self.type] // 8 + elements // self.block * _SCALE_BITS // 8
        return elements * (2 if self.type == "FP16" else 4)

    @property
    def row(self) -> TensorPlan:
        """Convert the tensor to the rows of all targets."""
        grid = self.grid if self.type in BITS else None
        alphabet = grid if self.alphabet else None
        storage = Storage(self.type, self.bytes, grid, alphabet, _SCALE_BITS)
        return TensorPlan(self.name, self.name, self.shape, storage)

    def obeying(self, plan: ModelPlan, block: int) -> "PlannedTensor":
        """Return the tensor in a plan's type, with scales for ``block`` weights at most."""
        stored = plan.tensors[self.name].storage
        if stored.type == self.type:
            return replace(self, alphabet=stored.alphabet)
        return _of_type(self.name, self.shape, stored.type, block, self.looked_up)


def plan_tensors(
    model: Model, decoder: Decoder, wanted: StorageRequest
) -> dict[str, PlannedTensor]:
    """Plan every tensor, by its name.

    Raises:
        InputError: a tensor of the checkpoint has no place in the architecture.
        UsageError: a type is set for tensors that do not exist.
    """
    planned = {}
    onnx = decoder.family.onnx
    needed = [EMBEDDING, *_in_blocks(decoder, onnx.tensors, "weight"), NORM]
    needed += [] if decoder.tied else [HEAD]
    places = {*needed, *_in_blocks(decoder, onnx.matrices, "bias")}
    for name in model.weights.names():
        if name.endswith("rotary_emb.inv_freq") or (decoder.tied and name == HEAD):
            continue  # computed, not learnt; the embedding again
        if name not in places:
            raise InputError(f"The architecture {decoder.kind} has no place for the tensor {name}.")
        planned[name] = planned_tensor(
            name, model.weights.shape(name), wanted, name == EMBEDDING,
            name == HEAD or (decoder.tied and name == EMBEDDING),
        )  # fmt: skip
    if missing := [name for name in needed if name not in planned]:
        raise InputError(
            f"The checkpoint has no tensor {missing[0]}.", "Download the checkpoint again."
        )
    check_overrides(planned, wanted)
    return planned


def _in_blocks(decoder: Decoder, names: Iterable[str], part: str) -> list[str]:
    return [
        f"model.layers.{layer}.{name}.{part}" for layer in range(decoder.layers) for name in names
    ]


def check_overrides(planned: Iterable[str], wanted: StorageRequest) -> None:
    """Reject types for tensors that do not exist.

    Raises:
        UsageError: an expression matches no tensor; the message names the first one.
    """
    names = list(planned)
    for expression, _ in wanted.overrides:
        if not any(re.search(expression, name) for name in names):
            raise UsageError(
                f"artifact.type_map: '{expression}' matches no tensor of the model.",
                f"Names look like {names[0]}.",
            )


def planned_tensor(
    name: str, shape: tuple[int, ...], wanted: StorageRequest, looked_up: bool, head: bool
) -> PlannedTensor:
    """Choose how one tensor is stored.

    Args:
        name: in the checkpoint.
        shape: shape in the checkpoint.
        wanted: types set by the user.
        looked_up: whether it is an embedding.
        head: whether it is the output head.
    """
    if len(shape) < 2:
        return PlannedTensor(name, shape, "FP32")  # norms and biases are tiny and sensitive
    other = next((t for e, t in wanted.overrides if re.search(e, name)), None)
    other = other or wanted.of_vocabulary(looked_up, head)
    kind = TYPES[other or wanted.type]
    if (looked_up or head) and not other:  # what every token passes through twice
        kind = TYPES["int8" if kind.base == "INT4" else kind.base.lower()]
    planned = _of_type(name, shape, kind.base, wanted.block, looked_up)
    return replace(planned, alphabet=kind.alphabet) if planned.type in BITS else planned


def _of_type(
    name: str, shape: tuple[int, ...], kind: str, wanted_block: int, looked_up: bool
) -> PlannedTensor:
    """Plan a tensor of a type; FP16 if no block of an integer type divides its rows."""
    if kind in BITS:
        if block := _block(shape[-1], wanted_block):
            return PlannedTensor(name, shape, kind, block, looked_up=looked_up)
        kind = "FP16"
    transposed = len(shape) > 1 and not looked_up
    return PlannedTensor(name, shape, kind, transposed=transposed, looked_up=looked_up)


def _block(columns: int, wanted: int) -> int:
    """Find the largest block, up to the requested size, that divides a row; 0 if none does."""
    while wanted >= _LEAST_BLOCK and columns % wanted:
        wanted //= 2
    return wanted if wanted >= _LEAST_BLOCK else 0


def estimate(shapes: Mapping[str, tuple[int, ...]], wanted: StorageRequest) -> list[TensorPlan]:
    """Make rows for tensors known only by names and shapes, in any spelling."""
    roles = {name: role_of(name, shape) for name, shape in shapes.items()}
    return [
        planned_tensor(
            name, shape, wanted, roles[name] == Role.EMBEDDING, roles[name] == Role.HEAD
        ).row
        for name, shape in shapes.items()
    ]
