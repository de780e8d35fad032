"""What a build is made from: one flat list of names, shared by recipe files, flags and Python."""

import re
from collections.abc import Collection
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from edgeprune.plan.allocation import ALLOCATIONS
from edgeprune.plan.types import DEFAULT_TYPE, TYPES_OF
from edgeprune.pruning.methods import METHODS
from edgeprune.recovery import RECOVERIES
from edgeprune.support.errors import UsageError, unknown

TARGETS = tuple(TYPES_OF)
# `edgeprune.fusion` defines them; their names stand here so that `--help` needs no torch.
FUSION_MODES = ("general", "task", "mix", "fused")
UNSTRUCTURED = "unstructured"
_STEP_UP = 0.1  # of the sparsity, from one round of gradual pruning to the next
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_NAMES: dict[str, Collection[str]] = {
    "target": TARGETS,
    "method": METHODS,
    "fusion": FUSION_MODES,
    "allocation": ALLOCATIONS,
}


class Recipe(BaseModel):
    """A resolved build. Unknown names are refused; all mistakes are reported at once."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # What goes in
    model: str = Field(
        "smollm2-135m",
        description="hub id, transformers folder, .gguf file, or the name of a packaged model",
    )
    task: str = Field(description="name of a shipped task, or a .yaml or .jsonl file")
    general: str = Field(
        "boolq_passages", description="general text: a shipped corpus, or a .yaml or .jsonl file"
    )

    # What comes out
    target: str = Field("gguf", description="artifact format")
    type: str = Field(
        description="weight type; "
        + "; ".join(f"{target}: {', '.join(types)}" for target, types in TYPES_OF.items())
    )
    type_map: dict[str, str] = Field(
        {}, description="other types for some tensors, by a regular expression on the file's name"
    )
    allow_lossy_zeros: bool = Field(
        False, description="go on with a type that cannot hold exact zeros, and report the loss"
    )
    pack: bool = Field(False, description="also write a packed model, without the zeros")
    block_size: Literal[16, 32, 64, 128, 256] = Field(
        32, description="onnx: weights of a row that share a scale, where that divides a row"
    )
    flavour: Literal["ort", "portable"] = Field(
        "ort", description="onnx: onnxruntime's fused operators, or standard ones of opset 23 only"
    )
    rounding: Literal["auto", "nearest", "feedback"] = Field(
        "auto",
        description="feedback: round column by column, each error repaired by weights to come, on "
        "the calibration data (q8_0, q5_0, q4_0, int8, int4); auto: below 8 bits",
    )

    # How it is pruned
    method: str = Field("alps_fast", description="method: " + ", ".join(METHODS))
    # `mix` because `fused` wins on one task and loses more on another: docs/fusion.md.
    fusion: str = Field("mix", description="streams: " + ", ".join(FUSION_MODES))
    sparsity: float = Field(0.5, ge=0, lt=1, description="share of zeros in pruned tensors")
    pattern: str = Field(
        UNSTRUCTURED, description="unstructured (per output row) or N:M, N kept of every M inputs"
    )
    prune_head: bool = Field(
        False, description="also prune the output head (with a tied head: the embedding too)"
    )
    fusion_tau: float = Field(0.8, ge=0, le=1, description="border between shared and exclusive")
    fusion_tau_mode: Literal["quantile", "fixed"] = Field(
        "quantile", description="tau is a quantile over the layer's channels, or a fixed distance"
    )
    fusion_lambda: float = Field(0.5, ge=0, le=1, description="weight of the task stream")
    fusion_task_weight: float = Field(1.0, gt=0, description="w_T: the task in exclusive channels")
    fusion_hessian: Literal["scaled", "masked"] = Field(
        "scaled",
        description="fused, with methods that solve: on a fused Gram matrix, or a fused mask with "
        "weights repaired on the mix",
    )
    swaps: bool = Field(False, description="refine the mask by swaps")
    resolve: bool = Field(False, description="solve for the kept weights once the mask stands")
    permute: bool = Field(
        False, description="N:M only: reorder channels inside feed-forward networks, undone exactly"
    )
    allocation: str = Field(
        "uniform", description="sparsity over matrices: " + ", ".join(ALLOCATIONS)
    )
    allocation_spread: float = Field(
        0.1, ge=0, lt=1, description="atp, owl, rank: how far matrices may be from the target"
    )
    allocation_map: dict[str, float] = Field(
        {}, description="map: sparsity by a regular expression on the matrix' name"
    )
    sink_positions: int = Field(
        0, ge=0, description="first positions of a sequence that statistics leave out"
    )
    answer_weight: float = Field(
        1.0, gt=0, description="weight in the statistics of what predicts a token of an answer"
    )
    surprising_weight: float = Field(
        1.0, ge=0, le=1, description="factor for tokens whose perplexity is above 2.5"
    )
    recover: bool = Field(
        False, description="train the kept weights on the task and on general text"
    )
    recover_by: list[str] = Field(
        ["finetune"], min_length=1,
        description="ways of training, in turn: " + ", ".join(RECOVERIES),
    )  # fmt: skip
    recover_from: float | None = Field(
        None, gt=0, lt=1,
        description="prune gradually: begin at this sparsity, train, prune 0.1 more, and so on",
    )  # fmt: skip
    recover_budget: str = Field("10m", description="time for that, such as 90s, 10m, 2h")
    recover_steps: int | None = Field(
        None, ge=1, description="training steps instead of a time, the same on every machine"
    )
    recover_batch: int = Field(2, ge=1, description="sequences a training step")
    recover_learning_rate: float = Field(
        3e-4, gt=0, description="at its highest; it rises for 5 % of the steps, then falls"
    )
    recover_max_perplexity: float | None = Field(
        None, gt=1,
        description="finetune: leave out tokens of answers that the dense model finds harder than "
        "this, such as 2.5",
    )  # fmt: skip
    recover_task_share: float = Field(
        0.25, ge=0, le=1,
        description="share of the task's sequences among all that a training sees; fewer if they "
        "would come more than about twice, unless it is 1",
    )  # fmt: skip
    recover_text_share: float = Field(
        0.5, ge=0, le=1,
        description="share of the text's own tokens in the loss on general text; the rest is the "
        "dense model's predictions",
    )  # fmt: skip
    recover_hidden_weight: float = Field(
        0.0, ge=0,
        description="weight of matching the dense model's hidden states, beside its predictions",
    )  # fmt: skip
    recover_selective: bool = Field(
        False, description="pull weights back as far as they matter to general skill (SPIDER)"
    )
    recover_rank: int | None = Field(
        None, ge=1, description="train adapters of this rank, for large models; default: all"
    )
    recover_save_memory: bool = Field(
        False, description="compute activations twice instead of keeping them"
    )
    max_loss: str | None = Field(
        None,
        description="find the highest sparsity that costs the task at most this, such as 2%, with "
        "the recipe's confidence",
    )

    # Calibration
    samples: int = Field(24, ge=1, description="sequences per stream")
    length: int = Field(512, ge=2, description="tokens per sequence")
    seed: int = Field(0, ge=0, description="order of calibration rows")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda")

    # Runtime test
    eval_rows: int = Field(200, ge=1, description="evaluation rows of the task")
    perplexity_tokens: int = Field(8192, ge=512, description="tokens of general perplexity")
    prefill_tokens: int = Field(
        256, ge=1, le=2048, description="prompt length of the prefill timing"
    )
    decode_tokens: int = Field(64, ge=1, le=2048, description="tokens of the decode timing")
    rounds: int = Field(5, ge=1, description="interleaved timing rounds")
    threads: int | None = Field(None, ge=1, description="runtime threads; default: all cores")

    # Gates; None: reported, not enforced
    confidence: float = Field(
        0.95, gt=0.5, lt=1,
        description="one-sided, of gates and max_loss: a loss holds its limit if the worse end of "
        "its interval over rows (or rounds) does",
    )  # fmt: skip
    max_accuracy_loss: float | None = Field(
        None, ge=0, description="fail if accuracy falls by more points than this"
    )
    max_nats_increase: float | None = Field(
        None, ge=0, description="fail if nats per answer token rise by more than this share"
    )
    min_decode_speed: float | None = Field(
        None, gt=0, description="fail if decode is slower than this multiple of the dense model's"
    )

    @model_validator(mode="before")
    @classmethod
    def _type_of_target(cls, values: Any) -> Any:
        target = str(values.get("target", "gguf")).lower()
        return {"type": DEFAULT_TYPE.get(target, DEFAULT_TYPE["gguf"]), **values}

    @field_validator("target", "method", "fusion", "allocation")
    @classmethod
    def _known_name(cls, value: str, info: ValidationInfo) -> str:
        names = _NAMES[str(info.field_name)]
        value = value.lower()  # GGUF is as good as gguf
        if value not in names:
            raise ValueError(str(unknown(str(info.field_name), value, names)))
        return value

    @field_validator("recover_by", mode="before")
    @classmethod
    def _ways_as_text(cls, value: Any) -> Any:
        return [way.strip() for way in value.split(",")] if isinstance(value, str) else value

    @field_validator("recover_budget")
    @classmethod
    def _a_time(cls, value: str) -> str:
        if not re.fullmatch(r"\d+(\.\d+)?[smh]", value):
            raise ValueError(f"recover_budget '{value}' is not a time such as 90s, 10m or 2h")
        return value

    @field_validator("recover_by")
    @classmethod
    def _known_ways(cls, value: list[str]) -> list[str]:
        for way in value:
            if way not in RECOVERIES:
                raise ValueError(str(unknown("way of training", way, RECOVERIES)))
        if value != [way for way in RECOVERIES if way in value]:
            raise ValueError(
                f"recover_by takes each way once, in the order {', '.join(RECOVERIES)}"
            )
        return value

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str, info: ValidationInfo) -> str:
        types, value = TYPES_OF[info.data.get("target", "gguf")], value.lower()
        if value not in types:
            raise ValueError(str(unknown("type", value, types)))
        return value

    @field_validator("type_map")
    @classmethod
    def _known_types(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        types = TYPES_OF[info.data.get("target", "gguf")]
        for expression, name in value.items():
            if name.lower() not in types or types[name.lower()].mix:
                singles = [known for known in types if not types[known].mix]
                raise ValueError(str(unknown("type", name, singles)))
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"'{expression}' is not a regular expression: {error}") from None
        return {expression: name.lower() for expression, name in value.items()}

    @field_validator("pattern", mode="before")
    @classmethod
    def _pattern_that_yaml_read_as_a_number(cls, value: Any) -> Any:
        """YAML 1.1 reads 2:4 without quotes in base 60."""
        return f"{value // 60}:{value % 60}" if type(value) is int else value

    @field_validator("pattern")
    @classmethod
    def _known_pattern(cls, value: str) -> str:
        if value == UNSTRUCTURED:
            return value
        match = re.fullmatch(r"(\d+):(\d+)", value)
        if not match or not 0 < int(match[1]) < int(match[2]):
            raise ValueError(f"'{value}' is neither '{UNSTRUCTURED}' nor N:M with 0 < N < M")
        return value

    @field_validator("max_loss")
    @classmethod
    def _a_percentage(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d+(\.\d+)?%", value):
            raise ValueError(f"max_loss '{value}' is not a percentage such as 2%")
        return value

    @model_validator(mode="after")
    def _type_keeps_zeros(self) -> Self:
        for name in (self.type, *self.type_map.values()):
            kind = TYPES_OF[self.target][name]
            if self.sparsity and not kind.keeps_zeros and not self.allow_lossy_zeros:
                raise ValueError(
                    f"type '{name}' can't hold exact zeros: nearly every pruned weight would come "
                    f"back as a small number, and the sparsity would be lost. '{kind.instead}' is "
                    "the nearest type that keeps them; allow_lossy_zeros goes on all the same"
                )
        return self

    @model_validator(mode="after")
    def _options_fit_the_pattern(self) -> Self:
        n_of_m = self.pattern != UNSTRUCTURED
        if n_of_m and self.allocation != "uniform":
            raise ValueError(
                f"pattern {self.pattern} leaves every matrix the same sparsity: allocation "
                f"'{self.allocation}' needs pattern '{UNSTRUCTURED}'"
            )
        if n_of_m and self.max_loss:
            raise ValueError(f"pattern {self.pattern} fixes the sparsity: max_loss can't seek it")
        if self.permute and not n_of_m:
            raise ValueError("permute does nothing for unstructured pruning: set an N:M pattern")
        if (self.allocation == "map") != bool(self.allocation_map):
            raise ValueError("allocation 'map' and allocation_map go together")
        return self

    @model_validator(mode="after")
    def _recovery_fits(self) -> Self:
        if not self.recover:
            self._refuse_idle_training()
            return self
        if self.recover_from is not None and (
            self.pattern != UNSTRUCTURED or self.recover_from >= self.sparsity
        ):
            raise ValueError(
                f"recover_from {self.recover_from:g} is for unstructured pruning to a higher "
                f"sparsity, given {self.pattern}, {self.sparsity:g}"
            )
        if not self.recover_task_share and "finetune" in self.recover_by:
            raise ValueError("recover_by finetune learns the task: recover_task_share is above 0")
        if not self.sparsity and "finetune" not in self.recover_by and self.rounding != "feedback":
            raise ValueError(
                "a dense model predicts as its teacher already: recover_by finetune, or a sparsity"
            )
        if self.recover_rank and self.recover_selective:
            raise ValueError("recover_selective moves whole weights: leave recover_rank out")
        if self.rounding == "feedback" and (
            self.recover_rank or self.recover_by[-1] == "reconstruct"
        ):
            raise ValueError(
                "rounding 'feedback' and recover: weights are trained on their grid by 'distill' "
                "and 'finetune' without recover_rank alone"
            )
        return self

    def _refuse_idle_training(self) -> None:
        for name, field in type(self).model_fields.items():
            if name.startswith("recover_") and getattr(self, name) != field.get_default(
                call_default_factory=True
            ):
                raise ValueError(f"{name} is a setting of training: add --recover, or leave it out")

    @model_validator(mode="after")
    def _sparsity_follows_pattern(self) -> Self:
        if self.pattern == UNSTRUCTURED:
            return self
        kept, group = map(int, self.pattern.split(":"))
        sparsity = 1 - kept / group
        if "sparsity" in self.model_fields_set and abs(self.sparsity - sparsity) > 1e-9:
            raise ValueError(
                f"pattern {self.pattern} means sparsity {sparsity:g}, but sparsity is "
                f"{self.sparsity:g}: leave one out"
            )
        object.__setattr__(self, "sparsity", sparsity)
        return self


def budget_seconds(recipe: Recipe) -> float:
    """A recipe's time for training."""
    return float(recipe.recover_budget[:-1]) * _SECONDS[recipe.recover_budget[-1]]


def rounds(recipe: Recipe) -> list[float]:
    """Sparsities that pruning and training go through, the last one the recipe's."""
    found = []
    if recipe.recover and recipe.recover_from is not None:
        amount = recipe.recover_from
        while amount < recipe.sparsity - _STEP_UP / 2:
            found.append(round(amount, 3))
            amount += _STEP_UP
    return [*found, recipe.sparsity]


def make(values: dict[str, Any]) -> Recipe:
    """Build a recipe from plain values.

    Raises:
        UsageError: listing every mistake.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UsageError(
            "The recipe has mistakes:\n" + "\n".join(_explain(e) for e in error.errors()),
            "edgeprune build --help lists the options; edgeprune recipes ls shows worked recipes.",
        ) from None


def _explain(mistake: Any) -> str:
    name = ".".join(str(part) for part in mistake["loc"]) or "recipe"
    if mistake["type"] == "extra_forbidden":
        return f"  {unknown('name', name, Recipe.model_fields)}"
    if mistake["type"] == "missing":
        return f"  {name}: is missing"
    if mistake["type"] == "value_error":  # our own words, which say what was given
        return f"  {mistake['msg'].removeprefix('Value error, ')}"
    return f"  {name}: {mistake['msg']}, given {mistake['input']!r}"
