"""The plan of every tensor: one row each, decided once and used by engine, training and export.

The planner (`edgeprune.pipeline.planner`) makes a `ModelPlan`; `edgeprune plan` prints it and a
build's manifest holds it. Data and arithmetic alone: no torch, no files.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from edgeprune.planning.grid import SCALE_BITS, Grid
from edgeprune.planning.patterns import UNSTRUCTURED, Budget, Pattern


class Role(StrEnum):
    """The role of a tensor in a model."""

    EMBEDDING = "embedding"
    HEAD = "head"
    ATTENTION = "attention"
    MLP = "mlp"
    ROUTER = "router"
    OTHER = "other"


# Names of tensors, in transformers' and in GGUF's spelling.
_BLOCK = re.compile(r"(?:^|\.)(?:blk|layers|h|blocks)\.(\d+)\.")
_ROLES = {
    Role.EMBEDDING: re.compile(r"token_embd|embed_tokens|embed_in|wte"),
    Role.HEAD: re.compile(r"^(lm_head|embed_out|output)\.weight$"),
    Role.ROUTER: re.compile(r"\.(gate|router|shared_expert_gate|ffn_gate_inp\w*)\.weight$"),
    Role.ATTENTION: re.compile(r"attn|attention"),
    Role.MLP: re.compile(r"mlp|ffn|moe|expert|feed_forward"),
}


def block_of(name: str) -> int | None:
    """Find the decoder block that a tensor belongs to by its name."""
    found = _BLOCK.search(name)
    return int(found[1]) if found else None


def role_of(name: str, shape: tuple[int, ...]) -> Role:
    """Find the role of a tensor of this name and shape."""
    if len(shape) < 2:
        return Role.OTHER
    return next((role for role, spelling in _ROLES.items() if spelling.search(name)), Role.OTHER)


@dataclass(frozen=True)
class Storage:
    """How a tensor is stored in the artifact.

    Attributes:
        type: the target's own name of the type, such as ``Q4_0`` or ``INT8``.
        bytes: size in the file.
        grid: what weights are rounded to on the calibration data, or trained on; None: each weight
            is rounded by itself when the file is written.
        alphabet: the only codes that the tensor may have, fewer than its type's; None: all.
        scale_bits: bits of a scale.
    """

    type: str
    bytes: int
    grid: Grid | None = None
    alphabet: Grid | None = None
    scale_bits: int = SCALE_BITS

    @property
    def name(self) -> str:
        """The type, with its alphabet: ``Q4_0:3/64``."""
        return f"{self.type}:{self.alphabet.name}" if self.alphabet else self.type


@dataclass(frozen=True)
class TensorPlan:
    """The plan of one tensor.

    Attributes:
        name: the tensor's name in the checkpoint.
        stored_as: the tensor's name in the artifact.
        shape: (out, in), or (n,).
        pattern: the sparsity pattern.
        zeros: number of weights that become zero.
        storage: how the tensor is stored in the artifact.
    """

    name: str
    stored_as: str
    shape: tuple[int, ...]
    storage: Storage
    pattern: Pattern = UNSTRUCTURED
    zeros: int = 0

    @property
    def size(self) -> int:
        """Number of weights."""
        product = 1
        for length in self.shape:
            product *= length
        return product

    @property
    def packed_bits(self) -> float:
        """Bits of a weight in a packed file, scales and mask included."""
        stored = self.storage
        codes = stored.alphabet or stored.grid
        plain = 8 * stored.bytes / self.size
        if not codes:
            return plain
        density = 1 - self.zeros / self.size
        return min(plain, codes.bits_per_weight(density, self.pattern.mask_bits, stored.scale_bits))

    @property
    def block(self) -> int | None:
        """Index of its decoder block."""
        return block_of(self.name)

    @property
    def role(self) -> Role:
        """The tensor's role in the model."""
        return role_of(self.name, self.shape)

    @property
    def prunable(self) -> bool:
        """Tell whether this is a weight matrix of a decoder block; expert routers stay dense."""
        return len(self.shape) > 1 and self.block is not None and self.role != Role.ROUTER


@dataclass(frozen=True)
class ModelPlan:
    """The plan of a model: a row for every tensor.

    Attributes:
        tensors: rows by name in the checkpoint.
        pattern: sparsity pattern of the pruned tensors.
        sparsity: share of zeros over all pruned tensors; tensors that the table does not name, such
            as an expert inside a stack, get it.
    """

    tensors: Mapping[str, TensorPlan]
    pattern: Pattern = UNSTRUCTURED
    sparsity: float = 0.0

    @property
    def bytes(self) -> int:
        """Size in bytes of all tensors in the artifact."""
        return sum(tensor.storage.bytes for tensor in self.tensors.values())

    @property
    def zeros(self) -> int:
        """Number of weights that become zero."""
        return sum(tensor.zeros for tensor in self.tensors.values())

    @property
    def grids(self) -> dict[str, Grid]:
        """Grids of the tensors whose rounding calibration or training decides."""
        named = ((name, tensor.storage.grid) for name, tensor in self.tensors.items())
        return {name: grid for name, grid in named if grid}

    @property
    def masked(self) -> dict[str, Grid]:
        """Alphabets of the tensors whose mask is chosen with their codes."""
        named = ((name, tensor.storage.alphabet) for name, tensor in self.tensors.items())
        return {name: grid for name, grid in named if grid and grid.masked}

    def budget(self, name: str, size: int) -> Budget:
        """Return how many weights of a matrix are pruned, and under which pattern.

        Args:
            name: name in the checkpoint, or one of the same form if the matrix is part of a tensor.
            size: number of the matrix's weights.
        """
        tensor = self.tensors.get(name)
        if tensor is None or tensor.size != size:
            return Budget(self.pattern, round(self.sparsity * size))
        return Budget(tensor.pattern, tensor.zeros)

    def with_zeros(
        self,
        zeros: Mapping[str, int],
        pattern: Pattern,
        sparsity: float,
        patterns: Mapping[str, Pattern] | None = None,
    ) -> "ModelPlan":
        """Return the same plan with these zeros; tensors that are not named have none.

        Args:
            zeros: by tensor.
            pattern: pattern of the pruned tensors.
            sparsity: share of zeros over all of them.
            patterns: by tensor, where it has one of its own.
        """
        own = patterns or {}
        tensors = {
            name: replace(
                tensor,
                zeros=zeros.get(name, 0),
                pattern=own.get(name, pattern) if zeros.get(name) else UNSTRUCTURED,
            )
            for name, tensor in self.tensors.items()
        }
        return ModelPlan(tensors, pattern, sparsity)

    def without_alphabets(self) -> "ModelPlan":
        """Return the same plan in all codes of each type, as files without edgeprune have them."""
        return replace(
            self,
            tensors={
                name: replace(tensor, storage=replace(tensor.storage, alphabet=None))
                for name, tensor in self.tensors.items()
            },
        )

    def without_grids(self, of_blocks: bool = False) -> "ModelPlan":
        """Return the same plan without rounding before the export.

        Args:
            of_blocks: whether embedding and head are rounded all the same: training leaves them.
        """
        return replace(
            self,
            tensors={
                name: tensor
                if of_blocks and tensor.block is None
                else replace(tensor, storage=replace(tensor.storage, grid=None))
                for name, tensor in self.tensors.items()
            },
        )


def table(tensors: Iterable[TensorPlan]) -> ModelPlan:
    """Make a plan in which no tensor is pruned yet."""
    return ModelPlan({tensor.name: tensor for tensor in tensors}, UNSTRUCTURED)
