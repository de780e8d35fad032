"""What cutting long inputs saves and costs: writes docs/measured/preprocess.md.

    EDGEPRUNE_DATA=../shared/data python benchmarks/preprocess.py --minutes 15

One model, one task with long inputs, several budgets of words; the beginning of each input, as
long, beside the sentences that BM25 finds. Rows that are known from an earlier run are only read.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

import runtime_tests
from edgeprune.data.loading import Data
from edgeprune.data.task import Preprocess
from edgeprune.models.packaged import find
from edgeprune.pipeline.job import rows_for
from edgeprune.pipeline.measure import measure_plan
from edgeprune.recipe.schema import Recipe
from edgeprune.support.environment import cores, sentence
from edgeprune.support.files import read_json, write_json
from edgeprune.support.progress import Bars
from runtime_tests.child import start

_PAGE, _WORK = Path("docs/measured/preprocess.md"), Path("ablations/preprocess")
_WORDS = (120, 60, 30)
_TIMED = 12  # prompts


@click.command()
@click.option("--task", default="pubmedqa")
@click.option("--minutes", default=0.0, help="begin no new row after so many minutes")
@click.option("--rows", default=200, help="evaluation rows")
@click.option("--out", type=click.Path(path_type=Path), default=_PAGE)
def main(task: str, minutes: float, rows: int, out: Path) -> None:
    deadline, found = time.monotonic() + 60 * minutes, list[dict[str, Any]]()
    for words, how in [(0, "whole"), *((n, how) for n in _WORDS for how in ("BM25", "beginning"))]:
        record = _WORK / f"{task}-{words}-{how}-{rows}.json"
        known = read_json(record)
        if known is None and time.monotonic() < deadline:
            known = {"words": words, "how": how} | _measured(task, words, how, rows)
            write_json(record, known)
        found += [known] if known else []
    out.write_text("\n".join(_page(found, task, rows)), encoding="utf-8")
    click.echo(out.read_text(encoding="utf-8"))


def _measured(task: str, words: int, how: str, rows: int) -> dict[str, Any]:
    recipe = Recipe.of({"measurement.eval_rows": rows}, task=task)
    data = _cut(rows_for(recipe), words, how)
    plan = replace(measure_plan(recipe, data), perplexity_tokens=0)
    model = find("smollm2-135m")
    quality = runtime_tests.quality(model, plan, partial(Bars().stage))
    sizes, seconds = [], []
    with start(model, cores()) as child:
        for item in plan.items[:_TIMED]:
            sizes.append(len(child.call("tokenize", text=item.prompt)))
            begin = time.perf_counter()
            child.call("score", items=[item.request()])
            seconds.append(time.perf_counter() - begin)
    return {
        "accuracy": quality["accuracy"], "nats": quality["nats_per_answer_token"],
        "tokens": sum(sizes) / len(sizes), "milliseconds": 1000 * sorted(seconds)[_TIMED // 2],
    }  # fmt: skip


def _cut(data: Data, words: int, how: str) -> Data:
    if not words:
        return data
    if how == "BM25":
        task = data.task.task.model_copy(update={"preprocess": Preprocess(words=words)})
        return replace(data, task=replace(data.task, task=task))
    beginnings = [
        replace(row, fields=row.fields | {"context": _beginning(row.fields["context"], words)})
        for row in data.evaluation
    ]
    return replace(data, evaluation=beginnings)


def _beginning(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


def _page(found: list[dict[str, Any]], task: str, rows: int) -> Iterator[str]:
    yield "# What cutting long inputs saves and costs"
    yield ""
    yield (
        "Written by `benchmarks/preprocess.py`. SmolLM2-135M-Instruct as it came, in llama.cpp, on "
        f"{task}: inputs cut to the sentences that BM25 ranks highest against the question, "
        f"beside their beginnings of as many words. {rows} evaluation rows, 95 % intervals; a "
        f"question is its prompt and the scoring of its choices, the median of {_TIMED}."
    )
    yield ""
    yield sentence()
    yield ""
    yield "| input | words | prompt, tokens | ms a question | accuracy | nats / answer token |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for one in found:
        yield (
            f"| {one['how']} | {one['words'] or 'all'} | {one['tokens']:.0f} "
            f"| {one['milliseconds']:.0f} | {_interval(one['accuracy'], 3)} "
            f"| {_interval(one['nats'], 2)} |"
        )
    yield ""


def _interval(one: dict[str, float], digits: int) -> str:
    return f"{one['value']:.{digits}f} ({one['low']:.{digits}f}-{one['high']:.{digits}f})"


if __name__ == "__main__":
    main()
