"""What a build is made from: sections of settings, shared by recipe files, flags and Python."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

import exporters
from edgeprune.recipe import sections
from edgeprune.recipe.checks import fixed_sparsity
from edgeprune.recipe.units import seconds
from edgeprune.support.errors import UsageError, unknown

_STEP_UP = 0.1  # of the sparsity, from one round of gradual pruning to the next


class Recipe(BaseModel):
    """A resolved build. Unknown names are refused; all mistakes are reported at once."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: sections.Model = Field(sections.Model(), description="what is pruned, and where")
    data: sections.Data = Field(description="the task and the calibration streams")
    pruning: sections.Pruning = Field(sections.Pruning(), description="which weights become zero")
    training: sections.Training = Field(sections.Training(), description="training afterwards")
    artifact: sections.Artifact = Field(sections.Artifact(), description="the file that comes out")
    measurement: sections.Measurement = Field(
        sections.Measurement(), description="how it is measured"
    )
    gates: sections.Gates = Field(sections.Gates(), description="limits that fail the build")

    @classmethod
    def of(cls, values: Mapping[str, Any] | None = None, /, **options: Any) -> "Recipe":
        """A recipe from dotted names and from the names of command-line options.

        >>> Recipe.of({"training.rank": 16}, task="medqa", recover=True)  # doctest: +SKIP

        Args:
            values: sections, or settings by dotted names such as ``pruning.sparsity``.
            options: settings by their option's name, such as ``sparsity`` or ``recover_budget``.

        Raises:
            UsageError: listing every mistake.
        """
        flags = {option.python_name: option.path for option in command_line_options()}
        if strange := [name for name in options if name not in flags]:
            known = {**flags, **dict.fromkeys(_paths())}
            raise unknown("option", strange[0], known, "Dotted names go into the mapping.")
        return make({**(values or {}), **{flags[name]: v for name, v in options.items()}})

    def changed(self, values: Mapping[str, Any]) -> "Recipe":
        """A copy with some settings replaced, by dotted names; values are not checked again."""
        found = self
        for name, value in values.items():
            found = _changed(found, name.split("."), value)
        return found

    @model_validator(mode="after")
    def _type_keeps_zeros(self) -> Self:
        artifact = self.artifact
        for name in (artifact.type, *artifact.type_map.values()):
            kind = exporters.get(artifact.target).types[name]
            if self.pruning.sparsity and not kind.keeps_zeros and not artifact.allow_lossy_zeros:
                raise ValueError(
                    f"type '{name}' can't hold exact zeros: nearly every pruned weight would come "
                    f"back as a small number, and the sparsity would be lost. '{kind.instead}' is "
                    "the nearest type that keeps them; allow_lossy_zeros goes on all the same"
                )
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
        training, pruning, gptq = self.training, self.pruning, self.artifact.rounding == "gptq"
        if not training.enabled:
            return self
        if training.start_sparsity is not None and (
            fixed_sparsity(pruning.pattern) is not None
            or training.start_sparsity >= pruning.sparsity
        ):
            raise ValueError(
                f"training.start_sparsity {training.start_sparsity:g} is for unstructured pruning "
                f"to a higher sparsity, given {pruning.pattern}, {pruning.sparsity:g}"
            )
        if not pruning.sparsity and "finetune" not in training.ways and not gptq:
            raise ValueError(
                "a dense model predicts as its teacher already: train by finetune, or set a "
                "sparsity"
            )
        if gptq and (training.rank or training.ways[-1] == "reconstruct"):
            raise ValueError(
                "rounding 'gptq' with training: weights are trained on their grid by 'distill' and "
                "'finetune' without training.rank alone"
            )
        return self


@dataclass(frozen=True)
class Option:
    """A command-line option of a recipe.

    Attributes:
        path: dotted name of the setting.
        name: of the option, without its leading dashes.
        field: pydantic's description of the setting.
    """

    path: str
    name: str
    field: FieldInfo

    @property
    def python_name(self) -> str:
        """As a keyword argument."""
        return self.name.replace("-", "_")


def command_line_options() -> Iterator[Option]:
    """Every setting that is an option of ``build`` and ``plan`` too, in the order of the schema."""
    for path, field in _paths().items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "option" in extra:
            last = path.rpartition(".")[2].replace("_", "-")
            yield Option(path, str(extra["option"]) or last, field)


def make(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from plain values: nested sections, dotted names, or both.

    Raises:
        UsageError: listing every mistake.
    """
    try:
        return Recipe.model_validate(nested(values))
    except ValidationError as error:
        raise UsageError(
            "The recipe has mistakes:\n" + "\n".join(_explain(e) for e in error.errors()),
            "edgeprune build --help lists the options; edgeprune recipes ls shows worked recipes.",
        ) from None


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as sections within sections; sections that are given twice are joined."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        *parents, last = str(name).split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UsageError(f"The recipe gives {parent} a value, and {name} inside of it.")
        section = isinstance(value, Mapping) and not _is_setting(str(name))
        place[last] = place.get(last, {}) | nested(value) if section else value
    return found


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every setting by its dotted name, as JSON has it; the order of a user's map counts."""
    found: dict[str, Any] = {}
    for path in _paths():
        value: Any = recipe
        for name in path.split("."):
            value = getattr(value, name)
        found[path] = [list(item) for item in value.items()] if isinstance(value, dict) else value
    return found


def defaults() -> dict[str, Any]:
    """What `flat` gives for settings of which nothing is said; those that must be given lack."""
    return {
        path: [] if isinstance(field.default, dict) else field.default
        for path, field in _paths().items()
        if not field.is_required()
    }


def training_rounds(recipe: Recipe) -> list[float]:
    """Sparsities that pruning and training go through, the last one the recipe's."""
    found = []
    if recipe.training.enabled and recipe.training.start_sparsity is not None:
        amount = recipe.training.start_sparsity
        while amount < recipe.pruning.sparsity - _STEP_UP / 2:
            found.append(round(amount, 3))
            amount += _STEP_UP
    return [*found, recipe.pruning.sparsity]


def training_seconds(recipe: Recipe) -> float:
    """A recipe's time for training."""
    return seconds(recipe.training.budget)


def _is_setting(path: str) -> bool:
    """Whether a name's value is a mapping of the user's own, not a section."""
    return path in {"type_map", "map"} or path.endswith((".type_map", ".map"))


def _paths(model: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting by its dotted name."""
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
        leaves = {path.rpartition(".")[2]: path for path in _paths()}
        near = difflib.get_close_matches(name.rpartition(".")[2], leaves, n=3, cutoff=0.6)
        wanted = " or ".join(leaves[leaf] for leaf in near) or "one of edgeprune build --help"
        return f"  Unknown name '{name}': did you mean {wanted}?"
    if mistake["type"] == "missing":
        return f"  {name}: is missing" if name != "data" else "  data.task: is missing"
    if mistake["type"] == "value_error":  # our own words, which say what was given
        return f"  {mistake['msg'].removeprefix('Value error, ')}"
    return f"  {name}: {mistake['msg']}, given {mistake['input']!r}"
