"""Builds compared: what each costs, what it gives, and which are on the Pareto front."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import exporters
from edgeprune.manifest import Manifest
from edgeprune.manifest.base import Interval
from edgeprune.manifest.results import SpeedRatio
from edgeprune.planning.patterns import parse
from edgeprune.report import plots
from edgeprune.report.plots import Figure, Mark
from edgeprune.report.templates import fill
from edgeprune.report.verdict import verdict
from edgeprune.report.words import interval_text, ratio_text, size_text
from edgeprune.support.files import sha256_json

HEADINGS = (
    "", "build", "zeros", "type", "smallest file", "decode, tokens/s", "x dense",
    "nats / answer token", "accuracy", "general perplexity", "verdict",
)  # fmt: skip
_ONE = SpeedRatio(value=1.0, low=1.0, high=1.0)  # the dense baseline beside itself


@dataclass(frozen=True)
class Entry:
    """A build as it is compared.

    Attributes:
        label: a letter, or the type of a dense baseline.
        name: the build's folder; empty for a dense baseline.
        task: of the build.
        questions: hash of what it was measured on, cut into tokens as its model does.
        general: hash of the general text.
        model: its name.
        machine: hash of where.
        sparsity: or the pattern, in words.
        type: of the weights.
        bytes: of the smallest file that runs: the packed one, if there is one.
        decode: tokens per second, the median.
        decode_ratio: that as a multiple of the dense baseline's.
        nats: per answer token, with interval.
        accuracy: with interval, or none.
        perplexity: of general text, with interval.
        verdict: of its gates.
    """

    label: str
    name: str
    task: str
    questions: str
    general: str
    model: str
    machine: str
    sparsity: str
    type: str
    bytes: int
    decode: float
    decode_ratio: SpeedRatio
    nats: Interval
    accuracy: Interval | None
    perplexity: Interval
    verdict: str

    @property
    def dense(self) -> bool:
        """Whether it is a dense baseline."""
        return not self.name


def entries(builds: dict[Path, Manifest]) -> list[Entry]:
    """One entry a build, in their order, and one for each different dense baseline.

    Args:
        builds: manifests by folder.
    """
    found, baselines = [], dict[tuple[str, ...], Entry]()
    for index, (folder, manifest) in enumerate(builds.items()):
        own = manifest.results.own
        found.append(_entry(_letters(index), folder.resolve().name, manifest, own))
        for name in manifest.results.artifacts:
            if name != own:
                kind = name.removeprefix("dense").strip() or _stock(manifest)
                rival = _entry(kind, "", manifest, name)
                key = (rival.task, rival.questions, manifest.model.sha256, rival.type)
                baselines.setdefault(key, rival)
    return found + list(baselines.values())


def as_json(found: list[Entry]) -> list[dict[str, Any]]:
    """Entries for a script."""
    values: list[dict[str, Any]] = TypeAdapter(list[Entry]).dump_python(found, mode="json")
    return values


def _entry(label: str, name: str, manifest: Manifest, artifact: str) -> Entry:
    recipe, results = manifest.recipe, manifest.results
    record, packed = results.artifacts[artifact], manifest.packed
    kind = recipe.artifact.type if name else label
    pruned, machine, pattern = artifact == "pruned", manifest.machine, recipe.pruning.pattern
    zeros = pattern if parse(pattern).fixed else f"{recipe.pruning.sparsity:.0%}"
    return Entry(
        label=label,
        name=name,
        task=manifest.data.task.name,
        questions=sha256_json([record.answers.rows, record.answers.tokens, results.metric]),
        general=manifest.data.general.sha256,
        model=manifest.model.name,
        machine=sha256_json([machine.processor, machine.cores, results.threads]),
        sparsity=zeros if pruned else "none",
        type=kind,
        bytes=packed.packed_bytes if pruned and packed else record.file_bytes,
        decode=record.decode.median,
        decode_ratio=results.difference.decode_speed if pruned and results.difference else _ONE,
        nats=record.nats_per_answer_token,
        accuracy=record.accuracy,
        perplexity=record.general_perplexity,
        verdict=verdict(manifest)[0] if name else "",
    )


def _stock(manifest: Manifest) -> str:
    """Return the type of the dense baseline, which has all of its codes."""
    artifact = manifest.recipe.artifact
    if manifest.choice:
        return exporters.get(artifact.target).default_type
    return artifact.type.partition(":")[0]


def _letters(index: int) -> str:
    """A to Z, then AA, AB and so on."""
    first, last = divmod(index, 26)
    return (_letters(first - 1) if first else "") + chr(ord("A") + last)


def front(costs: list[tuple[float, float]]) -> list[bool]:
    """Which of several are on the Pareto front: no other is better in one and no worse in both."""
    return [
        not any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in costs)
        for one in costs
    ]


def render(found: list[Entry]) -> str:
    """The page: a section for each task and set of questions; its history and Pareto plot."""
    key = _section_key
    sections = [_section(list(group)) for _, group in groupby(sorted(found, key=key), key)]
    count = sum(not entry.dense for entry in found)
    return fill("comparison.html.j2", sections=sections, headings=HEADINGS, count=count)


def _section_key(entry: Entry) -> tuple[str, str]:
    return entry.task, entry.questions


def _section(group: list[Entry]) -> dict[str, Any]:
    builds = [entry for entry in group if not entry.dense]
    by_size = front([(entry.bytes, entry.nats.value) for entry in group])
    by_speed = front([(-entry.decode, entry.nats.value) for entry in group])
    one_machine = len({entry.machine for entry in group}) == 1
    panels = [_panel("smallest file, MB", group, by_size, [e.bytes / 1e6 for e in group])]
    if one_machine:
        panels.append(_panel("decode, tokens/s", group, by_speed, [e.decode for e in group]))
    unbeaten = [entry for entry, best in zip(group, by_size, strict=True) if best]
    figures = [
        Figure(
            "Cost against task loss",
            plots.pareto(*panels),
            "on the Pareto front of size and nats per answer token: "
            + ", ".join(f"{entry.label} ({size_text(entry.bytes)}, {entry.nats.value:.2f})"
                        for entry in unbeaten),
        )
    ]  # fmt: skip
    if len(builds) > 1:
        figures.append(_history(builds))
    return {
        "task": group[0].task,
        "verdict": _sentence(unbeaten, builds),
        "notes": list(_notes(group)),
        "rows": [cells(entry) for entry in group],
        "figures": figures,
    }  # fmt: skip


def _notes(group: list[Entry]) -> Iterator[str]:
    if len({entry.machine for entry in group}) > 1:
        yield (
            "These builds were measured on several machines: compare their speeds only as "
            "multiples of the dense model's."
        )
    if len({entry.general for entry in group}) > 1:
        yield "General perplexity was measured on different texts and can't be compared."


def _panel(
    title: str, group: list[Entry], best: list[bool], costs: list[float]
) -> tuple[str, str, list[Mark]]:
    marks = [
        Mark(entry.label, cost, entry.nats.value, entry.dense, is_best)
        for entry, cost, is_best in zip(group, costs, best, strict=True)
    ]
    return title, "nats per answer token", marks


def _history(builds: list[Entry]) -> Figure:
    lines = {
        "nats / answer token": [entry.nats for entry in builds],
        "general perplexity": [entry.perplexity for entry in builds],
        "decode, x dense": [_interval(entry.decode_ratio) for entry in builds],
        "file, MB": [Interval.exactly(entry.bytes / 1e6) for entry in builds],
    }
    first, last = builds[0], builds[-1]
    said = (
        f"from {first.label} to {last.label}: nats per answer token {first.nats.value:.2f} to "
        f"{last.nats.value:.2f}, decode {first.decode_ratio.value:.2f} to "
        f"{last.decode_ratio.value:.2f} times the dense model, {size_text(first.bytes)} to "
        f"{size_text(last.bytes)}"
    )
    plot = plots.history([entry.label for entry in builds], lines)
    return Figure("History, in the order of the table", plot, said)


def _interval(found: SpeedRatio) -> Interval:
    """For a plot, where one process is a point without an interval."""
    low, high = (found.value if end is None else end for end in (found.low, found.high))
    return Interval(value=found.value, low=low, high=high)


def _sentence(unbeaten: list[Entry], builds: list[Entry]) -> str:
    """Which builds are worth shipping, in the plane of size and task loss."""
    best = [entry.label for entry in unbeaten if not entry.dense]
    beaten = [entry.label for entry in builds if entry.label not in best]
    if not best:
        return (
            "Every build is dominated by a dense model: one that is no larger and no worse at the "
            "task."
        )
    said = f"On the Pareto front of size and task loss: {', '.join(best)}."
    if beaten:
        said += (
            f" Dominated by another model (no larger, no worse, possibly dense): "
            f"{', '.join(beaten)}."
        )
    return said


def cells(entry: Entry) -> list[str]:
    """An entry as the cells of a row under `HEADINGS`."""
    return [
        entry.label,
        entry.name or f"{entry.model}, dense",
        entry.sparsity,
        entry.type,
        size_text(entry.bytes),
        f"{entry.decode:.1f}",
        ratio_text(entry.decode_ratio),
        interval_text(entry.nats, 2),
        interval_text(entry.accuracy, 3),
        interval_text(entry.perplexity, 1),
        entry.verdict,
    ]
