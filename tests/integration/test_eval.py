"""`edgeprune eval`: one scorer, three runtimes."""

import json
import sys
import types
from pathlib import Path

import torch

from runtime_tests import counters
from tests.support.processes import run

ROWS = ("--rows", "12", "--perplexity-tokens", "512")


def test_a_table_for_people_and_bad_input(tiny_folder, rows_file, tmp_path):
    done = run("eval", tiny_folder, "--task", rows_file, *ROWS)
    assert done.returncode == 0, done.stderr
    assert "nats per answer token" in done.stdout
    assert "general perplexity" in done.stdout
    assert "not significantly above chance level" in done.stdout
    missing = run("eval", tmp_path / "no.gguf", "--task", rows_file)
    assert missing.returncode == 3
    assert "No such file" in missing.stderr
    assert run("eval", tiny_folder, "--task", "no_such_task").returncode == 2


def test_bench_times_artifacts_in_turns(tiny_folder, dense_f32):
    done = run("bench", tiny_folder, dense_f32, "--processes", "2", "--prefill", "16,32",
               "--decode", "4", "--depth", "8", "--threads", "1,2", "--batch", "1,3",
               "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    tests = {(row["artifact"], row["threads"], row["test"]) for row in record["rows"]}
    for path in (tiny_folder, dense_f32):
        for threads in (1, 2):
            for test in ("pp16", "pp32 b3", "tg4", "tg4 b3", "first_token", "load", "peak_memory"):
                assert (str(path), threads, test) in tests
    decoded = [row for row in record["rows"] if row["test"] == "tg4"]
    for row in decoded:
        assert [len(rounds) for rounds in row["samples"]] == [2, 2]
        assert min(min(rounds) for rounds in row["samples"]) > 0
    assert [row["ratio"] is None for row in decoded] == [True, True, False, False]
    assert decoded[2]["ratio"]["low"] < decoded[2]["ratio"]["value"] < decoded[2]["ratio"]["high"]
    assert record["environment"]["cores"] >= 1


def test_bench_prints_tables(tiny_folder):
    options = ("--processes", "2", "--prefill", "8", "--decode", "2", "--depth", "4")
    table = run("bench", tiny_folder, *options)
    assert table.returncode == 0, table.stderr
    assert "| device | threads | test | result | x first |" in table.stdout
    assert " ± " in table.stdout
    rows = run("bench", tiny_folder, *options, "--format", "csv").stdout.splitlines()
    assert rows[0].startswith("artifact,device,threads,test,unit,median,mean,sd,processes,ratio,")
    assert any(row.split(",")[3] == "pp8" for row in rows[1:])
    assert run("bench", tiny_folder, "--prefill", "0").returncode == 2


def test_gpus_that_are_not_here_are_named(tiny_folder, dense_f32):
    options = ("--processes", "1", "--prefill", "8", "--decode", "2", "--depth", "4", "--gpu")
    done = run("bench", tiny_folder, dense_f32, *options, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    missing = {(Path(one["artifact"]), one["device"]): one["why"] for one in found["not_run"]}
    timed = {(Path(row["artifact"]), row["device"]) for row in found["rows"]}
    for path, device in ((tiny_folder, "CUDA"), (tiny_folder, "CUDA 2:4"), (dense_f32, "GPU")):
        assert missing.get((path, device)) or (path, device) in timed
    if missing:
        assert "not run: " in run("bench", tiny_folder, dense_f32, *options).stdout


def test_energy_is_read_where_it_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(counters, "_ZONES", tmp_path)
    assert counters.joules() is None
    for zone, microjoules in (("intel-rapl:0", 2_000_000), ("intel-rapl:1", 500_000)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{microjoules}\n")
    assert counters.joules() == 2.5
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("?")
    assert counters.joules() is None
    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = RuntimeError
    nvml.nvmlInit = nvml.nvmlDeviceGetHandleByIndex = lambda *_: None
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda _: 1500
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert counters.joules("CUDA") == 1.5


def test_two_of_four_is_recognised():
    from runtime_tests.runners.transformers import is_two_of_four

    weight = torch.tensor([[1.0, 0, 2, 0, 0, 0, 3, 4], [0.0, 0, 0, 0, 1, 0, 0, 0]])
    assert is_two_of_four(weight)
    assert not is_two_of_four(weight + 1)
    assert not is_two_of_four(weight[:, :6])


def test_a_batch_that_does_not_fit_is_said(dense_f32):
    done = run("bench", dense_f32, "--processes", "1", "--prefill", "512", "--batch", "8")
    assert done.returncode == 4
    assert "2048 tokens are read at once" in done.stderr.replace("\n", " ")
