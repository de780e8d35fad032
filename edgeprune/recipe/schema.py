"""The recipe of a build: sections of settings, shared by recipe files, flags and Python."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

import exporters
from edgeprune.recipe import sections
from edgeprune.recipe.checks import fixed_sparsity
from edgeprune.recipe.goal import Goal
from edgeprune.recipe.pruning import Pruning
from edgeprune.recipe.units import seconds
from edgeprune.support.errors import UsageError, unknown

_STEP_UP = 0.1  # of the sparsity, from one round of gradual pruning to the next


class Recipe(BaseModel):
    """A resolved recipe. Unknown names are rejected; all mistakes are reported at once."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: sections.Model = Field(
        sections.Model(), description="the model to prune, and the device"
    )
    data: sections.Data = Field(description="the task and the calibration streams")
    goal: Goal = Field(Goal(), description="what storages are chosen for")
    pruning: Pruning = Field(Pruning(), description="which weights become zero")
    training: sections.Training = Field(sections.Training(), description="training after pruning")
    artifact: sections.Artifact = Field(sections.Artifact(), description="the file to write")
    measurement: sections.Measurement = Field(
        sections.Measurement(), description="how the artifact is measured"
    )
    gates: sections.Gates = Field(sections.Gates(), description="limits that fail the build")

    @classmethod
    def of(cls, values: Mapping[str, Any] | None = None, /, **options: Any) -> "Recipe":
        """Make a recipe from dotted names and from names of command-line options.

        >>> Recipe.of({"training.rank": 16}, task="medqa", recover=True)  # doctest: +SKIP

        Args:
            values: sections, or settings by dotted names such as ``pruning.sparsity``.
            options: settings by the name of their option, such as ``sparsity`` or
                ``recover_budget``.

        Raises:
            UsageError: the settings have mistakes; the message lists all of them.
        """
        flags = {option.python_name: option.path for option in command_line_options()}
        if strange := [name for name in options if name not in flags]:
            known = {**flags, **dict.fromkeys(_paths())}
            raise unknown("option", strange[0], known, "Pass dotted names in the mapping.")
        return make({**(values or {}), **{flags[name]: v for name, v in options.items()}})

    def changed(self, values: Mapping[str, Any]) -> "Recipe":
        """Copy the recipe with some settings replaced, by dotted names, without validation."""
        found = self
        for name, value in values.items():
            found = _changed(found, name.split("."), value)
        return found

    @model_validator(mode="after")
    def _goal_can_be_met(self) -> Self:
        goal, target = self.goal, self.artifact.target
        if goal.asked and not exporters.get(target).choices:
            raise ValueError(f"target '{target}' has one way to store weights: leave the goal out")
        if goal.asked and goal.choose is False:
            raise ValueError(f"goal.choose is off: leave the goal out ({goal.text})")
        if goal.asked and self.pruning.max_loss:
            raise ValueError(f"set one goal, not {goal.text} and max_loss {self.pruning.max_loss}")
        return self

    @model_validator(mode="after")
    def _type_keeps_zeros(self) -> Self:
        artifact = self.artifact
        for name in (artifact.type, *artifact.type_map.values()):
            kind = exporters.get(artifact.target).types[name]
            if kind.alphabet and kind.alphabet.masked and not self.pruning.sparsity:
                raise ValueError(
                    f"type '{name}' leaves zeros to a mask, and without pruning there are none: "
                    f"set a sparsity, or take '{name.replace('+mask', '')}'"
                )
            if self.pruning.sparsity and not kind.keeps_zeros and not artifact.allow_lossy_zeros:
                raise ValueError(
                    f"type '{name}' cannot hold exact zeros: nearly every pruned weight would "
                    f"become a small non-zero number. '{kind.instead}' is the nearest type that "
                    "keeps them; --allow-lossy-zeros accepts the loss"
                )
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
        training, pruning, gptq = self.training, self.pruning, self.artifact.rounding == "gptq"
        if not training.of_weights:
            return self
        if training.start_sparsity is not None and (
            fixed_sparsity(pruning.pattern) is not None
            or training.start_sparsity >= pruning.sparsity
        ):
            raise ValueError(
                f"training.start_sparsity {training.start_sparsity:g} needs unstructured pruning "
                f"to a higher sparsity, but the recipe has pattern {pruning.pattern} and "
                f"sparsity {pruning.sparsity:g}"
            )
        if not pruning.sparsity and "finetune" not in training.ways and not gptq:
            raise ValueError(
                "training an unpruned model needs the way 'finetune', since it already predicts "
                "as its teacher: set training.ways=finetune, or a sparsity"
            )
        if gptq and (training.rank or training.ways[-1] == "reconstruct"):
            raise ValueError(
                "artifact.rounding 'gptq' with training needs 'distill' or 'finetune' as the "
                "last way, without training.rank"
            )
        return self


@dataclass(frozen=True)
class Option:
    """A setting that is also a command-line option.

    Attributes:
        path: dotted name of the setting.
        name: name of the option without leading dashes.
        field: pydantic's description of the setting.
    """

    path: str
    name: str
    field: FieldInfo

    @property
    def python_name(self) -> str:
        """Return the option's name as a keyword argument."""
        return self.name.replace("-", "_")


def command_line_options() -> Iterator[Option]:
    """List all settings that are options of ``build`` and ``plan``, in the schema's order."""
    for path, field in _paths().items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "option" in extra:
            last = path.rpartition(".")[2].replace("_", "-")
            yield Option(path, str(extra["option"]) or last, field)


def make(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from plain values: nested sections, dotted names, or both.

    Raises:
        UsageError: the settings have mistakes; the message lists all of them.
    """
    try:
        return Recipe.model_validate(nested(values))
    except ValidationError as error:
        raise UsageError(
            "The recipe has mistakes:\n" + "\n".join(_explain(e) for e in error.errors()),
            "'edgeprune build --help' lists the options; 'edgeprune recipes ls' lists example "
            "recipes.",
        ) from None


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert dotted names to nested sections; sections given twice are merged."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        *parents, last = str(name).split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UsageError(f"The recipe sets {parent} to a value, but also sets {name}.")
        section = isinstance(value, Mapping) and not _is_setting(str(name))
        place[last] = place.get(last, {}) | nested(value) if section else value
    return found


def flat(recipe: Recipe) -> dict[str, Any]:
    """Return every setting by its dotted name, as JSON; the order of a user's map counts."""
    found: dict[str, Any] = {}
    for path in _paths():
        value: Any = recipe
        for name in path.split("."):
            value = getattr(value, name)
        found[path] = [list(item) for item in value.items()] if isinstance(value, dict) else value
    return found


def defaults() -> dict[str, Any]:
    """Return the defaults of all settings, as `flat` does, without required ones."""
    return {
        path: [] if isinstance(field.default, dict) else field.default
        for path, field in _paths().items()
        if not field.is_required()
    }


def training_rounds(recipe: Recipe) -> list[float]:
    """Return the sparsities of all rounds; the last is the recipe's."""
    found = []
    if recipe.training.enabled and recipe.training.start_sparsity is not None:
        amount = recipe.training.start_sparsity
        while amount < recipe.pruning.sparsity - _STEP_UP / 2:
            found.append(round(amount, 3))
            amount += _STEP_UP
    return [*found, recipe.pruning.sparsity]


def training_seconds(recipe: Recipe) -> float:
    """Return a recipe's training time in seconds."""
    return seconds(recipe.training.budget)


def _is_setting(path: str) -> bool:
    """Tell whether a name's value is the user's own mapping, not a section."""
    return path in {"type_map", "map"} or path.endswith((".type_map", ".map"))


def _paths(model: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, FieldInfo]:
    """List every setting by its dotted name."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= _paths(kind, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def _changed(model: Any, path: list[str], value: Any) -> Any:
    first, *rest = path
    if rest:
        value = _changed(getattr(model, first), rest, value)
    return model.model_copy(update={first: value})


def _explain(mistake: Any) -> str:
    name = ".".join(str(part) for part in mistake["loc"]) or "recipe"
    if mistake["type"] == "extra_forbidden":
        leaves = {section: section for section in Recipe.model_fields}
        leaves |= {path.rpartition(".")[2]: path for path in _paths()}
        near = difflib.get_close_matches(name.rpartition(".")[2], leaves, n=3, cutoff=0.6)
        wanted = (
            " or ".join(leaves[leaf] for leaf in near)
            or "one of the options in 'edgeprune build --help'"
        )
        return f"  Unknown name '{name}': did you mean {wanted}?"
    if mistake["type"] == "model_type":
        inside = next(path for path in _paths() if path.startswith(f"{name}."))
        return f"  '{name}' is a section of settings such as {inside}, given {mistake['input']!r}"
    if mistake["type"] == "missing":
        return f"  {name}: is missing" if name != "data" else "  data.task: is missing"
    if mistake["type"] == "value_error":  # our own words, which say what was given
        return f"  {mistake['msg'].removeprefix('Value error, ')}"
    return f"  {name}: {mistake['msg']}, given {mistake['input']!r}"
