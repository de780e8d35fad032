"""Ablations: compare methods, fusions and sparsities on the same task and rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from filelock import FileLock, Timeout

import exporters
from edgeprune.pipeline.job import open_job, rows_for
from edgeprune.pipeline.trial import trial
from edgeprune.pipeline.workspace import Workspace
from edgeprune.pruning.methods import METHODS
from edgeprune.recipe.schema import Recipe, make
from edgeprune.support.errors import UsageError
from edgeprune.support.extras import need
from edgeprune.support.files import write_json
from edgeprune.support.progress import Progress

DENSE = "dense"


@dataclass(frozen=True)
class Variant:
    """One row of the table, over all its seeds.

    Attributes:
        method: pruning method; ``dense`` for the unpruned model.
        fusion: fusion mode; empty if the method uses no data.
        amount: sparsity such as ``0.5``, or a pattern such as ``2:4``.
    """

    method: str
    fusion: str = ""
    amount: str = "0"

    def recipe(self, base: Recipe, seed: int) -> Recipe:
        """The base recipe with this variant's settings."""
        values = base.model_dump()
        del values["pruning"]["sparsity"], values["pruning"]["pattern"]
        if self.method == DENSE:
            del values["training"]
        else:
            values["pruning"]["method"] = self.method
        if self.fusion:
            values["pruning"]["fusion"]["mode"] = self.fusion
        values["pruning"]["pattern" if ":" in self.amount else "sparsity"] = self.amount
        return make(values | {"data.seed": seed})


def variants(methods: list[str], fusions: list[str], amounts: list[str]) -> Iterator[Variant]:
    """List all distinct combinations; methods that use no data have no fusion."""
    for amount in amounts:
        for method in methods:
            sees_data = method not in METHODS or METHODS[method].sees != "nothing"
            for fusion in fusions if sees_data else [""]:
                yield Variant(method, fusion, amount)


def ablate(
    recipe: Recipe,
    rows: list[Variant],
    seeds: list[int],
    folder: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Try every variant with every calibration seed; earlier trials are reused.

    Args:
        recipe: base recipe for everything that the variants do not set.
        rows: variants to compare; the dense model is added in front.
        seeds: random seeds of the calibration rows' order; evaluation rows are always the same.
        folder: keeps the trials and, after each of them, ``ablation.json`` with the results so far.
        progress: receives progress of every trial and its stages.

    Returns:
        One record per variant: its settings, ``trials`` by seed, as `edgeprune.pipeline.trial`
        returns them, and a ``summary`` of each metric.

    Raises:
        EdgepruneError: as `edgeprune.pipeline.build.build`; finished trials are kept.
    """
    exporter = exporters.get(recipe.artifact.target)
    need("torch", "transformers", "accelerate", "scipy", "matplotlib", *exporter.requirements)
    recipes = {row: [row.recipe(recipe, seed) for seed in seeds] for row in rows}  # all checked now
    data = rows_for(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            job = open_job(recipe, Workspace(folder, progress), data)
            dense = Variant(DENSE)
            recipes = {dense: [dense.recipe(recipe, 0)], **recipes}
            records: list[dict[str, Any]] = []
            with progress.stage("ablation", sum(map(len, recipes.values()))) as stage:
                for row, tries in recipes.items():
                    trials = {}
                    for tried in tries:
                        trials[tried.data.seed] = trial(replace(job, recipe=tried))
                        stage.advance()
                    settings = {"method": row.method, "fusion": row.fusion, "amount": row.amount}
                    records.append(settings | {"trials": trials, "summary": _summary(trials)})
                    write_json(folder / "ablation.json", records)
            return records
    except Timeout:
        raise UsageError(
            f"Another ablation is running in {folder}.",
            "Wait until it ends, or choose another --out.",
        ) from None


def _summary(trials: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Compute mean and spread of each metric.

    With several seeds the spread is their standard deviation; with one it is half the 95 %
    interval over evaluation rows.
    """
    summary: dict[str, Any] = {}
    for metric in ("accuracy", "nats_per_answer_token", "general_perplexity"):
        found = [t[metric] for t in trials.values() if t.get(metric)]
        if not found:
            continue
        values = [f["value"] for f in found]
        if len(values) > 1:
            spread, kind = stdev(values), "sd over seeds"
        else:
            low, high = found[0].get("low"), found[0].get("high")
            spread, kind = (high - low) / 2 if low is not None else None, "95 % interval"
        summary[metric] = {"value": mean(values), "spread": spread, "kind": kind}
    return summary


def cells(record: dict[str, Any]) -> list[str]:
    """Format a record as the cells of one table row; see `HEADINGS`."""
    summary, name = record["summary"], record["method"]
    texts = [name, record["fusion"] or "–", "–" if name == DENSE else record["amount"]]
    for metric, digits in (
        ("general_perplexity", 1),
        ("accuracy", 3),
        ("nats_per_answer_token", 3),
    ):
        found = summary.get(metric)
        if found is None:
            texts.append("–")
        elif found["spread"] is None:
            texts.append(f"{found['value']:.{digits}f}")
        else:
            texts.append(f"{found['value']:.{digits}f} ± {found['spread']:.{digits}f}")
    return [*texts, str(len(record["trials"]))]


HEADINGS = (
    "method", "fusion", "sparsity", "general perplexity", "accuracy", "nats / answer token",
    "seeds",
)  # fmt: skip


def markdown(records: list[dict[str, Any]]) -> str:
    """Format the table in Markdown."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + " --- |" * len(HEADINGS)]
    lines += ["| " + " | ".join(cells(record)) + " |" for record in records]
    return "\n".join(lines) + "\n"
