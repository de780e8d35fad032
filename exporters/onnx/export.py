"""From a checkpoint to a verified ONNX model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

from onnx import ModelProto, helper

from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.formats.onnx.data import ExternalData, atomic_model
from edgeprune.planning.patterns import UNSTRUCTURED, parse
from edgeprune.planning.tensors import ModelPlan, TensorPlan
from edgeprune.support.errors import CheckFailed, InputError
from edgeprune.support.progress import Stage
from exporters.base import Artifact, Model, StorageRequest
from exporters.beside import TOKENIZER_FILES, copy_files
from exporters.config import load_config
from exporters.onnx.beside import write_genai_config
from exporters.onnx.build import OPERATORS, build, declare
from exporters.onnx.decoder import known_families, read_decoder
from exporters.onnx.graph import Graph
from exporters.onnx.plan import PlannedTensor, plan_tensors
from exporters.onnx.verify import check_counts, verify
from exporters.onnx.weights import WeightWriter

Planned = Mapping[str, PlannedTensor]
# transformers' configuration names the tokens that end an answer.
_END_TOKEN_FILES = ("generation_config.json", "config.json")


def plan(model: Model, wanted: StorageRequest) -> "OnnxPlan":
    """Lay out a model; reject one that cannot be exported.

    Raises:
        InputError: the architecture, a feature of it or the tokenizer is not supported.
        UsageError: a type is set for tensors that do not exist.
    """
    known = load_config(model.folder)["model_type"] in known_families()
    source: _Source = _Known(model, wanted) if known else _Traced(model, wanted)
    if not (model.folder / "tokenizer.json").is_file():
        raise InputError(
            f"{model.folder} has no tokenizer.json.",
            "Save the tokenizer with transformers as a fast tokenizer, and try again.",
        )
    if wanted.operators == "portable" and wanted.type.startswith("int"):
        raise InputError(
            "Portable operators support only float weights.",
            "Use --type fp16 or fp32, or --set artifact.operators=ort.",
        )
    return OnnxPlan(source, wanted)


class OnnxPlan:
    """The layout of a model in an ONNX file and its data; see `exporters.base.FilePlan`.

    Args:
        source: builds or traces the graph.
        wanted: how weights are stored.
    """

    def __init__(self, source: "_Source", wanted: StorageRequest):
        self._source, self._wanted = source, wanted

    @property
    def tensors(self) -> Sequence[TensorPlan]:
        """Make a row for each tensor."""
        return [tensor.row for tensor in self._source.planned.values()]

    @property
    def steps(self) -> int:
        """Count the steps: blocks are written, then tensors verified."""
        return self._source.blocks + 1 + len(self._source.planned)

    def export(
        self,
        model: Model,
        plan: ModelPlan,
        path: Path,
        metadata: SparsityMetadata | None,
        quantized_by: str,
        stage: Stage,
    ) -> Artifact:
        """See `exporters.base.FilePlan.export`.

        The companion files are ``<name>.data`` with the weights, the tokenizer and
        ``genai_config.json``; of architectures that are traced, transformers' configuration instead
        of the latter.

        Raises:
            InputError: torch cannot trace the architecture.
            CheckFailed: zeros were lost, or the file differs from the plan.
        """
        source, block = self._source, self._wanted.block
        planned = {n: tensor.obeying(plan, block) for n, tensor in source.planned.items()}
        with atomic_model(path) as temporary:
            data = temporary.with_name(f"{path.name}.data")
            with ExternalData(data, data.name) as external:
                graph = Graph(external)
                written = source.fill(graph, model, planned, stage)
            if left_out := model.pruned - set(written):
                raise CheckFailed(
                    f"The ONNX layout has no place for the pruned tensors {sorted(left_out)}."
                )
            found = graph.model(source.kind, quantized_by)
            own = {"edgeprune.flavour": source.operators}
            _save(found, temporary, own)
            pattern = parse(metadata.pattern) if metadata else UNSTRUCTURED
            facts = verify(temporary, model, written, stage.advance, pattern)
            if metadata:
                counted = {fact.name: fact.nonzeros for fact in facts if fact.pruned}
                metadata = replace(metadata, nonzeros=counted)
                _save(found, temporary, own | metadata.properties())
            check_counts(temporary, facts)
        copy_files(TOKENIZER_FILES, model.folder, path.parent)
        source.write_beside(path, model.folder)
        return Artifact(path, facts, metadata, (path, path.with_name(f"{path.name}.data")))


class _Source(Protocol):
    """A source of the graph, made once.

    Attributes:
        kind: transformers' ``model_type``.
        operators: name of the operator set, recorded in the file.
        planned: every tensor, in the requested type.
        blocks: number of steps that `fill` reports, minus one.
    """

    kind: str
    operators: str
    planned: Planned
    blocks: int

    def fill(self, graph: Graph, model: Model, planned: Planned, stage: Stage) -> Planned:
        """Add nodes and weights, and return the tensors in the graph."""

    def write_beside(self, path: Path, folder: Path) -> None:
        """Write the companion files that runtimes look for."""


class _Known:
    """A model of an architecture with a builder."""

    def __init__(self, model: Model, wanted: StorageRequest):
        self._decoder = read_decoder(model.folder)
        self.kind, self.operators = self._decoder.kind, wanted.operators
        self.planned: Planned = plan_tensors(model, self._decoder, wanted)
        self.blocks = self._decoder.layers

    def fill(self, graph: Graph, model: Model, planned: Planned, stage: Stage) -> Planned:
        module, decoder = OPERATORS[self.operators], self._decoder
        declare(graph, decoder)
        contrib, shift = module.CONTRIB_OPERATORS, decoder.family.norm_shift
        weights = WeightWriter(graph, model, planned, contrib, shift)
        build(graph, decoder, weights, module.Operators(graph, decoder), stage.advance)
        return planned

    def write_beside(self, path: Path, folder: Path) -> None:
        write_genai_config(path, folder, self._decoder)


class _Traced:
    """A model of any other architecture."""

    operators = "traced"
    blocks = 0

    def __init__(self, model: Model, wanted: StorageRequest):
        tracing = _tracing()
        self.planned: Planned = tracing.plan(model, tracing.first_blocks(model), wanted)
        self.kind = load_config(model.folder)["model_type"]
        self._contrib = wanted.operators != "portable"

    def fill(self, graph: Graph, model: Model, planned: Planned, stage: Stage) -> Planned:
        tracing = _tracing()
        trace = tracing.trace(model)
        used = set(trace.names.values())
        planned = {name: tensor for name, tensor in planned.items() if name in used}
        tracing.build(graph, trace, WeightWriter(graph, model, planned, self._contrib))
        stage.advance()
        return planned

    def write_beside(self, path: Path, folder: Path) -> None:
        copy_files(_END_TOKEN_FILES, folder, path.parent)


def _tracing() -> ModuleType:
    """Import tracing only when needed: transformers takes seconds."""
    return import_module("exporters.onnx.traced")


def _save(model: ModelProto, path: Path, given: dict[str, str]) -> None:
    helper.set_model_props(model, given)
    path.write_bytes(model.SerializeToString())
