"""The sections of a recipe: the only place that defines names, defaults, limits and help.

Fields made by `flag` are command-line options too, under the name given or their own.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

import exporters
from edgeprune.recipe.checks import (
    comma_separated,
    known_name,
    ways_in_order,
    with_unit,
)
from edgeprune.recipe.section import Section, flag
from edgeprune.recipe.units import seconds
from edgeprune.recovery import RECOVERIES
from edgeprune.support.errors import unknown


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
    chat: str = flag(
        "auto",
        "conversations beside general text: auto (written by the dense model itself, if it has a "
        "chat template), none, or a .jsonl file with messages",
    )
    chat_share: float = Field(
        0.5, ge=0, le=1, description="share of conversations in the general stream"
    )
    samples: int = flag(24, "calibration sequences per stream", ge=1)
    length: int = flag(512, "tokens per sequence", ge=2)
    seed: int = flag(0, "random seed for the order of calibration rows", ge=0)
    answer_weight: float = Field(
        1.0,
        gt=0,
        description="weight, in statistics and losses, of positions that predict an answer token",
    )


class Training(Section):
    """Training of the kept weights after pruning (recovery)."""

    enabled: bool = flag(
        False, "after pruning, train the kept weights on the task and on general text", "recover"
    )
    ways: Annotated[
        list[str], AfterValidator(ways_in_order), BeforeValidator(comma_separated)
    ] = Field(
        ["finetune"],
        description=f"ways of training, in order: {', '.join(RECOVERIES)}; none: [], with "
        "virtual_tokens",
    )  # fmt: skip
    virtual_tokens: int = Field(
        0, ge=0, le=256,
        description="after all else, train so many control tokens that the chat template puts "
        "before every prompt, for tasks whose answers are written; it takes a quarter of the "
        "budget more, or all of it without another way",
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
    grid_from: float = Field(
        0.6, ge=0, lt=1,
        description="share of the steps after which weights are trained on the grid of the file, "
        "where its type has one; 0: from GPTQ's rounding on",
    )  # fmt: skip
    learn_scales: bool = Field(
        False, description="train the scales of that grid too (learned step size)"
    )
    embedding: bool = Field(
        True, description="train an embedding and a head of few bits, too, on their grid"
    )
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

    @property
    def of_weights(self) -> bool:
        """Whether weights are trained, not virtual tokens alone."""
        return self.enabled and bool(self.ways)

    @property
    def from_rounded(self) -> bool:
        """Whether training begins with rounded weights: one way of training, of whole weights."""
        alone = len(self.ways) == 1 and self.ways[0] != "reconstruct"
        return self.enabled and self.grid_from == 0 and alone and not self.rank

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if not self.enabled:
            for name, field in type(self).model_fields.items():
                if getattr(self, name) != field.default:
                    raise ValueError(
                        f"training.{name} needs training: add --recover, or remove the setting"
                    )
        elif not self.ways and not self.virtual_tokens:
            raise ValueError(
                "training needs a way, such as training.ways=finetune, or training.virtual_tokens"
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
    embedding_type: str = Field(
        "auto",
        description="type of the embedding, which is the output head too in tied models; auto: by "
        "llama.cpp's rules, or int8 in onnx",
    )
    head_type: str = Field("auto", description="type of the output head; auto: as above")
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
        named = [self.embedding_type, self.head_type]
        for name in [*self.type_map.values(), *(one for one in named if one != "auto")]:
            if name.lower() not in types or types[name.lower()].mix:
                singles = [known for known in types if not types[known].mix]
                raise ValueError(str(unknown("type", name, singles)))
        for expression in self.type_map:
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"'{expression}' is not a regular expression: {error}") from None
        object.__setattr__(self, "type", kind)
        object.__setattr__(self, "embedding_type", self.embedding_type.lower())
        object.__setattr__(self, "head_type", self.head_type.lower())
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
    processes: int = Field(
        6, ge=1, description="number of fresh processes of each artifact that are timed"
    )
    rounds: int = Field(1, ge=1, description="number of timing rounds in each process")
    threads: int | None = Field(
        None, ge=1, description="number of runtime threads; default: all cores"
    )


class Gates(Section):
    """Limits on the results; those not set are reported but not enforced."""

    confidence: float = Field(
        0.95, gt=0.5, lt=1,
        description=(
            "one-sided confidence of gates and max_loss: the worse end of a loss's interval "
            "over rows (or processes) must be within the limit"
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
    max_kl: float | None = Field(
        None, ge=0,
        description="fail if predictions diverge from the dense model's by more nats a token, on "
        "held-out text or conversations",
    )  # fmt: skip
    min_same_top: float | None = Field(
        None, ge=0, le=1,
        description="fail if the most likely token is the dense model's at a smaller share of "
        "places",
    )  # fmt: skip
    max_loops: float | None = Field(
        None, ge=0, le=1,
        description="fail if a larger share of answers to held-out turns repeat themselves",
    )  # fmt: skip

    @property
    def limits(self) -> dict[str, float]:
        """Limits that are set, by name."""
        return {n: v for n, v in self.model_dump(exclude={"confidence"}).items() if v is not None}
