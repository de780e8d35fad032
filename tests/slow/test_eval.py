"""Scores of the real model in every runtime."""

import json

import pytest

from edgeprune.data.loading import load_data
from exporters.base import StorageRequest
from tests.support.exporting import Counter, dense_model, export_onnx
from tests.support.processes import run

ROWS = ("--rows", "12", "--perplexity-tokens", "512")


def test_the_dense_model_scores_alike_in_every_runtime(real_checkpoint, dense_f32, tmp_path):
    """In float32, but for llama.cpp's cache, which is of half precision."""
    onnx = tmp_path / "model.onnx"
    export_onnx(dense_model(real_checkpoint), StorageRequest("fp32"), onnx, None, "test", Counter())
    found = {}
    for path in (dense_f32, onnx, real_checkpoint.folder):
        done = run("eval", path, "--task", "mmlu_med", *ROWS, "--json")
        assert done.returncode == 0, done.stderr
        found[path] = json.loads(done.stdout)
    gguf, *others = found.values()
    for other in others:
        assert other["answers"]["rows"] == gguf["answers"]["rows"]
        assert other["answers"]["tokens"] == gguf["answers"]["tokens"]
        assert other["answers"]["correct"] == gguf["answers"]["correct"]
        assert other["answers"]["nats"] == pytest.approx(gguf["answers"]["nats"], abs=0.02)
        assert other["general_perplexity"]["value"] == pytest.approx(
            gguf["general_perplexity"]["value"], rel=1e-3
        )


def test_the_reference_equals_lm_evaluation_harness(real_checkpoint, rows_file, tmp_path):
    """Same rows, same template: the same likelihoods and the same right answers."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    done = run("eval", real_checkpoint.folder, "--task", rows_file, *ROWS, "--json")
    assert done.returncode == 0, done.stderr
    ours = json.loads(done.stdout)["answers"]
    data = load_data(str(rows_file), "boolq_passages", 12, 512)
    assert [row.id for row in data.evaluation] == ours["rows"]
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(
            json.dumps(row.fields | {"choices": list(row.choices), "answer": row.answer}) + "\n"
            for row in data.evaluation
        )
    )
    task = {
        "task": "oracle",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }
    model = HFLM(pretrained=str(real_checkpoint.folder), device="cpu", dtype="float32")
    found = lm_eval.simple_evaluate(model=model, tasks=[task], log_samples=True, bootstrap_iters=0)
    samples = sorted(found["samples"]["oracle"], key=lambda sample: sample["doc_id"])
    theirs = [-sample["filtered_resps"][row.answer][0]
              for sample, row in zip(samples, data.evaluation, strict=True)]  # fmt: skip
    assert ours["nats"] == pytest.approx(theirs, abs=1e-3)
    assert ours["correct"] == [bool(sample["acc"]) for sample in samples]
