"""The model card: README.md in the form that the Hugging Face hub wants."""

from typing import Any

import yaml

from edgeprune.report.templates import fill
from edgeprune.report.words import caveats, table, verdict

_USES = {
    "gguf": """\
llama-cli -m {file}                # stock llama.cpp
edgeprune chat {file}              # with edgeprune's sparse kernels""",
    "onnx": """\
from pathlib import Path

import onnxruntime
session = onnxruntime.InferenceSession("{file}")

from edgeprune.runtime.onnxruntime.loading import open_session  # with its sparse kernels
session = open_session(Path("{file}"), onnxruntime.SessionOptions()).session""",
}
_ALWAYS_SAID = (
    "model", "task", "general", "target", "type", "method", "fusion", "sparsity", "pattern",
)  # fmt: skip


def render(manifest: dict[str, Any]) -> str:
    """A build's card: header, results beside the dense model, data, limits, license, recipe."""
    from huggingface_hub import ModelCardData

    recipe, data, origin = manifest["recipe"], manifest["data"], manifest["model"]
    sparse = ["pruned", f"sparsity-{100 * recipe['sparsity']:g}", recipe["pattern"]]
    header = ModelCardData(
        base_model=origin["hub_id"] or None,
        license=origin["license"] or None,
        license_name=origin["license_name"] or None,
        license_link=origin["license_link"] or None,
        language=list(origin["languages"]) or None,
        datasets=[d["hub_id"] for d in data.values() if d["hub_id"]] or None,
        pipeline_tag="text-generation",
        tags=["edgeprune", recipe["target"], *(sparse if recipe["sparsity"] else [])],
    )
    body = fill(
        "card.md.j2",
        manifest=manifest,
        results=manifest["results"],
        origin=origin,
        rows=table(manifest),
        verdict=verdict(manifest),
        caveats=[text for text in caveats(manifest) if text != data["task"]["warning"]],
        use=_USES[recipe["target"]].format(file=manifest["artifact"]["file"]),
        recipe=yaml.safe_dump(_chosen(recipe), sort_keys=False),
    )
    return f"---\n{header.to_yaml()}\n---\n\n{body}\n"


def _chosen(recipe: dict[str, Any]) -> dict[str, Any]:
    """What makes the same build again: the main settings, and what differs from the defaults."""
    from edgeprune.recipe.schema import make

    known = make({"task": recipe["task"], "target": recipe["target"]}).model_dump()
    return {k: v for k, v in recipe.items() if k in _ALWAYS_SAID or v != known[k]}
