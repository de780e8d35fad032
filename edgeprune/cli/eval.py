"""`edgeprune eval`."""

from pathlib import Path
from typing import Any

import click

_EPILOG = """\b
Examples:
  edgeprune eval builds/*/model.gguf --task medqa
  edgeprune eval model.onnx --task arc_easy --rows 500 --json
  edgeprune eval ./my-model --task questions.jsonl      # a transformers folder, in float32
  edgeprune eval --task medqa --export-lm-eval harness  # the same rows for lm-evaluation-harness
  edgeprune eval --task app_actions --url http://127.0.0.1:8080    # what a server writes
"""


@click.command("eval", epilog=_EPILOG)
@click.argument("artifact", required=False)
@click.option("--task", required=True, help="Shipped task, or a .yaml or .jsonl file.")
@click.option("--general", help="General text for perplexity. [boolq_passages]")
@click.option("--rows", type=click.IntRange(1), help="Number of evaluation rows of the task. [200]")
@click.option(
    "--perplexity-tokens", type=click.IntRange(512), help="Number of tokens of general text. [8192]"
)
@click.option("--threads", type=click.IntRange(1), help="Number of runtime threads. [all cores]")
@click.option(
    "--json", "as_json", is_flag=True, help="Print everything as JSON, with every row's answer."
)
@click.option(
    "--url",
    help="Address of a running OpenAI-style server whose answers are scored, instead of a file; "
    "its key is in OPENAI_API_KEY.",
)
@click.option(
    "--export-lm-eval",
    "harness",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the rows and a task file for lm-evaluation-harness into this folder, and score "
    "nothing.",
)
def command(
    artifact: str | None,
    task: str,
    rows: int | None,
    as_json: bool,
    url: str | None,
    harness: Path | None,
    **values: Any,
) -> None:
    """Score a GGUF or ONNX file, or a transformers model, on a task and on general text.

    Of a server (--url), only tasks are scored whose answers are written.
    """
    import runtime_tests
    from edgeprune.data.loading import load_data
    from edgeprune.models import artifact_path
    from edgeprune.pipeline.measure import measure_plan
    from edgeprune.recipe.schema import make
    from edgeprune.support.errors import UsageError
    from edgeprune.support.files import json_text
    from edgeprune.support.progress import Bars
    from runtime_tests.programs import answers

    given = {
        "data.task": task,
        "data.general": values["general"],
        "measurement.eval_rows": rows,
        "measurement.perplexity_tokens": values["perplexity_tokens"],
        "measurement.threads": values["threads"],
    }
    recipe = make({name: value for name, value in given.items() if value is not None})
    if sum(map(bool, (artifact, url, harness))) != 1:
        raise UsageError(
            "Name one thing to score: a .gguf or .onnx file, a transformers model, or --url.",
            "Such as: edgeprune eval builds/*/model.gguf --task medqa",
        )
    path = artifact_path(artifact) if artifact else None
    data = load_data(
        recipe.data.task,
        recipe.data.general,
        recipe.measurement.eval_rows,
        recipe.measurement.perplexity_tokens,
    )
    if harness:
        _export(data, harness)
        return
    plan, stages = measure_plan(recipe, data), Bars().stage
    if path:
        found = runtime_tests.quality(path, plan, stages)
    else:
        found = answers.quality(str(url), plan, stages)
    if as_json:
        click.echo(json_text({"artifact": artifact or url, "task": data.task.task.name} | found))
        return
    for line in _lines(found):
        click.echo(line)


def _export(data: Any, folder: Path) -> None:
    from edgeprune.data import lm_eval

    file = lm_eval.write(data, folder)
    click.echo(
        f"{len(data.evaluation)} rows and {file}; then, in lm-evaluation-harness:\n"
        f"  lm_eval --model hf --model_args pretrained=MODEL --include_path {folder} "
        f"--tasks edgeprune_{data.task.task.name}"
        + (" --apply_chat_template" if data.task.task.chat else "")
    )


def _calls(found: dict[str, Any] | None) -> list[str]:
    """Say how the calls of a task that asks for them were."""
    if not found:
        return []
    lines = []
    for way, how in (("free", "calls"), ("grammar", "calls in a grammar")):
        if shares := found[way]:
            named = {"called": "called", "function": "right function", "exact": "exact",
                     "refused": "rightly refused"}  # fmt: skip
            said = ", ".join(f"{words} {shares[n]['value']:.3f}" for n, words in named.items()
                             if shares[n])  # fmt: skip
            lines.append(f"{how:<23}{said}")
    if "milliseconds" in found:
        lines.append(
            f"{'a call':<23}{found['milliseconds']:.0f} ms, {found['prompt_tokens']:.0f} prompt "
            "tokens"
        )
    return lines


def _lines(found: dict[str, Any]) -> list[str]:
    accuracy, nats = found["accuracy"], found.get("nats_per_answer_token")
    lines = []
    if accuracy:
        lines.append(
            f"accuracy               {accuracy['value']:.3f} ({accuracy['low']:.3f}-"
            f"{accuracy['high']:.3f}), {accuracy['correct']} of {accuracy['rows']}"
        )
    if nats:
        lines.append(
            f"nats per answer token  {nats['value']:.3f} ({nats['low']:.3f}-{nats['high']:.3f})"
        )
    lines += _calls(found.get("calls"))
    if perplexity := found.get("general_perplexity"):
        lines.append(
            f"general perplexity     {perplexity['value']:.2f} ({perplexity['low']:.2f}-"
            f"{perplexity['high']:.2f}) over {perplexity['tokens']} tokens"
        )
    if "milliseconds" in found:
        lines.append(f"an answer              {found['milliseconds']:.0f} ms, the median")
    if found.get("near_chance"):
        lines.append(
            f"The accuracy is not significantly above chance level ({found['chance_level']:.3f}): "
            "compare nats per answer token instead."
        )
    return lines
