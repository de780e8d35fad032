"""`edgeprune eval`: one scorer, three runtimes."""

import json

import pytest

from exporters.artifact import Storage
from exporters.onnx import export
from tests.conftest import Counter, dense_model
from tests.test_cli import run

ROWS = ("--rows", "12", "--perplexity-tokens", "512")


@pytest.mark.slow
def test_the_dense_model_scores_alike_in_every_runtime(real_checkpoint, dense_f32, tmp_path):
    """In float32, but for llama.cpp's cache, which is of half precision."""
    onnx = tmp_path / "model.onnx"
    export(dense_model(real_checkpoint), Storage("fp32"), onnx, None, "test", Counter())
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


def test_a_table_for_people_and_bad_input(tiny_folder, rows_file, tmp_path):
    done = run("eval", tiny_folder, "--task", rows_file, *ROWS)
    assert done.returncode == 0, done.stderr
    assert "nats per answer token" in done.stdout
    assert "general perplexity" in done.stdout
    assert "can't be told from guessing" in done.stdout
    missing = run("eval", tmp_path / "no.gguf", "--task", rows_file)
    assert missing.returncode == 3
    assert "No such file" in missing.stderr
    assert run("eval", tiny_folder, "--task", "no_such_task").returncode == 2


def test_bench_times_artifacts_in_turns(tiny_folder, dense_f32):
    done = run("bench", tiny_folder, dense_f32, "--rounds", "2", "--prefill", "16,32",
               "--decode", "4", "--depth", "8", "--threads", "1,2", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    tests = {(row["artifact"], row["threads"], row["test"]) for row in record["rows"]}
    for path in (tiny_folder, dense_f32):
        for threads in (1, 2):
            for test in ("pp16", "pp32", "tg4", "first_token", "load", "peak_memory"):
                assert (str(path), threads, test) in tests
    rounds = [row["samples"] for row in record["rows"] if row["test"] == "tg4"]
    assert all(len(samples) == 2 and min(samples) > 0 for samples in rounds)
    assert record["surroundings"]["cores"] >= 1


def test_bench_prints_tables(tiny_folder):
    options = ("--rounds", "2", "--prefill", "8", "--decode", "2", "--depth", "4")
    table = run("bench", tiny_folder, *options)
    assert table.returncode == 0, table.stderr
    assert "| artifact | size, MB | runtime | threads | test | result |" in table.stdout
    assert " ± " in table.stdout
    rows = run("bench", tiny_folder, *options, "--format", "csv").stdout.splitlines()
    assert rows[0] == "artifact,threads,test,unit,median,mean,sd,rounds"
    assert any(row.split(",")[2] == "pp8" for row in rows[1:])
    assert run("bench", tiny_folder, "--prefill", "0").returncode == 2
