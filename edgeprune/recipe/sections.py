"""The sections of a recipe: the only place that defines names, defaults, limits and help.

Fields made by `flag` are command-line options too, under the name given or their own.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

import exporters
from edgeprune.planning.allocation import ALLOCATIONS
from edgeprune.planning.patterns import UNSTRUCTURED
from edgeprune.pruning.methods import METHODS
from edgeprune.recipe.checks import (
    base_60,
    comma_separated,
    fixed_sparsity,
    known_name,
    known_pattern,
    ways_in_order,
    with_unit,
)
from edgeprune.recipe.units import seconds, share
from edgeprune.recovery import RECOVERIES
from edgeprune.support.errors import unknown

# `edgeprune.pruning.fusion` defines them; their names stand here so that `--help` needs no torch.
FUSION_MODES = ("general", "task", "mix", "fused")


def flag(default: Any, description: str, name: str = "", **limits: Any) -> Any:
    """Define a field that is also a command-line option.

    Args:
        default: the default value; ``...``: the field is required.
        description: the text for ``--help``.
        name: name of the option without leading dashes; by default the field's name.
        limits: further arguments of pydantic's ``Field``.
    """
    return Field(default, description=description, json_schema_extra={"option": name}, **limits)


class Section(BaseModel):
    """A group of settings. Unknown names are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(Section):
    """The model to prune, and the device to compute on."""

    name: str = flag(
        "smollm2-135m",
        "hub id, transformers folder, .gguf file, or the name of a packaged model",
        "model",
    )
    device: str = flag("auto", "auto, cpu or cuda", pattern=r"^(auto|cpu|cuda(:\d+)?)$")


class Data(Section):
    """The task, and the two calibration streams."""

    task: str = flag(..., "shipped task, or a .yaml or .jsonl file (see `edgeprune tasks`)")
    general: str = flag(
        "boolq_passages", "general text: a shipped corpus, or a .yaml or .jsonl file"
    )
    samples: int = flag(24, "calibration sequences per stream", ge=1)
    length: int = flag(512, "tokens per sequence", ge=2)
    seed: int = flag(0, "random seed for the order of calibration rows", ge=0)
    answer_weight: float = Field(
        1.0,
        gt=0,
        description="weight, in statistics and losses, of positions that predict an answer token",
    )


class Fusion(Section):
    """How the two calibration streams are joined; formulas: `edgeprune.pruning.fusion`."""

    # `mix` because `fused` wins on one task and loses more on another: docs/measured/fusion.md.
    mode: Annotated[str, known_name("fusion", FUSION_MODES)] = flag(
        "mix", f"streams that decide what is pruned: {', '.join(FUSION_MODES)}", "fusion"
    )
    tau: float = Field(
        0.8, ge=0, le=1, description="threshold between shared and exclusive channels"
    )
    tau_mode: Literal["quantile", "fixed"] = Field(
        "quantile",
        description="whether tau is a quantile over the layer's channels or a fixed distance",
    )
    task_share: float = Field(
        0.5, ge=0, le=1, description="λ: weight of the task stream in shared channels"
    )
    task_weight: float = Field(
        1.0, gt=0, description="w_T: weight of the task stream in exclusive channels"
    )
    gram: Literal["scaled", "masked"] = Field(
        "scaled",
        description=(
            "fused, with methods that solve for weights: solve on a fused Gram matrix, or fuse "
            "the mask and update weights on the mix"
        ),
    )


class Allocation(Section):
    """The distribution of unstructured sparsity over matrices."""

    kind: Annotated[str, known_name("allocation", ALLOCATIONS)] = flag(
        "uniform", f"distribution of sparsity over matrices: {', '.join(ALLOCATIONS)}", "allocation"
    )
    spread: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="for atp, owl and rank: how far a matrix' sparsity may be from the target",
    )
    map: dict[str, float] = Field(
        {}, description="for map: sparsity by a regular expression on the matrix' name"
    )

    @model_validator(mode="after")
    def _map_goes_with_its_kind(self) -> Self:
        if (self.kind == "map") != bool(self.map):
            raise ValueError("allocation 'map' and pruning.allocation.map go together")
        return self


class Pruning(Section):
    """Which weights become zero, and how the kept ones are updated."""

    method: Annotated[str, known_name("method", METHODS)] = flag(
        "alps_fast", f"pruning method: {', '.join(METHODS)}"
    )
    sparsity: float = flag(
        0.5, "share of zeros in the pruned matrices; 0: export without pruning", ge=0, lt=1
    )
    pattern: Annotated[str, AfterValidator(known_pattern), BeforeValidator(base_60)] = flag(
        UNSTRUCTURED.name, "unstructured (per output row) or N:M, N kept of every M inputs"
    )
    max_loss: Annotated[str, with_unit(share)] | None = flag(
        None,
        "find the highest sparsity that costs the task at most this, such as 2%, at the "
        "confidence that gates.confidence sets",
    )
    fusion: Fusion = Field(Fusion(), description="how the two calibration streams are joined")
    allocation: Allocation = Field(Allocation(), description="spread of sparsity over matrices")
    swaps: bool = Field(False, description="refine the mask with SparseSwaps")
    refit: bool = Field(False, description="refit the kept weights by least squares")
    permute: bool = Field(
        False,
        description=(
            "N:M only: reorder hidden channels of feed-forward networks (the output stays the same)"
        ),
    )
    head: bool = Field(
        False, description="also prune the output head (a tied head is also the embedding)"
    )
    sink_positions: int = Field(
        0, ge=0, description="number of first positions of each sequence that statistics leave out"
    )
    high_perplexity_weight: float = Field(
        1.0, ge=0, le=1, description="factor, in statistics, on tokens with a perplexity above 2.5"
    )

    @model_validator(mode="after")
    def _options_fit_the_pattern(self) -> Self:
        sparsity = fixed_sparsity(self.pattern)
        if sparsity is None:
            if self.permute:
                raise ValueError(
                    f"permute has no effect on {self.pattern} pruning: set an N:M pattern"
                )
            return self
        if self.allocation.kind != "uniform":
            raise ValueError(
                f"pattern {self.pattern} gives every matrix the same sparsity: allocation "
                f"'{self.allocation.kind}' needs pattern '{UNSTRUCTURED.name}'"
            )
        if self.max_loss:
            raise ValueError(
                f"pattern {self.pattern} fixes the sparsity: max_loss cannot search for it"
            )
        if "sparsity" in self.model_fields_set and abs(self.sparsity - sparsity) > 1e-9:
            raise ValueError(
                f"pattern {self.pattern} means sparsity {sparsity:g}, but sparsity is "
                f"{self.sparsity:g}: leave one out"
            )
        object.__setattr__(self, "sparsity", sparsity)
        return self


class Training(Section):
    """Training of the kept weights after pruning (recovery)."""

    enabled: bool = flag(
        False, "after pruning, train the kept weights on the task and on general text", "recover"
    )
    ways: Annotated[
        list[str], AfterValidator(ways_in_order), BeforeValidator(comma_separated)
    ] = Field(
        ["finetune"], min_length=1,
        description=f"ways of training, in order: {', '.join(RECOVERIES)}",
    )  # fmt: skip
    start_sparsity: float | None = Field(
        None, gt=0, lt=1,
        description="prune gradually: start at this sparsity, train, prune 0.1 more, and so on",
    )  # fmt: skip
    budget: Annotated[str, with_unit(seconds)] = flag(
        "10m", "training time, such as 90s, 10m or 2h", "recover-budget"
    )
    steps: int | None = Field(
        None,
        ge=1,
        description="number of training steps instead of a time; the same on every machine",
    )
    batch: int = Field(2, ge=1, description="sequences per training step")
    learning_rate: float = Field(
        3e-4, gt=0, description="highest learning rate; it rises for 5 % of the steps, then falls"
    )
    max_perplexity: float | None = Field(
        None, gt=1,
        description=(
            "for finetune: leave out answer tokens whose perplexity in the dense model is above "
            "this, such as 2.5"
        ),
    )  # fmt: skip
    task_share: float = Field(
        0.25, ge=0, le=1,
        description=(
            "share of the task's sequences in training; lower if they would repeat more than "
            "about twice, unless it is 1"
        ),
    )  # fmt: skip
    text_share: float = Field(
        0.5, ge=0, le=1,
        description="share of the text's own tokens in the loss on general text; the rest is the "
        "dense model's predictions",
    )  # fmt: skip
    hidden_weight: float = Field(
        0.0, ge=0,
        description="weight of matching the dense model's hidden states, beside its predictions",
    )  # fmt: skip
    selective: bool = Field(
        False, description="pull weights back if they matter to general skill (SPIDER)"
    )
    rank: int | None = Field(
        None,
        ge=1,
        description="train adapters of this rank instead of all weights, for large models",
    )
    save_memory: bool = Field(
        False, description="recompute activations in the backward pass to save memory"
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if not self.enabled:
            for name, field in type(self).model_fields.items():
                if getattr(self, name) != field.default:
                    raise ValueError(
                        f"training.{name} needs training: add --recover, or remove the setting"
                    )
        if not self.task_share and "finetune" in self.ways:
            raise ValueError("finetune learns the task: training.task_share must be above 0")
        if self.rank and self.selective:
            raise ValueError("training.selective updates whole weights: remove training.rank")
        return self


class Artifact(Section):
    """The file to write."""

    target: Annotated[str, known_name("target", exporters.TARGETS)] = flag(
        "gguf", f"artifact format: {', '.join(exporters.TARGETS)}"
    )
    type: str = flag(
        "", "weight type; "
        + "; ".join(
            f"{target.name}: {', '.join(target.types)} [{target.default_type}]"
            for target in map(exporters.get, exporters.TARGETS)
        ),
    )  # fmt: skip
    type_map: dict[str, str] = Field(
        {},
        description="types of single tensors, by a regular expression on their names in the file",
    )
    allow_lossy_zeros: bool = flag(
        False, "allow a type that cannot hold exact zeros, and report the lost zeros"
    )
    pack: bool = flag(False, "also write a packed model, without the zeros")
    block_size: Literal[16, 32, 64, 128, 256] = Field(
        32,
        description="for onnx: number of weights that share a scale, if that divides a row",
    )
    operators: Literal["ort", "portable"] = Field(
        "ort",
        description="for onnx: onnxruntime's fused operators, or only standard ones of opset 23",
    )
    rounding: Literal["auto", "nearest", "gptq"] = Field(
        "auto",
        description=(
            "nearest, or gptq: calibrated rounding that compensates each error in later columns "
            "(q8_0, q5_0, q4_0, int8, int4); auto: gptq below 8 bits"
        ),
    )

    @model_validator(mode="after")
    def _known_types(self) -> Self:
        exporter = exporters.get(self.target)
        types, kind = exporter.types, self.type.lower() or exporter.default_type
        if self.pack and not exporter.opens_packed:
            raise ValueError(f"target '{self.target}' has no packed form: leave pack out")
        if kind not in types:
            raise ValueError(str(unknown("type", kind, types)))
        for expression, name in self.type_map.items():
            if name.lower() not in types or types[name.lower()].mix:
                singles = [known for known in types if not types[known].mix]
                raise ValueError(str(unknown("type", name, singles)))
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"'{expression}' is not a regular expression: {error}") from None
        object.__setattr__(self, "type", kind)
        object.__setattr__(self, "type_map", {e: n.lower() for e, n in self.type_map.items()})
        return self


class Measurement(Section):
    """How the artifact is measured in its runtime, next to the dense baseline."""

    eval_rows: int = Field(200, ge=1, description="number of evaluation rows of the task")
    perplexity_tokens: int = Field(
        8192, ge=512, description="number of tokens for general perplexity"
    )
    prefill_tokens: int = Field(
        256, ge=1, le=2048, description="prompt length of the prefill timing"
    )
    decode_tokens: int = Field(
        64, ge=1, le=2048, description="number of tokens of the decode timing"
    )
    rounds: int = Field(5, ge=1, description="number of interleaved timing rounds")
    threads: int | None = Field(
        None, ge=1, description="number of runtime threads; default: all cores"
    )


class Gates(Section):
    """Limits on the results; those not set are reported but not enforced."""

    confidence: float = Field(
        0.95, gt=0.5, lt=1,
        description=(
            "one-sided confidence of gates and max_loss: the worse end of a loss's interval "
            "over rows (or rounds) must be within the limit"
        ),
    )  # fmt: skip
    max_accuracy_loss: float | None = Field(
        None, ge=0, description="fail if accuracy falls by more than this, in percentage points"
    )
    max_nats_increase: float | None = Field(
        None, ge=0, description="fail if nats per answer token rise by more than this fraction"
    )
    min_decode_speed: float | None = Field(
        None,
        gt=0,
        description="fail if decoding is slower than this multiple of the dense baseline's speed",
    )
