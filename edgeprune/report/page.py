"""One HTML page from a build's manifest."""

import json
from pathlib import Path
from typing import Any

from edgeprune.files import write_text
from edgeprune.report.words import caveats, size_text, table, verdict

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def write(path: Path, manifest: dict[str, Any]) -> None:
    """Write the report; one file, no network."""
    from jinja2 import Environment

    from edgeprune.report import plots  # matplotlib is an extra; the words of a report are not

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["size"] = size_text
    results = manifest["results"]
    artifacts, tensors = results["artifacts"], manifest["pruned_tensors"]
    figures = [
        ("Accuracy and likelihood", plots.quality(artifacts, results["guessing_line"])),
        ("Latency", plots.latency(artifacts)),
        ("Size", plots.size(artifacts)),
    ]
    if manifest["search"]:
        figures.append(("How far it can be pruned", plots.search_curve(manifest["search"])))
    if tensors:
        figures.append(("Sparsity by layer", plots.sparsity_by_layer(tensors)))
    if any(tensor["exclusive"] for tensor in tensors):
        figures.append(("Channels that only one stream needs", plots.exclusive_by_layer(tensors)))
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        manifest=manifest,
        results=results,
        artifacts=artifacts,
        figures=figures,
        rows=table(manifest),
        verdict=verdict(manifest),
        caveats=caveats(manifest),
        raw=json.dumps({k: v for k, v in manifest.items() if k != "pruned_tensors"}, indent=2),
    )
    write_text(path, page)
