"""The model card: README.md in the form that the Hugging Face hub wants."""

from operator import attrgetter

import yaml

import exporters
from edgeprune.manifest import Manifest
from edgeprune.recipe.schema import Recipe, defaults, flat, nested
from edgeprune.report.caveats import caveats
from edgeprune.report.templates import fill
from edgeprune.report.verdict import headline, verdict
from edgeprune.report.words import made_how, table

_ALWAYS_SAID = {
    "model.name", "data.task", "data.general", "pruning.method", "pruning.sparsity",
    "pruning.pattern", "pruning.fusion.mode", "artifact.target", "artifact.type",
}  # fmt: skip


def render(manifest: Manifest) -> str:
    """A build's card: header, results beside the dense model, data, limits, license, recipe."""
    from huggingface_hub import ModelCardData

    recipe, data, model = manifest.recipe, manifest.data, manifest.model
    sparsity, target = recipe.pruning.sparsity, recipe.artifact.target
    sparse = ["pruned", f"sparsity-{100 * sparsity:g}", recipe.pruning.pattern]
    header = ModelCardData(
        base_model=model.hub_id or None,
        license=model.license or None,
        license_name=model.license_name or None,
        license_link=model.license_link or None,
        language=list(model.languages) or None,
        datasets=[d.hub_id for d in (data.task, data.general) if d.hub_id] or None,
        pipeline_tag="text-generation",
        tags=["edgeprune", target, *(sparse if sparsity else [])],
    )
    body = fill(
        "card.md.j2",
        manifest=manifest,
        recipe=recipe,
        results=manifest.results,
        rows=table(manifest),
        verdict=verdict(manifest),
        headline=headline(manifest),
        made_how=made_how(manifest),
        caveats=[text for text in caveats(manifest) if text != data.task.warning],
        format=exporters.get(target).file_format,
        use=exporters.get(target).how_to_use.format(file=manifest.artifact.file),
        recipe_yaml=yaml.safe_dump(_chosen(recipe), sort_keys=False),
    )
    return f"---\n{header.to_yaml()}\n---\n\n{body}\n"


def _chosen(recipe: Recipe) -> dict[str, object]:
    """What makes the same build again: the main settings, and what differs from the defaults."""
    values, known = flat(recipe), defaults()
    chosen = [path for path in values if path in _ALWAYS_SAID or values[path] != known.get(path)]
    return nested({path: attrgetter(path)(recipe) for path in chosen})
