"""The recipe's section ``goal``: what storages are chosen for, and with what may be reckoned."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

import exporters
from edgeprune.recipe.checks import with_unit
from edgeprune.recipe.section import Section, flag
from edgeprune.recipe.units import byte_count, seconds

if TYPE_CHECKING:
    from edgeprune.recipe.schema import Recipe

_OF_ZEROS = {"sparsity", "pattern", "allocation"}
# The rest goes to choosing, rounding, writing and measuring.
_TRAINING_SHARE = 0.28
_SAMPLES = 8  # sequences of each stream, where training decides most
# Of three files that are scored and timed: training makes more of the minutes than measuring does.
_MEASUREMENT = {
    "measurement.processes": 3, "measurement.eval_rows": 100, "measurement.perplexity_tokens": 4096,
}  # fmt: skip
# As good as beginning with GPTQ's rounding, which takes the time of ten steps: codes.md.
# Minutes do not move an embedding, and training it takes 20 bytes a weight.
# The rate is the best of three for minutes of training: docs/measured/training.md.
_TRAINING = {
    "training.grid_from": 0.05, "training.learn_scales": True, "training.embedding": False,
    "training.learning_rate": 6e-4,
}  # fmt: skip


class Goal(Section):
    """What is asked of the file; `edgeprune.pipeline.choose` finds the storages."""

    size: Annotated[str, with_unit(byte_count)] | None = flag(
        None, "largest file, such as 60MB: every tensor gets the storage that loses least within it"
    )
    memory: Annotated[str, with_unit(byte_count)] | None = flag(
        None, "most memory for weights, such as 80MB, likewise"
    )
    decode: float | None = flag(
        None,
        "least decoding speed on this machine, in tokens/s: the model is timed in every storage, "
        "and what loses least is chosen",
        gt=0,
    )
    costs: str | None = flag(
        None, "with --decode: file of another device's speed, which plan --save-costs wrote there"
    )
    runtime: Literal["edgeprune", "stock"] = flag(
        "edgeprune",
        "what the file will run in: edgeprune's runtime, in which masks and codes of few bits "
        "count, or stock, for any build of the target's runtime",
    )
    time: Annotated[str, with_unit(seconds)] = flag(
        "8m", "time for a build whose training is not set: 28 % of it are training"
    )
    divergence: float = Field(
        0.4, gt=0,
        description="without size and memory: how far storages may move the predictions before "
        "training, in nats a token, as training evens them; the smallest such file is made",
    )  # fmt: skip
    reserve: float = Field(
        0.03, ge=0, lt=1,
        description="with decode: share by which the predicted speed is above it, since a shared "
        "machine wanders",
    )  # fmt: skip
    choose: bool | None = Field(
        None,
        description="choose the storage of every tensor, and train; default: if nothing is said "
        "of pruning and of types, or there is a goal",
    )
    keep: list[Literal["type", "zeros"]] = Field(
        [],
        description="what is not chosen, but as the recipe sets it; found by itself from what it "
        "sets",
    )

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        asked = [name for name in ("size", "memory", "decode") if getattr(self, name)]
        if len(asked) > 1:
            raise ValueError(f"set one goal, not {' and '.join(asked)}")
        if self.costs and not self.decode:
            raise ValueError("costs of a device are for a speed on it: set decode, too")
        return self

    @property
    def text(self) -> str:
        """The goal in words."""
        if self.decode:
            return f"decode {self.decode:g} tokens/s"
        if self.size or self.memory:
            return f"size {self.size}" if self.size else f"memory {self.memory}"
        return "no worse at the task"

    @property
    def asked(self) -> bool:
        """Whether there is one of the recipe's own."""
        return bool(self.size or self.memory or self.decode)


def decided(recipe: "Recipe") -> "Recipe":
    """Decide whether a build chooses storages, and complete the recipe for it.

    A recipe that says nothing of pruning and types, or sets a goal, has its storages chosen and is
    trained; what it does set stays, and the rest is chosen around it.
    """
    goal, pruning, artifact, training = (
        recipe.goal, recipe.pruning, recipe.artifact, recipe.training,
    )  # fmt: skip
    if goal.choose is not None:
        return recipe
    typed = bool(artifact.model_fields_set & {"type", "type_map"})
    pruned = bool(pruning.model_fields_set & _OF_ZEROS)
    left_open = not (pruning.model_fields_set - {"max_loss"} or typed)
    choose = bool(exporters.get(artifact.target).choices) and (goal.asked or left_open)
    changes: dict[str, Any] = {"goal.choose": choose}
    if choose:
        settled = {"type": "type" in artifact.model_fields_set, "zeros": pruned}
        changes["goal.keep"] = [name for name, is_set in settled.items() if is_set]
        if not pruned:
            changes["pruning.sparsity"] = 0.0
        if training.enabled or "enabled" not in training.model_fields_set:
            defaults = {
                "training.enabled": True,
                "training.budget": f"{_TRAINING_SHARE * seconds(goal.time):g}s",
                **_TRAINING,
            }
            asked = {f"training.{name}" for name in training.model_fields_set}
            changes |= {name: value for name, value in defaults.items() if name not in asked}
            if "samples" not in recipe.data.model_fields_set:
                changes["data.samples"] = _SAMPLES
            set_by_user = {f"measurement.{name}" for name in recipe.measurement.model_fields_set}
            changes |= {n: v for n, v in _MEASUREMENT.items() if n not in set_by_user}
        if goal.runtime == "edgeprune" and "pack" not in artifact.model_fields_set:
            changes["artifact.pack"] = True
    return recipe.changed(changes)
