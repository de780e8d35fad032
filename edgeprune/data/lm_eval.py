"""A task's evaluation rows as a task file for lm-evaluation-harness."""

import json
from pathlib import Path
from typing import Any

from edgeprune.data.loading import Data
from edgeprune.data.rows import Row
from edgeprune.support.errors import UsageError
from edgeprune.support.files import write_text

_EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True,
          "ignore_case": True, "ignore_punctuation": True}  # fmt: skip


def write(data: Data, folder: Path) -> Path:
    """Write the rows that a build is measured on, with the prompts that it reads.

    Args:
        data: the task's rows.
        folder: where ``<task>.yaml`` and ``<task>.jsonl`` are written.

    Returns:
        The YAML file.

    Raises:
        UsageError: the task asks for calls of functions, which the harness does not judge.
    """
    import yaml

    task = data.task.task
    if task.kind == "tool_call":
        raise UsageError(
            f"Task '{task.name}' asks for calls of functions, which lm-evaluation-harness does not "
            "judge.",
            "Score it with edgeprune: leave --export-lm-eval out.",
        )
    name = f"edgeprune_{task.name}"
    rows = [_row(data, row) for row in data.evaluation]
    file, settings = folder / f"{task.name}.jsonl", folder / f"{task.name}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_text(file, "\n".join([*lines, ""]))
    about: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file.resolve())}},
        "test_split": "test",
        "num_fewshot": 0,  # solved rows stand in the prompts
        **_scored(data),
        "metadata": {"version": task.version},
    }
    if task.chat and task.system:
        about["description"] = task.system
    write_text(settings, yaml.safe_dump(about, sort_keys=False))
    return settings


def _row(data: Data, row: Row) -> dict[str, Any]:
    task, renderer = data.task.task, data.task.renderer
    if task.kind == "text":
        return {"id": row.id, "text": renderer.prompt(row)}
    found = {"id": row.id, "prompt": renderer.prompt(row)}
    if _written(data):
        return found | {"answers": list(row.answers)}
    answers = [renderer.answer(row, index) for index in range(len(row.choices) or 1)]
    return found | {"choices": [one.lstrip() for one in answers], "answer": max(row.answer, 0)}


def _scored(data: Data) -> dict[str, Any]:
    """Say how rows are scored."""
    task = data.task.task
    if task.kind == "text":
        return {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
            "metric_list": [{"metric": name} for name in ("word_perplexity", "bits_per_byte")],
        }  # fmt: skip
    if _written(data):
        return {
            "output_type": "generate_until", "doc_to_text": "{{prompt}}",
            "doc_to_target": "answers", "metric_list": [_EXACT],
            "generation_kwargs": {
                "until": task.stop or ["\n"], "max_gen_toks": task.max_answer_tokens,
                "do_sample": False,
            },
        }  # fmt: skip
    mean = {"aggregation": "mean", "higher_is_better": True}
    answer = task.answer
    return {
        "output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_choice": "choices",
        "doc_to_target": "answer", "target_delimiter": answer[: len(answer) - len(answer.lstrip())],
        "metric_list": [{"metric": name, **mean} for name in ("acc", "acc_norm")],
    }  # fmt: skip


def _written(data: Data) -> bool:
    return data.task.task.metric == "exact_match"
