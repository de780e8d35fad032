"""Which tensors go into the folder, and in which types. Nothing is read yet."""

import math
import re
from collections.abc import Mapping

from edgeprune.planning.tensors import Role, Storage, TensorPlan, role_of
from edgeprune.support.errors import InputError, UsageError
from exporters.base import Model, StorageRequest

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_HEAD = "lm_head.weight"


def lay_out(model: Model, wanted: StorageRequest, tied: bool) -> list[TensorPlan]:
    """Every tensor, in the checkpoint's order.

    Args:
        model: what is exported.
        wanted: the types.
        tied: whether the embedding is the output head too; a copy of it is left out then.

    Raises:
        InputError: weights are stored as something else than floats.
        UsageError: a type is asked for tensors that are not there.
    """
    weights = model.weights
    shapes = {
        name: weights.shape(name)
        for name in weights.names()
        if not (name.endswith("rotary_emb.inv_freq") or (tied and name == _HEAD))
    }
    for name in shapes:
        if weights.dtype(name) not in BYTES:
            raise InputError(
                f"{name} is stored as {weights.dtype(name)}: expected floats.",
                "Give the checkpoint as it was before it was quantised.",
            )
    for expression, _ in wanted.overrides:
        if not any(re.search(expression, name) for name in shapes):
            raise UsageError(
                f"type_map: '{expression}' matches no tensor of the model.",
                f"Names look like {next(iter(shapes))}.",
            )
    return estimate(shapes, wanted)


def estimate(shapes: Mapping[str, tuple[int, ...]], wanted: StorageRequest) -> list[TensorPlan]:
    """Rows for tensors of these names and shapes."""
    tied = all(role_of(name, shape) != Role.HEAD for name, shape in shapes.items())
    return [
        TensorPlan(name, name, shape, Storage(kind, BYTES[kind] * math.prod(shape)))
        for name, shape in shapes.items()
        for kind in [_type(name, role_of(name, shape), wanted, tied)]
    ]


def _type(name: str, role: Role, wanted: StorageRequest, tied: bool) -> str:
    asked = next((kind for text, kind in wanted.overrides if re.search(text, name)), "")
    embedding = role == Role.EMBEDDING
    own = wanted.of_vocabulary(embedding, role == Role.HEAD or (embedding and tied))
    return (asked or own or wanted.type).upper()
