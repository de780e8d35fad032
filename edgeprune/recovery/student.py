"""The pruned model that is trained."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprune.engine import PrunedCheckpoint
from edgeprune.formats.weights import Weights, save_tensors
from edgeprune.models.blocks import decoder_blocks
from edgeprune.models.loading import embedding_names, load_model
from edgeprune.models.stored import stored_tensors
from edgeprune.recovery.masters import Masters
from edgeprune.support.errors import InputError


class Student:
    """The pruned model and its trained weights: its blocks, or adapters beside them.

    Args:
        pruned: the pruned model.
        device: device for training.
        dtype: type of the model's arithmetic.
        rank: rank of adapters; None: whole blocks are trained.
        seed: random seed of the adapters' initial values.
        beside: names in the checkpoint of embedding and head, if they are trained with the blocks.

    Attributes:
        model: the transformers model, in ``dtype``.
        masters: the trained weights.
        masked: names of the trained weights whose zeros stay: of pruned ones.
    """

    def __init__(
        self,
        pruned: PrunedCheckpoint,
        device: torch.device,
        dtype: torch.dtype,
        rank: int | None,
        seed: int,
        beside: Collection[str] = (),
    ):
        self._weights = pruned.weights()
        # All weights may be trained, from every digit; beside adapters they only compute.
        self.model = open_student(pruned, dtype if rank else torch.float32)
        self._adapters = None
        self.masked: frozenset[str] = frozenset()
        if rank:
            from edgeprune.recovery.adapters import Adapters

            self._adapters = Adapters(self.model, rank, seed)
            working = self._adapters.parameters
        else:
            prefix, _ = decoder_blocks(self.model)
            embeddings = embedding_names(self.model, self._weights.names()) if beside else {}
            working = {
                name: parameter.requires_grad_(True)
                for name, parameter in self.model.named_parameters()
                if name.startswith(f"{prefix}.") or embeddings.get(name) in beside
            }
            zeroed = {record.name for record in pruned.records}
            self.masked = frozenset(
                name for name in working if name not in embeddings or embeddings[name] in zeroed
            )
        self.model.to(device)
        self.masters = Masters(working)
        for parameter in self.model.parameters():  # not the buffers: positions need their digits
            parameter.data = parameter.data.to(dtype)

    def save_memory(self) -> None:
        """Keep no activations inside blocks (gradient checkpointing).

        Raises:
            InputError: the architecture does not support it.
        """
        try:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise InputError(str(error), "Remove training.save_memory from the recipe.") from None
        for block in decoder_blocks(self.model)[1]:
            for name, value in vars(block).items():
                if "dropout" in name and isinstance(value, float):
                    setattr(block, name, 0.0)  # some drop out in the block itself
            block.training = True  # of the block alone: what is inside it drops nothing out

    def trained(self, values: Weights) -> dict[str, Tensor]:
        """Return trained tensors for ``values`` of the parameters, named as in the checkpoint."""
        stored = self._weights.names()
        if self._adapters is None:
            tensors = {name: values.read(name) for name in self.masters.names}
            return stored_tensors(self.model, tensors, stored)
        changes = stored_tensors(self.model, self._adapters.changes(values), stored)
        for name, change in changes.items():  # to what is stored: the student has lost digits
            change.add_(self._weights.read(name))
        return changes


def open_student(pruned: PrunedCheckpoint, dtype: torch.dtype) -> Any:
    """Load the pruned model without gradients."""
    return load_model(pruned.base, dtype, pruned.weights()).requires_grad_(False)


def write_checkpoint(pruned: PrunedCheckpoint, folder: Path) -> None:
    """Write a folder that transformers reads as the pruned model, in float32."""
    weights = pruned.weights()
    for file in pruned.base.folder.glob("*.json"):
        if ".index." not in file.name:
            shutil.copy(file, folder)
    tensors = {name: weights.read(name).float() for name in weights.names()}
    save_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
