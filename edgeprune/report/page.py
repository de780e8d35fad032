"""One HTML page from a build's manifest."""

from collections.abc import Iterator
from statistics import mean
from typing import Any

from edgeprune.report import plots
from edgeprune.report.plots import Figure
from edgeprune.report.templates import fill
from edgeprune.report.words import TRAINED, caveats, loss_range, size_text, table, verdict
from edgeprune.support.files import json_text


def render(manifest: dict[str, Any]) -> str:
    """The report: verdict on top, then figures, then where everything came from."""
    results = manifest["results"]
    return fill(
        "build.html.j2",
        manifest=manifest,
        results=results,
        figures=list(_figures(manifest)),
        rows=table(manifest),
        verdict=verdict(manifest),
        caveats=caveats(manifest),
        raw=json_text(_short(manifest), indent=2),
    )


def _figures(manifest: dict[str, Any]) -> Iterator[Figure]:
    """Plots, each with what it shows in a sentence for those who can't see it."""
    results, tensors = manifest["results"], manifest["pruned_tensors"]
    artifacts, rows = results["artifacts"], {name: cells for name, *cells in table(manifest)}

    def said(*measures: str) -> str:
        found = []
        for measure in measures:
            cells = zip(artifacts, rows[measure], strict=True)
            found.append(f"{measure}: " + ", ".join(f"{name} {cell}" for name, cell in cells))
        return "; ".join(found)

    yield Figure(
        "Accuracy, likelihood and perplexity",
        plots.quality(artifacts, results["guessing_line"]),
        said("accuracy", "nats per answer token", "general perplexity"),
    )
    yield Figure("Latency", plots.latency(artifacts), said("prefill, tokens/s", "decode, tokens/s"))
    packed = manifest["packed"]
    yield Figure(
        "Size",
        plots.size(artifacts, packed),
        said("file", "peak memory")
        + (f"; packed file: {size_text(packed['packed_bytes'])}" if packed else ""),
    )
    if search := manifest["search"]:
        yield Figure(
            "How far it can be pruned",
            plots.search_curve(search),
            ", ".join(
                f"{p['sparsity']:.0%}: {p['value']:.3f}, at worst {p['worst']:.3f}"
                for p in search["probes"]
            )
            + f"; bound {search['bound']:.3f}",
        )
    for way, trained in (manifest["recovery"] or {}).items():
        if way not in TRAINED:
            continue
        before, after = loss_range(trained)
        yield Figure(
            f"Recovery: {way}",
            plots.loss_curve(trained["curve"]),
            f"held-out loss towards {TRAINED[way]}, from {before:.3f} to {after:.3f} nats per "
            f"token in {trained['steps']} steps",
        )
    if tensors:
        ends = [min(tensors, key=_sparsity), max(tensors, key=_sparsity)]
        yield Figure(
            "Sparsity by layer and matrix",
            plots.sparsity_by_layer(tensors),
            "share of zeros, from "
            + " to ".join(f"{tensor['sparsity']:.1%} ({tensor['name']})" for tensor in ends),
        )
    if exclusive := [tensor["exclusive"] for tensor in tensors if tensor["exclusive"]]:
        general, task = (mean(pair[side] for pair in exclusive) for side in (0, 1))
        yield Figure(
            "Channels that only one stream needs",
            plots.exclusive_by_layer(tensors),
            f"on average {general:.0%} of the channels are general text's, {task:.0%} the task's",
        )


def _sparsity(tensor: dict[str, Any]) -> float:
    return tensor["sparsity"]


def _short(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a person may want to look up: without the lists row by row and tensor by tensor."""
    short = {key: value for key, value in manifest.items() if key != "pruned_tensors"}
    short["artifact"] = {k: v for k, v in manifest["artifact"].items() if k != "tensors"}
    short["results"] = manifest["results"] | {
        "artifacts": {
            name: {k: v for k, v in record.items() if k != "answers"}
            for name, record in manifest["results"]["artifacts"].items()
        }
    }
    return short
