"""The four fusions side by side on the task metric: writes docs/measured/fusion.md.

    EDGEPRUNE_DATA=../shared/data python benchmarks/fusion_table.py --seeds 0,1,2

Every row is a real build (prune, export, verify, llama.cpp); the builds are kept, so that a second
run only measures what is missing.
"""

from pathlib import Path
from statistics import mean, stdev

import click

from edgeprune.manifest.results import Results
from edgeprune.pipeline.build import build
from edgeprune.recipe.pruning import FUSION_MODES
from edgeprune.recipe.schema import Recipe
from edgeprune.support.environment import sentence
from edgeprune.support.progress import Bars

_BUILDS = Path("builds/fusion-table")


@click.command()
@click.option("--tasks", default="arc_easy,sciq")
@click.option("--seeds", default="0,1,2")
@click.option("--rows", default=445, help="evaluation rows of each task")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/measured/fusion.md"))
def main(tasks: str, seeds: str, rows: int, out: Path) -> None:
    results = {
        (task, fusion, int(seed)): _measure(task, fusion, int(seed), rows)
        for task in tasks.split(",")
        for fusion in FUSION_MODES
        for seed in seeds.split(",")
    }
    out.write_text(_page(results, rows), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _measure(task: str, fusion: str, seed: int, rows: int) -> Results:
    measured = {"eval_rows": rows, "perplexity_tokens": 8192, "processes": 1, "decode_tokens": 8}
    recipe = Recipe.of(
        {"measurement": measured}, task=task, general="wikitext2", fusion=fusion, seed=seed,
        method="wanda", samples=32, type="q8_0",
    )  # fmt: skip
    built = build(recipe, _BUILDS / f"{task}-{fusion}-{seed}", Bars())
    assert built
    return built.manifest.results


def _page(results: dict[tuple[str, str, int], Results], rows: int) -> str:
    lines = [
        "# The four fusions, measured",
        "",
        "Written by `benchmarks/fusion_table.py`. SmolLM2-135M-Instruct (from its Q4_1 file), "
        "Wanda, 50 % per output row, exported as Q8_0, scored in llama.cpp. Calibration: 32 × 512 "
        "tokens a stream, general text from Wikipedia and web pages, the task through its answer "
        f"template. Measured on up to {rows} evaluation rows and 8,192 tokens of WikiText-2 test. "
        "Mean ± standard deviation over calibration seeds; the evaluation rows are the same.",
        "",
        sentence(),
    ]
    for task in dict.fromkeys(task for task, _, _ in results):
        any_run = next(r for (t, _, _), r in results.items() if t == task)
        dense = any_run.dense
        lines += [
            "",
            f"## {task} ({any_run.rows} rows, chance level {any_run.chance_level:.3f})",
            "",
            "| | nats / answer token | accuracy | general perplexity |",
            "| --- | --- | --- | --- |",
            f"| dense | {dense.nats_per_answer_token.value:.3f} | "
            f"{dense.accuracy.value:.3f} | {dense.general_perplexity.value:.1f} |",
        ]
        for fusion in FUSION_MODES:
            runs = [
                r.artifacts["pruned"]
                for (t, f, _), r in results.items()
                if (t, f) == (task, fusion)
            ]
            cells = [
                _spread([run.nats_per_answer_token.value for run in runs], 3),
                _spread([run.accuracy.value for run in runs], 3),
                _spread([run.general_perplexity.value for run in runs], 1),
            ]
            lines.append(f"| {fusion} | {' | '.join(cells)} |")
        lines += [
            "",
            f"fused minus mix, nats per answer token, seed by seed: {_paired(results, task)}",
        ]
    return "\n".join(lines) + "\n"


def _paired(results: dict[tuple[str, str, int], Results], task: str) -> str:
    def nats(fusion: str, seed: int) -> float:
        run = results[task, fusion, seed].artifacts["pruned"]
        return run.nats_per_answer_token.value

    seeds = [seed for (t, f, seed) in results if (t, f) == (task, "mix")]
    return ", ".join(f"{nats('fused', seed) - nats('mix', seed):+.3f}" for seed in seeds)


def _spread(values: list[float], digits: int) -> str:
    text = f"{mean(values):.{digits}f}"
    return text + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
