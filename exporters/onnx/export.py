"""From a checkpoint to a verified ONNX model."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

from onnx import ModelProto, helper

from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.formats.onnx.data import ExternalData, atomic_model
from edgeprune.formats.onnx.metadata import properties
from edgeprune.plan.grid import Grid
from edgeprune.plan.patterns import UNSTRUCTURED, parse
from edgeprune.support.errors import CheckFailed, InputError
from exporters.artifact import Artifact, Model, Stage, Storage
from exporters.config import load_config
from exporters.onnx.beside import copy_end_tokens, copy_tokenizer, write_genai_config
from exporters.onnx.build import FLAVOURS, build, declare
from exporters.onnx.decoder import known_families, read_decoder
from exporters.onnx.graph import Graph
from exporters.onnx.plan import BITS, plan_tensors, planned_tensor
from exporters.onnx.verify import check_counts, verify
from exporters.onnx.weights import WeightWriter


def check(model: Model, storage: Storage) -> None:
    """Refuse a model that can't be exported, from its configuration and headers alone.

    Raises:
        InputError: the architecture, a feature of it or the tokenizer is not supported.
    """
    if _is_known(model):
        plan_tensors(model, read_decoder(model.folder), storage)
    else:
        _tracing().check(model)
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
    if _is_known(model):
        planned = plan_tensors(model, read_decoder(model.folder), storage)
    else:
        shapes = {name: model.weights.shape(name) for name in model.weights.names()}
        planned = {n: planned_tensor(n, s, storage, False, False) for n, s in shapes.items()}
    return {name: tensor.grid for name, tensor in planned.items() if tensor.type in BITS}


def steps(model: Model) -> int:
    """How many steps `export` reports: blocks written, tensors verified, give or take a few."""
    blocks = read_decoder(model.folder).layers if _is_known(model) else 0
    return blocks + 1 + len(model.weights.names())


def export(
    model: Model,
    storage: Storage,
    path: Path,
    metadata: SparsityMetadata | None,
    quantized_by: str,
    stage: Stage,
) -> Artifact:
    """Write ``path`` and prove what it holds; it appears only if every check passed.

    Beside it stand ``<name>.data`` with the weights, the tokenizer and ``genai_config.json``; of
    architectures that are traced, transformers' configuration instead of the latter.

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
    source = _Known(model, storage) if _is_known(model) else _Traced(model, storage)
    planned = source.planned
    if left_out := model.pruned - set(planned):
        raise CheckFailed(f"Pruned tensors have no place in the model: {sorted(left_out)}.")
    with atomic_model(path) as temporary:
        data = temporary.with_name(f"{path.name}.data")
        with ExternalData(data, data.name) as external:
            graph = Graph(external)
            source.fill(graph, stage)
        found = graph.model(source.kind, quantized_by)
        own = {"edgeprune.flavour": source.flavour}
        _save(found, temporary, own)
        pattern = parse(metadata.pattern) if metadata else UNSTRUCTURED
        facts = verify(temporary, model, planned, stage.advance, pattern)
        if metadata:
            counted = {fact.name: fact.nonzeros for fact in facts if fact.pruned}
            metadata = replace(metadata, nonzeros=counted)
            _save(found, temporary, own | properties(metadata))
        check_counts(temporary, facts)
    source.write_beside(path)
    return Artifact(path, facts, metadata, (path, path.with_name(f"{path.name}.data")))


class _Known:
    """A model of an architecture that has a builder."""

    def __init__(self, model: Model, storage: Storage):
        self._model, self._decoder = model, read_decoder(model.folder)
        self.kind, self.flavour = self._decoder.kind, storage.flavour
        self.planned = plan_tensors(model, self._decoder, storage)

    def fill(self, graph: Graph, stage: Stage) -> None:
        flavour, decoder = FLAVOURS[self.flavour], self._decoder
        declare(graph, decoder)
        contrib, shift = flavour.CONTRIB_OPERATORS, decoder.family.norm_shift
        weights = WeightWriter(graph, self._model, self.planned, contrib, shift)
        build(graph, decoder, weights, flavour.Operators(graph, decoder), stage.advance)

    def write_beside(self, path: Path) -> None:
        copy_tokenizer(path, self._model.folder)
        write_genai_config(path, self._model.folder, self._decoder)


class _Traced:
    """A model of any other."""

    flavour = "traced"

    def __init__(self, model: Model, storage: Storage):
        self._tracing, self._model = _tracing(), model
        self._trace = self._tracing.trace(model)
        self._contrib = storage.flavour != "portable"
        self.kind = load_config(model.folder)["model_type"]
        self.planned = self._tracing.plan(model, self._trace, storage)

    def fill(self, graph: Graph, stage: Stage) -> None:
        weights = WeightWriter(graph, self._model, self.planned, self._contrib)
        self._tracing.build(graph, self._trace, weights)
        stage.advance()

    def write_beside(self, path: Path) -> None:
        copy_tokenizer(path, self._model.folder)
        copy_end_tokens(path, self._model.folder)


def _tracing() -> ModuleType:
    """Imported when it is needed: transformers takes seconds."""
    return import_module("exporters.onnx.traced")


def _is_known(model: Model) -> bool:
    return load_config(model.folder)["model_type"] in known_families()


def _save(model: ModelProto, path: Path, given: dict[str, str]) -> None:
    helper.set_model_props(model, given)
    path.write_bytes(model.SerializeToString())
