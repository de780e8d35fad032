"""Plots as SVG text, readable on light and dark pages."""

import io
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import ScalarFormatter

from edgeprune.manifest.base import Interval
from edgeprune.manifest.manifest import (
    CurvePoint,
    PackedFacts,
    Probe,
    PrunedTensor,
    SearchFacts,
)
from edgeprune.manifest.results import Measured, Speed

_GREY = "#808890"  # readable on white and on black
DENSE, PRUNED = "#7a8ca5", "#d9622b"
_OWN = ("pruned", "packed")
_WIDE = 2.0  # a span of values, as a factor, that is shown on a logarithmic axis
_LABEL_STEPS = 300  # of moving labels apart
# Ids that matplotlib gives every element: no use on a page that holds several plots.
_COUNTED_ID = re.compile(r' id="[A-Za-z0-9.]+_\d+"')
MATRIX = re.compile(r"\.(\d+)\.(.+)\.weight$")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeprune",
    "font.size": 9,
    "text.color": _GREY,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _GREY,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Figure:
    """A plot on a page.

    Attributes:
        title: its heading.
        svg: as text.
        alt: what it shows, in words and numbers.
    """

    title: str
    svg: str
    alt: str


def sparsity_by_layer(tensors: Sequence[PrunedTensor]) -> str:
    """Share of zeros by block, one line per kind of matrix."""
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for tensor in tensors:
        if match := MATRIX.search(tensor.name):
            lines[match[2].rpartition(".")[2]].append((int(match[1]), tensor.sparsity))

    def draw(axes: Any) -> None:
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker=".", linewidth=1, label=name)
        axes.set(xlabel="block", ylabel="share of zeros", ylim=(0, 1))
        axes.legend(ncols=4, fontsize=7)

    return svg(draw)


def search_curve(search: SearchFacts) -> str:
    """What each thing tried cost on the held-out rows, up to its worst, and the bound."""
    sizes = search.divergence is not None

    def place(probe: Probe) -> float:
        return (probe.bytes or 0) / 1e6 if sizes else probe.sparsity

    probes = sorted(search.probes, key=place)
    before = [] if sizes else [(0.0, search.dense)]

    def draw(axes: Any) -> None:
        axes.plot(
            *zip(*before, *((place(p), p.value) for p in probes), strict=True),
            marker="o", markersize=4, linewidth=1, color=PRUNED,
        )  # fmt: skip
        axes.vlines(
            [place(p) for p in probes], [p.value for p in probes],
            [p.worst for p in probes], color=PRUNED, linewidth=1,
        )  # fmt: skip
        axes.axhline(search.bound, color=DENSE, linestyle="--", linewidth=1, label="bound")
        axes.set(
            xlabel="MB, predicted" if sizes else "sparsity", ylabel=search.metric.replace("_", " ")
        )
        axes.legend(fontsize=7)

    return svg(draw)


def loss_curve(curve: Sequence[CurvePoint]) -> str:
    """Losses of a training run: of the sequences trained on, and of those held out."""

    def draw(axes: Any) -> None:
        trained = [(p.step, p.train) for p in curve if p.train is not None]
        held_out = [(p.step, p.held_out) for p in curve]
        for label, points, colour in (("train", trained, DENSE), ("held out", held_out, PRUNED)):
            steps, losses = ([point[side] for point in points] for side in (0, 1))
            axes.plot(steps, losses, marker=".", linewidth=1, color=colour, label=label)
        axes.set(xlabel="step", ylabel="nats per token")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)

    return svg(draw)


def ablation_curves(records: list[dict[str, Any]]) -> str:
    """Nats per answer token against general perplexity: down and left is better.

    One marker a row of `edgeprune.experiments.ablation`, with its spread; lines join the sparsities
    of one method and fusion.
    """
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        lines[f"{record['method']} {record['fusion']}".strip()].append(record["summary"])

    def draw(axes: Any) -> None:
        for label, points in lines.items():
            known = [p for p in points if "general_perplexity" in p]
            axes.errorbar(
                [p["general_perplexity"]["value"] for p in known],
                [p["nats_per_answer_token"]["value"] for p in known],
                yerr=[p["nats_per_answer_token"]["spread"] or 0 for p in known],
                marker="o", markersize=4, linewidth=1, capsize=2, label=label,
            )  # fmt: skip
        axes.set(xlabel="general perplexity", ylabel="nats per answer token", xscale="log")
        axes.legend(ncols=2, fontsize=7)

    return svg(draw)


def exclusive_by_layer(tensors: Sequence[PrunedTensor]) -> str:
    """Share of exclusive input channels by block, mean over its matrices."""
    blocks: dict[int, list[list[float]]] = defaultdict(list)
    for tensor in tensors:
        if (match := MATRIX.search(tensor.name)) and tensor.exclusive:
            blocks[int(match[1])].append(tensor.exclusive)
    numbers = sorted(blocks)
    general, task = (
        [sum(pair[side] for pair in blocks[n]) / len(blocks[n]) for n in numbers] for side in (0, 1)
    )

    def draw(axes: Any) -> None:
        axes.bar(numbers, general, color=DENSE, label="general text uses them more")
        axes.bar(numbers, task, bottom=general, color=PRUNED, label="the task uses them more")
        axes.set(xlabel="block", ylabel="share of channels")
        axes.margins(y=0.4)  # room for the legend
        axes.legend(fontsize=7)

    return svg(draw)


def quality(artifacts: Mapping[str, Measured], chance_level: float | None) -> str:
    """Accuracy, likelihood and perplexity against dense, with intervals."""

    def draw_accuracy(axes: Any) -> None:
        _intervals(axes, accuracy)
        if chance_level is not None:
            axes.axhline(chance_level, color=_GREY, linestyle="--", linewidth=1)
            axes.annotate(
                "chance",
                (0.5, chance_level),  # between the bars
                xycoords=("axes fraction", "data"),
                ha="center",
                va="bottom",
                fontsize=6,
            )
        axes.set(title="accuracy", ylim=(0, 1))

    def draw(values: Mapping[str, Interval], title: str) -> Callable[[Any], None]:
        def on(axes: Any) -> None:
            _intervals(axes, values)
            axes.set(title=title)
            axes.set_ylim(bottom=0)

        return on

    accuracy = {name: record.accuracy for name, record in artifacts.items() if record.accuracy}
    nats = {name: record.nats_per_answer_token for name, record in artifacts.items()}
    perplexity = {name: record.general_perplexity for name, record in artifacts.items()}
    return svg(
        *([draw_accuracy] if accuracy else []),
        draw(nats, "nats / answer token"),
        draw(perplexity, "general perplexity"),
    )


def latency(artifacts: Mapping[str, Measured]) -> str:
    """Every timing sample of prefill and decode, process beside process."""

    def draw(title: str, speeds: Mapping[str, Speed]) -> Callable[[Any], None]:
        def on(axes: Any) -> None:
            for place, (name, speed) in enumerate(speeds.items()):
                for process, runs in enumerate(speed.samples):
                    at = place + 0.3 * ((process + 0.5) / len(speed.samples) - 0.5)
                    axes.scatter([at] * len(runs), runs, color=_colour(name), alpha=0.6)
                axes.hlines(speed.median, place - 0.2, place + 0.2, _colour(name))
            axes.set(title=title, ylabel="tokens per second", xlim=(-0.6, len(speeds) - 0.4))
            axes.set_xticks(range(len(speeds)), list(speeds))
            fastest = max(max(runs) for speed in speeds.values() for runs in speed.samples)
            axes.set_ylim(0, 1.1 * fastest)

        return on

    return svg(
        draw("prefill", {name: record.prefill for name, record in artifacts.items()}),
        draw("decode", {name: record.decode for name, record in artifacts.items()}),
    )


def size(artifacts: Mapping[str, Measured], packed: PackedFacts | None = None) -> str:
    """File size, with the packed file if there is one, and peak memory of the runtime."""
    files = {name: record.file_bytes for name, record in artifacts.items()}
    if packed:
        files["packed"] = packed.packed_bytes
    memory = {name: record.peak_memory_bytes for name, record in artifacts.items()}

    def draw(values: dict[str, int], title: str) -> Callable[[Any], None]:
        def on(axes: Any) -> None:
            colours = [_colour(name) for name in values]
            axes.bar(list(values), [value / 1e6 for value in values.values()], color=colours)
            axes.set(title=title, ylabel="MB")

        return on

    return svg(draw(files, "file"), draw(memory, "peak memory"))


@dataclass(frozen=True)
class Mark:
    """A model in a plot of what it costs against what it gives.

    Attributes:
        label: written beside it.
        x: what it costs.
        y: what it gives.
        dense: whether it is a dense model, drawn hollow.
        front: whether none of the others is better in both.
    """

    label: str
    x: float
    y: float
    dense: bool
    front: bool


def pareto(*panels: tuple[str, str, Sequence[Mark]]) -> str:
    """Marks against each other, the best of them joined by a line.

    Args:
        panels: labels of both axes, and the marks.
    """
    from adjustText import adjust_text  # builds have no use for it, and it brings pyplot and scipy

    def draw(x: str, y: str, marks: Sequence[Mark]) -> Callable[[Any], None]:
        def on(axes: Any) -> None:
            best = sorted((mark.x, mark.y) for mark in marks if mark.front)
            axes.plot(*zip(*best, strict=True), color=_GREY, linewidth=1, linestyle="--")
            for mark in marks:
                colour = DENSE if mark.dense else PRUNED
                face = "none" if mark.dense else colour
                axes.scatter(mark.x, mark.y, s=28, edgecolors=colour, facecolors=face, zorder=3)
            axes.set(xlabel=x, ylabel=y)
            heights = [mark.y for mark in marks]
            if min(heights) > 0 and max(heights) > _WIDE * min(heights):
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(ScalarFormatter())
                axes.yaxis.set_minor_formatter(ScalarFormatter())
            axes.margins(0.15)
            axes.figure.draw_without_rendering()  # labels keep clear of where things will be
            adjust_text(
                [axes.text(mark.x, mark.y, mark.label, fontsize=7) for mark in marks], ax=axes,
                expand=(1.1, 1.5), iter_lim=_LABEL_STEPS,
                arrowprops={"arrowstyle": "-", "color": _GREY, "lw": 0.5},
            )  # fmt: skip

        return on

    return svg(*(draw(*panel) for panel in panels), height=4.0)


def history(labels: Sequence[str], lines: Mapping[str, Sequence[Interval]]) -> str:
    """One panel a measure, builds from left to right.

    Args:
        labels: of the builds.
        lines: by measure, a figure for each build.
    """

    def draw(title: str, values: Sequence[Interval]) -> Callable[[Any], None]:
        def on(axes: Any) -> None:
            middle = [one.value for one in values]
            error = [
                [one.value - one.low for one in values],
                [one.high - one.value for one in values],
            ]
            axes.errorbar(
                range(len(middle)), middle, yerr=error, color=PRUNED, marker="o", markersize=4,
                linewidth=1, capsize=2,
            )  # fmt: skip
            axes.set(title=title)
            axes.set_xticks(range(len(labels)), labels)

        return on

    return svg(*(draw(title, values) for title, values in lines.items()))


def _intervals(axes: Any, values: Mapping[str, Interval]) -> None:
    for place, (name, one) in enumerate(values.items()):
        error = [[one.value - one.low], [one.high - one.value]]
        axes.bar(place, one.value, color=_colour(name), width=0.6, alpha=0.6)
        axes.errorbar(place, one.value, yerr=error, color=_GREY, capsize=4)
    axes.set_xticks(range(len(values)), list(values))


def _colour(artifact: str) -> str:
    return PRUNED if artifact in _OWN else DENSE


def svg(*draw: Callable[[Any], None], height: float = 2.6) -> str:
    """Draw panels side by side."""
    with mpl.rc_context(_STYLE):
        figure = Canvas(figsize=(7, height), layout="constrained")
        figure.patch.set_alpha(0)
        for axes, one in zip(figure.subplots(1, len(draw), squeeze=False)[0], draw, strict=True):
            axes.patch.set_alpha(0)
            one(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    _, tag, rest = text.getvalue().partition("<svg")
    return _COUNTED_ID.sub("", tag + rest)
