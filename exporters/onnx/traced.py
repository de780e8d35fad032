"""Trace transformers' code with torch, for architectures without a builder.

The graph has standard operators only, no fused attention, and caches that are copied at every step;
it is slower than a graph of `exporters.onnx.build`, and as correct as the trace. Weights
are not taken from the trace: they come tensor by tensor, in the same types as everywhere.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn
from transformers import DynamicCache

from edgeprune.models.stored import stored_tensors
from edgeprune.planning.tensors import block_of
from edgeprune.support.errors import InputError
from edgeprune.support.extras import load
from exporters.base import Model, StorageRequest
from exporters.onnx.graph import OPSET, Graph
from exporters.onnx.plan import PlannedTensor, check_overrides, planned_tensor
from exporters.onnx.weights import WeightWriter

_PAST, _NEW = 5, 3  # lengths in the example; what depends on them would show in the tests
_AXES = {
    "input_ids": ("batch", "sequence"),
    "attention_mask": ("batch", "total_sequence"),
    "past_key_values": ("batch", "", "past_sequence", ""),
    "logits": ("batch", "sequence", ""),
    "present": ("batch", "", "total_sequence", ""),
}


@dataclass(frozen=True)
class Trace:
    """A traced model.

    Attributes:
        graph: nodes, inputs and outputs, without weights.
        buffers: tensors that no checkpoint holds, such as rotary frequencies.
        names: the checkpoint's name of every weight in the graph.
    """

    graph: Any
    buffers: dict[str, np.ndarray]
    names: dict[str, str]

    @property
    def looked_up(self) -> set[str]:
        """List weights whose rows are looked up, by their names in the checkpoint."""
        return {
            self.names[node.input[0]]
            for node in self.graph.node
            if node.op_type == "Gather" and node.input[0] in self.names
        }


def first_blocks(checkpoint: Model) -> Trace:
    """Trace the first two blocks with random weights, so that failures show early.

    Raises:
        InputError: torch cannot trace the architecture.
    """
    library = load("transformers")
    try:
        config = library.AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
        layers = min(2, config.num_hidden_layers)
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
        model = library.AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, OSError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"transformers cannot build the model of {checkpoint.folder}: {error}"
        ) from None
    return _traced(model, set(checkpoint.weights.names()))


def trace(model: Model) -> Trace:
    """Trace a checkpoint's model.

    Raises:
        InputError: torch cannot trace the architecture, or its weights have other names there.
    """
    opened = load("transformers").AutoModelForCausalLM.from_pretrained(
        model.folder, trust_remote_code=False, local_files_only=True, dtype=torch.float32
    )
    return _traced(opened, set(model.weights.names()))


def plan(model: Model, first: Trace, wanted: StorageRequest) -> dict[str, PlannedTensor]:
    """Choose how every weight is stored, by its name in the checkpoint.

    Args:
        model: the checkpoint.
        first: the traced first blocks; the others have the same weights. Outside blocks, what is
            not used there, such
            as the copy of a tied head, is not stored.
        wanted: types set by the user.
    """
    used, looked_up = set(first.names.values()), first.looked_up
    planned = {
        name: planned_tensor(
            name, model.weights.shape(name), wanted, name in looked_up, "lm_head" in name
        )
        for name in model.weights.names()
        if name in used or block_of(name) is not None
    }
    check_overrides(planned, wanted)
    return planned


def build(graph: Graph, traced: Trace, weights: WeightWriter) -> None:
    """Add the traced nodes, with our weights in place of the trace's."""
    graph.inputs, graph.outputs = list(traced.graph.input), list(traced.graph.output)
    for name, value in traced.buffers.items():
        graph.constant(name, value)
    turned: dict[str, str] = {}  # output of a Transpose -> the weight
    for node in traced.graph.node:
        known = {place: traced.names[n] for place, n in enumerate(node.input) if n in traced.names}
        if node.op_type == "Transpose" and known:
            turned[node.output[0]] = known[0]
        elif node.op_type == "MatMul" and node.input[1] in turned:
            weights.multiply(turned[node.input[1]], node.input[0], node.output[0])
        elif node.op_type == "Gather" and 0 in known:
            weights.look_up(known[0], node.input[1], node.output[0])
        else:
            for place, name in known.items():
                node.input[place] = weights.vector(name)
            graph.adopt(node)


class _Flat(nn.Module):
    """A model whose cache goes in and out as one tensor after another."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: list[Tensor]) -> Any:
        pairs = zip(past[::2], past[1::2], strict=True)
        cache = DynamicCache(list(pairs))
        found = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache,
            use_cache=True,
        )  # fmt: skip
        return found.logits, *_tensors(found.past_key_values)


def _tensors(cache: Any) -> list[Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def _traced(model: Any, stored: set[str]) -> Trace:
    load("onnxscript")
    model = model.eval().requires_grad_(False)
    try:
        with torch.no_grad(), _quiet():
            program = _export(model)
    except Exception as error:  # torch has dozens of kinds for what it can't trace
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise InputError(
            f"torch cannot trace {type(model).__name__}: {reason}",
            "Use --target gguf, if it supports the architecture.",
        ) from None
    names = {f"model.{own}": name for own, name in _names(model, stored).items()}
    initializers = program.model.graph.initializers
    buffers = {n: v.const_value.numpy() for n, v in initializers.items() if n not in names}
    initializers.clear()
    graph = _proto(program.model).graph
    wide = {f"model.{n}" for n, parameter in model.named_parameters() if parameter.dim() > 1}
    _check_uses(graph, wide)
    used = {name for node in graph.node for name in node.input}
    return Trace(_named_axes(graph), buffers, {n: s for n, s in names.items() if n in used})


def _check_uses(graph: Any, wide: set[str]) -> None:
    """Check that matrices are only used as `build` supports: look-ups and linear layers."""
    turned = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Transpose"}
    for node in graph.node:
        for place, name in enumerate(node.input):
            weight = turned.get(name, name)
            known = ("MatMul", 1) if name in turned else ("Gather", 0)
            turns = node.op_type == "Transpose" and name in wide
            if weight in wide and not turns and (node.op_type, place) != known:
                raise InputError(
                    f"{weight.removeprefix('model.')} is used by a {node.op_type}, which the "
                    "ONNX exporter does not support.",
                    "It supports embeddings and linear layers; --target gguf may support more.",
                )


def _names(model: Any, stored: set[str]) -> dict[str, str]:
    """Map parameters to their names in the checkpoint; a tied parameter has one name."""
    found: dict[str, str] = {}
    first: dict[int, str] = {}  # place in memory -> name
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.data_ptr() not in first:
            first[parameter.data_ptr()] = _stored_name(model, name, parameter, stored)
        found[name] = first[parameter.data_ptr()]
    return found


def _stored_name(model: Any, name: str, parameter: Tensor, stored: set[str]) -> str:
    """Find a checkpoint's name of a parameter that it stores in the same shape."""
    for own, tensor in stored_tensors(model, {name: parameter}, stored).items():
        if tensor.shape == parameter.shape:
            return own
    raise InputError(
        f"The checkpoint does not store {name} as one tensor of the same shape.",
        "Convert the checkpoint with save_pretrained(..., save_original_format=False).",
    )


def _export(model: Any) -> Any:
    ids = torch.ones(1, _NEW, dtype=torch.long)
    past = _tensors(model(ids, use_cache=True).past_key_values)
    past = [torch.randn(*t.shape[:2], _PAST, t.shape[3]) for t in past]
    kinds = [f"{i}.{part}" for i in range(len(past) // 2) for part in ("key", "value")]
    auto = torch.export.Dim.AUTO
    both = {0: auto, 1: auto}
    return torch.onnx.export(
        _Flat(model),
        (ids, torch.ones(1, _PAST + _NEW, dtype=torch.long), past),
        dynamo=True,
        optimize=False,  # else weights lose their names
        opset_version=OPSET,
        dynamic_shapes=(both, both, [{0: auto, 2: auto}] * len(past)),
        input_names=["input_ids", "attention_mask", *(f"past_key_values.{k}" for k in kinds)],
        output_names=["logits", *(f"present.{k}" for k in kinds)],
        verbose=False,
    )


def _proto(model: Any) -> ModelProto:
    from onnx_ir import serde

    return serde.serialize_model(model)


def _named_axes(graph: Any) -> Any:
    for value in (*graph.input, *graph.output):
        axes = _AXES[value.name.partition(".")[0]]
        for dim, axis in zip(value.type.tensor_type.shape.dim, axes, strict=True):
            if axis:
                dim.dim_param = axis
    del graph.value_info[:]  # shapes in the names that torch gave them
    return graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporter on all its output channels."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
