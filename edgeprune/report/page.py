"""One HTML page from a build's manifest."""

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from edgeprune.manifest import Manifest
from edgeprune.manifest.manifest import PrunedTensor, TrainingFacts
from edgeprune.regression.history import Entry
from edgeprune.report import checks, choice_plots, plots, tensors
from edgeprune.report.caveats import TRAINED_ON, caveats
from edgeprune.report.plots import Figure
from edgeprune.report.templates import fill
from edgeprune.report.verdict import headline, verdict
from edgeprune.report.words import made_how, size_text, table
from edgeprune.support.files import json_text

# Lists row by row and tensor by tensor, which the page shows otherwise or leaves to the manifest.
_LONG: Any = {
    "plan": True,
    "pruned_tensors": True,
    "artifact": {"tensors"},
    "results": {"artifacts": {"__all__": {"answers", "speech"}}},
}


def render(manifest: Manifest, history: Sequence[Entry] = ()) -> str:
    """The report: verdict on top, then figures, then where everything came from.

    Args:
        manifest: of the build.
        history: of its checks.
    """
    short = manifest.model_dump(mode="json", by_alias=True, exclude=_LONG)
    return fill(
        "build.html.j2",
        manifest=manifest,
        recipe=manifest.recipe,
        results=manifest.results,
        figures=[
            *_of_results(manifest),
            *_of_pruning(manifest),
            *checks.figures(list(history)),
        ],
        rows=table(manifest),
        said=_said(manifest),
        plan=[tensors.HEADINGS, *map(tensors.cells, tensors.by_kind(manifest.plan))],
        verdict=verdict(manifest),
        headline=headline(manifest),
        made_how=made_how(manifest),
        caveats=caveats(manifest),
        raw=json_text(short, indent=2),
    )


def _said(manifest: Manifest) -> list[tuple[str, str, str]]:
    """Prompts with the dense model's and this build's answers."""
    results = manifest.results
    dense, own = results.dense.speech, results.artifacts[results.own].speech
    if not dense or not own:
        return []
    return list(zip(own.prompts, dense.answers, own.answers, strict=True))


def _of_results(manifest: Manifest) -> Iterator[Figure]:
    """Plots of what was measured, each with a sentence for those who can't see it."""
    results, packed = manifest.results, manifest.packed
    artifacts, rows = results.artifacts, {name: cells for name, *cells in table(manifest)}

    def said(*measures: str) -> str:
        found = []
        for measure in measures:
            cells = zip(artifacts, rows[measure], strict=True)
            found.append(f"{measure}: " + ", ".join(f"{name} {cell}" for name, cell in cells))
        return "; ".join(found)

    yield Figure(
        "Accuracy, likelihood and perplexity",
        plots.quality(artifacts, results.chance_level),
        said(next(iter(rows)), "nats per answer token", "general perplexity"),  # first the task's
    )
    yield Figure("Latency", plots.latency(artifacts), said("prefill, tokens/s", "decode, tokens/s"))
    yield Figure(
        "Size",
        plots.size(artifacts, packed),
        said("file", "peak memory")
        + (f"; packed file: {size_text(packed.packed_bytes)}" if packed else ""),
    )


def _of_pruning(manifest: Manifest) -> Iterator[Figure]:
    """Plots of how the model was made."""
    if choice := manifest.choice:
        yield Figure(
            "Sizes and losses",
            choice_plots.choice_front(choice),
            f"predicted divergence before training by size; chosen: {size_text(choice.bytes)}, "
            f"{choice.loss:.3f} nats a token",
        )
        yield Figure(
            "Bits by layer",
            choice_plots.bits_by_layer(manifest.plan),
            "packed bits of a weight by block, one line per kind of matrix",
        )
    if search := manifest.search:
        sizes = search.divergence is not None
        tried = ", ".join(
            f"{f'{(p.bytes or 0) / 1e6:.1f} MB' if sizes else f'{p.sparsity:.0%}'}: {p.value:.3f}, "
            f"at worst {p.worst:.3f}"
            for p in search.probes
        )
        yield Figure(
            f"Search for the {'smallest file' if sizes else 'highest sparsity'}",
            plots.search_curve(search),
            f"{search.metric.replace('_', ' ')} by {'size' if sizes else 'sparsity'}: {tried}; "
            f"bound {search.bound:.3f}",
        )
    if manifest.training:
        yield from _of_training(manifest.training)
    if pruned := manifest.pruned_tensors:
        ends = [min(pruned, key=_sparsity), max(pruned, key=_sparsity)]
        yield Figure(
            "Sparsity by layer and matrix",
            plots.sparsity_by_layer(pruned),
            "share of zeros, from "
            + " to ".join(f"{tensor.sparsity:.1%} ({tensor.name})" for tensor in ends),
        )
    if exclusive := [tensor.exclusive for tensor in manifest.pruned_tensors if tensor.exclusive]:
        general, task = (mean(pair[side] for pair in exclusive) for side in (0, 1))
        yield Figure(
            "Channels that only one stream needs",
            plots.exclusive_by_layer(manifest.pruned_tensors),
            f"on average, general text alone needs {general:.0%} of the channels, and the task "
            f"alone {task:.0%}",
        )


def _of_training(training: TrainingFacts) -> Iterator[Figure]:
    for way, trained in training.trained.items():
        before, after = trained.held_out_losses
        yield Figure(
            f"Recovery: {way}",
            plots.loss_curve(trained.curve),
            f"held-out loss of training {TRAINED_ON[way]}, from {before:.3f} to {after:.3f} nats "
            f"per token in {trained.steps} steps",
        )


def _sparsity(tensor: PrunedTensor) -> float:
    return tensor.sparsity
