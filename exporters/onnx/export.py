"""From a checkpoint to a verified ONNX model."""

from dataclasses import replace
from pathlib import Path

from onnx import ModelProto, helper

from edgeprune.errors import CheckFailed, InputError
from edgeprune.quantization.grid import Grid
from edgeprune.sparsity.metadata import SparsityMetadata
from edgeprune.sparsity.onnx_data import ExternalData, atomic_model
from edgeprune.sparsity.onnx_metadata import properties
from exporters.artifact import Artifact, Model, Stage, Storage
from exporters.onnx.build import FLAVOURS, build, declare
from exporters.onnx.decoder import Decoder, read_decoder
from exporters.onnx.genai import write_beside
from exporters.onnx.graph import Graph
from exporters.onnx.plan import BITS, PlannedTensor, plan_tensors
from exporters.onnx.verify import check_counts, verify
from exporters.onnx.weights import WeightWriter


def check(model: Model, storage: Storage) -> None:
    """Refuse a model that can't be exported, from its configuration and headers alone.

    Raises:
        InputError: the architecture, a feature of it or the tokenizer is not supported.
    """
    plan_tensors(model, read_decoder(model.folder), storage)
    if not (model.folder / "tokenizer.json").is_file():
        raise InputError(
            f"{model.folder} holds no tokenizer.json.",
            "Save the tokenizer with transformers' fast tokenizers, and try again.",
        )
    if storage.flavour == "portable" and storage.type.startswith("int"):
        raise InputError(
            "The portable flavour multiplies by floats alone.", "Take --type fp16, or flavour ort."
        )


def grids(model: Model, storage: Storage) -> dict[str, Grid]:
    """The tensors whose rounding calibration may choose, by name in the checkpoint."""
    planned = plan_tensors(model, read_decoder(model.folder), storage)
    return {name: tensor.grid for name, tensor in planned.items() if tensor.type in BITS}


def steps(model: Model) -> int:
    """How many steps `export` reports: blocks written, tensors verified, give or take a few."""
    return read_decoder(model.folder).layers + 1 + len(model.weights.names())


def export(
    model: Model,
    storage: Storage,
    path: Path,
    metadata: SparsityMetadata | None,
    quantized_by: str,
    stage: Stage,
) -> Artifact:
    """Write ``path`` and prove what it holds; it appears only if every check passed.

    Beside it stand ``<name>.data`` with the weights, the tokenizer and ``genai_config.json``.

    Args:
        model: what to export.
        storage: the types.
        path: the ``.onnx`` file.
        metadata: facts about the zeros, without their counts; None for a dense model.
        quantized_by: written to the model's properties.
        stage: told of every block written and tensor verified.

    Raises:
        InputError: the architecture or the tokenizer is not supported.
        CheckFailed: zeros were lost, or the file is not what was planned.
    """
    decoder = read_decoder(model.folder)
    planned = plan_tensors(model, decoder, storage)
    if left_out := model.pruned - set(planned):
        raise CheckFailed(f"Pruned tensors have no place in the model: {sorted(left_out)}.")
    with atomic_model(path) as temporary:
        data = temporary.with_name(f"{path.name}.data")
        with ExternalData(data, data.name) as external:
            graph = _graph(external, decoder, model, planned, storage, stage)
        found = graph.model(decoder.kind, quantized_by)
        own = {"edgeprune.flavour": storage.flavour}
        _save(found, temporary, own)
        pattern = metadata.pattern if metadata else ""
        facts = verify(temporary, model, planned, stage.advance, pattern)
        if metadata:
            counted = {fact.name: fact.nonzeros for fact in facts if fact.pruned}
            metadata = replace(metadata, nonzeros=counted)
            _save(found, temporary, own | properties(metadata))
        check_counts(temporary, facts)
    write_beside(path, model.folder, decoder)
    return Artifact(path, facts, metadata, (path, path.with_name(f"{path.name}.data")))


def _graph(
    data: ExternalData,
    decoder: Decoder,
    model: Model,
    planned: dict[str, PlannedTensor],
    storage: Storage,
    stage: Stage,
) -> Graph:
    flavour = FLAVOURS[storage.flavour]
    graph = Graph(data)
    declare(graph, decoder)
    contrib, shift = flavour.CONTRIB_OPERATORS, decoder.norm_shift
    weights = WeightWriter(graph, model, planned, contrib, shift)
    build(graph, decoder, weights, flavour.Operators(graph, decoder), stage.advance)
    return graph


def _save(model: ModelProto, path: Path, given: dict[str, str]) -> None:
    helper.set_model_props(model, given)
    path.write_bytes(model.SerializeToString())
