"""Plots as SVG text, readable on light and dark pages."""

import io
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_GREY = "#808890"  # readable on white and on black
_DENSE, _PRUNED = "#7a8ca5", "#d9622b"
_COLOURS = {"dense": _DENSE, "pruned": _PRUNED}
_MATRIX = re.compile(r"\.(\d+)\.(.+)\.weight$")
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


def sparsity_by_layer(tensors: list[dict[str, Any]]) -> str:
    """Share of zeros by block, one line per kind of matrix."""
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for tensor in tensors:
        if match := _MATRIX.search(tensor["name"]):
            lines[match[2].rpartition(".")[2]].append((int(match[1]), tensor["sparsity"]))

    def draw(axes: Any) -> None:
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker=".", linewidth=1, label=name)
        axes.set(xlabel="block", ylabel="share of zeros", ylim=(0, 1))
        axes.legend(ncols=4, fontsize=7)

    return _svg(draw)


def search_curve(search: dict[str, Any]) -> str:
    """What every tried sparsity cost on the held-out rows, and the bound."""
    probes = sorted(search["probes"], key=lambda probe: probe["sparsity"])

    def draw(axes: Any) -> None:
        axes.plot(
            [0, *(p["sparsity"] for p in probes)],
            [search["dense"], *(p["value"] for p in probes)],
            marker="o", markersize=4, linewidth=1, color=_PRUNED,
        )  # fmt: skip
        axes.axhline(search["bound"], color=_DENSE, linestyle="--", linewidth=1, label="bound")
        axes.set(xlabel="sparsity", ylabel=search["metric"].replace("_", " "))
        axes.legend(fontsize=7)

    return _svg(draw)


def ablation_curves(records: list[dict[str, Any]]) -> str:
    """Nats per answer token against general perplexity: down and left is better.

    One marker a row of `edgeprune.ablation.ablate`, with its spread; lines join the sparsities of
    one method and fusion.
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

    return _svg(draw)


def exclusive_by_layer(tensors: list[dict[str, Any]]) -> str:
    """Share of exclusive input channels by block, mean over its matrices."""
    blocks: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for tensor in tensors:
        if (match := _MATRIX.search(tensor["name"])) and tensor["exclusive"]:
            blocks[int(match[1])].append(tensor["exclusive"])
    numbers = sorted(blocks)
    general, task = (
        [sum(pair[side] for pair in blocks[n]) / len(blocks[n]) for n in numbers] for side in (0, 1)
    )

    def draw(axes: Any) -> None:
        axes.bar(numbers, general, color=_DENSE, label="general text uses them more")
        axes.bar(numbers, task, bottom=general, color=_PRUNED, label="the task uses them more")
        axes.set(xlabel="block", ylabel="share of channels")
        axes.margins(y=0.4)  # room for the legend
        axes.legend(fontsize=7)

    return _svg(draw)


def quality(artifacts: dict[str, Any], guessing_line: float | None) -> str:
    """Accuracy and likelihood against dense, with intervals."""

    def draw_accuracy(axes: Any) -> None:
        _intervals(axes, {name: record["accuracy"] for name, record in artifacts.items()})
        if guessing_line is not None:
            axes.axhline(guessing_line, color=_GREY, linestyle="--", linewidth=1)
            axes.annotate(
                "guessing",
                (0.02, guessing_line),
                xycoords=("axes fraction", "data"),
                va="bottom",
                fontsize=7,
            )
        axes.set(ylabel="accuracy", ylim=(0, 1))

    def draw_nats(axes: Any) -> None:
        _intervals(axes, {n: record["nats_per_answer_token"] for n, record in artifacts.items()})
        axes.set(ylabel="nats per answer token")
        axes.set_ylim(bottom=0)

    has_accuracy = all(record["accuracy"] for record in artifacts.values())
    return _svg(*((draw_accuracy, draw_nats) if has_accuracy else (draw_nats,)))


def latency(artifacts: dict[str, Any]) -> str:
    """Every timing sample of prefill and decode."""

    def draw(measure: str) -> Callable[[Any], None]:
        def on(axes: Any) -> None:
            for place, (name, record) in enumerate(artifacts.items()):
                samples = record[measure]["samples"]
                axes.scatter([place] * len(samples), samples, color=_COLOURS[name], alpha=0.6)
                axes.hlines(record[measure]["median"], place - 0.2, place + 0.2, _COLOURS[name])
            axes.set(title=measure, ylabel="tokens per second", xlim=(-0.6, len(artifacts) - 0.4))
            axes.set_xticks(range(len(artifacts)), list(artifacts))
            axes.set_ylim(bottom=0)

        return on

    return _svg(draw("prefill"), draw("decode"))


def size(artifacts: dict[str, Any]) -> str:
    """File size and peak memory of the runtime."""

    def draw(key: str, title: str) -> Callable[[Any], None]:
        def on(axes: Any) -> None:
            values = [record[key] / 1e6 for record in artifacts.values()]
            axes.bar(list(artifacts), values, color=[_COLOURS[name] for name in artifacts])
            axes.set(title=title, ylabel="MB")

        return on

    return _svg(draw("file_bytes", "file"), draw("peak_memory_bytes", "peak memory"))


def _intervals(axes: Any, values: dict[str, dict[str, float]]) -> None:
    for place, (name, value) in enumerate(values.items()):
        error = [[value["value"] - value["low"]], [value["high"] - value["value"]]]
        axes.bar(place, value["value"], color=_COLOURS[name], width=0.6)
        axes.errorbar(place, value["value"], yerr=error, color=_GREY, capsize=4)
    axes.set_xticks(range(len(values)), list(values))


def _svg(*draw: Callable[[Any], None]) -> str:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7, 2.6), layout="constrained")
        figure.patch.set_alpha(0)
        for axes, one in zip(figure.subplots(1, len(draw), squeeze=False)[0], draw, strict=True):
            axes.patch.set_alpha(0)
            one(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]
