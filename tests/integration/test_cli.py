"""The command line as a user meets it: messages, exit codes, no tracebacks."""

import json
import shutil
import subprocess
import sys
import time

import pytest

from edgeprune.cli import _VERBS
from edgeprune.models import open_checkpoint
from edgeprune.pipeline.estimate import check_disk, plan
from edgeprune.recipe.schema import make
from edgeprune.support.errors import MachineError
from exporters.base import StorageRequest
from tests.support.exporting import dense_model, export_gguf
from tests.support.gguf import metadata
from tests.support.processes import EDGEPRUNE, fails, run


def test_help_is_instant_and_imports_nothing_heavy():
    run("--help")  # compiles bytecode once
    times = []
    for _ in range(5):
        start = time.perf_counter()
        done = run("--help")
        times.append(time.perf_counter() - start)
    assert done.returncode == 0
    assert min(times) < 0.3
    code = (
        "import sys; from edgeprune.cli import cli; cli.main(['--help'], standalone_mode=False);"
        "sys.exit(bool({'torch', 'transformers', 'numpy', 'pydantic', 'gguf'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("verb", _VERBS)
def test_every_verb_has_help_with_examples(verb):
    done = run(verb, "--help")
    assert done.returncode == 0
    assert f"edgeprune {verb}" in done.stdout
    assert "Examples:" in done.stdout


def test_wrong_use_exits_with_two(tmp_path):
    fails(2, "did you mean build", "biuld")
    fails(2, "Did you mean '--sparsity'", "build", "--sparsty", "0.5")
    fails(2, "is not a valid float", "build", "--task", "medqa", "--sparsity", "half")
    fails(2, "task: is missing", "build")
    fails(2, "did you mean medqa", "build", "--task", "medqaa")
    fails(2, "did you mean fused", "build", "--task", "medqa", "--fusion", "fusd")
    fails(2, "expected one of: gguf", "build", "--task", "medqa", "--target", "tflite")
    fails(2, "did you mean smollm2-135m", "plan", "--task", "medqa", "--model", "smollm-135m")
    fails(2, "did you mean medqa-demo", "build", "--recipe", "medqa-dmo")
    fails(2, "did you mean medqa", "build", "--task", "medqaa", "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    fails(
        2, "did you mean measurement.eval_rows", "build", "--task", "medqa", "--set", "eval_row=3"
    )


def test_bad_input_exits_with_three(tmp_path):
    fails(3, "No such file", "build", "--task", tmp_path / "none.jsonl")
    fails(3, "No such GGUF file", "inspect", tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(9))
    fails(3, "not a valid GGUF file", "inspect", tmp_path / "bad.gguf")
    fails(3, "not a valid GGUF file", "chat", tmp_path / "bad.gguf")
    fails(3, "not a valid GGUF", "build", "--task", "medqa", "--model", tmp_path / "bad.gguf",
          "--out", tmp_path / "out")  # fmt: skip
    (tmp_path / "empty.jsonl").write_text("")
    fails(3, "no rows", "build", "--task", tmp_path / "empty.jsonl")


def test_the_machine_exits_with_four(tmp_path):
    fails(4, "no CUDA device", "build", "--task", "mmlu_med", "--device", "cuda:0", "--out",
          tmp_path / "out", "--sparsity", "0.5", CUDA_VISIBLE_DEVICES="")  # fmt: skip


def test_a_missing_extra_is_one_line_that_names_it(tmp_path):
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n in ('torch', 'llama_cpp') else find(n, *a)\n"
        "import sys; sys.argv = ['edgeprune', 'build', '--task', 'medqa', '--out', sys.argv[1]]\n"
        "from edgeprune.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert "Not installed: torch, llama_cpp." in done.stderr
    assert "pip install 'edgeprune[gguf,prune]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_a_build_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    fails(2, "Nothing was changed", "build", "--task", "medqa", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_plan_and_dry_run_write_nothing_and_say_everything(tmp_path):
    done = run("plan", "--task", "medqa", "--pattern", "2:4", cwd=tmp_path)
    assert done.returncode == 0
    for words in ("134,515,008 weights", "53,084,160 zeros", "2:4", "disk", "memory", "time"):
        assert words in done.stdout
    again = run(
        "build", "--dry-run", "--json", "--task", "medqa", "--sparsity", "0.5", cwd=tmp_path
    )
    plan = json.loads(again.stdout)
    assert plan["plan"]["zeros"] == 53_084_160
    assert plan["recipe"]["pruning"]["method"] == "alps_fast"
    assert sum(row["zeros"] for row in plan["plan"]["tensors"]) == 53_084_160
    assert list(tmp_path.iterdir()) == []


def test_a_build_asks_for_disk_and_times_nothing(tmp_path, monkeypatch):
    recipe = make({"data.task": "medqa"})
    needed = plan(recipe).disk_bytes
    monkeypatch.setattr(
        "edgeprune.pipeline.estimate._flops_per_second", lambda: pytest.fail("it was timed")
    )
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage._replace(free=needed))
    check_disk(recipe, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage._replace(free=needed - 1))
    with pytest.raises(MachineError, match="GiB of free space, but the build needs"):
        check_disk(recipe, tmp_path)


def test_the_plan_counts_what_training_holds():
    def memory(**training):
        asked = {"enabled": True, **training} if training else {}
        return plan(make({"data.task": "medqa", "training": asked})).memory_bytes

    plain, trained = memory(), memory(enabled=True)
    many = memory(batch=8)
    tight = memory(batch=8, save_memory=True)
    reconstructed = memory(ways=["reconstruct"])
    assert plain < trained < many
    assert tight < trained
    assert plain < reconstructed < tight  # one block's gradients and moments, not the model's
    assert memory(rank=8, save_memory=True) < tight
    # A step of 2 x 512 tokens: logits of both models and their gradients, activations.
    assert (many - trained) / 3 > 1024 * 3 * 2 * 49152


def test_the_plan_counts_what_every_round_of_reconstruction_keeps():
    def disk(**training):
        asked = {"enabled": True, "ways": ["reconstruct"], **training}
        return plan(make({"data.task": "medqa", "training": asked})).disk_bytes

    states = 2 * 64 * 512 * 576 * 2
    # One more, pruned and rebuilt; the model between the two is more than the hidden states.
    more = 2 * 4 * 106_168_320 + 4 * (134_515_008 - states)
    assert disk(start_sparsity=0.4) - disk() == more


def test_inspect_counts_the_zeros_in_the_bytes(tiny_folder, tmp_path):
    path = tmp_path / "m.gguf"
    export_gguf(dense_model(open_checkpoint(str(tiny_folder))), StorageRequest("q8_0"), path)
    done = run("inspect", path)
    assert done.returncode == 0
    assert "blk.0.attn_q.weight" in done.stdout
    assert "not pruned by edgeprune" in done.stdout
    found = json.loads(run("inspect", path, "--json").stdout)
    assert not found["sparse"]
    assert all(tensor["declared_nonzeros"] is None for tensor in found["tensors"])
    assert metadata().nonzeros == {}


def test_tasks_are_listed_and_shown(tmp_path):
    done = run("tasks", cwd=tmp_path)
    assert "medqa" in done.stdout
    assert "[local, GBaker/MedQA-USMLE-4-options, shipped]" in done.stdout
    names = [task["name"] for task in json.loads(run("tasks", "--json").stdout)]
    assert len(names) >= 12
    own = tmp_path / "mine.yaml"
    own.write_text(run("tasks", "medqa").stdout)
    done = run("plan", "--task", own, "--sparsity", "0.5")
    assert done.returncode == 0
    assert "medqa from shipped medqa.jsonl.xz" in done.stdout


def test_recipes_are_listed_copied_and_checked(tmp_path):
    assert "medqa-demo" in run("recipes", "ls").stdout
    assert run("recipes", "cp", "medqa-demo", "r.yaml", cwd=tmp_path).returncode == 0
    assert "valid" in run("recipes", "validate", "r.yaml", cwd=tmp_path).stdout
    fails(2, "it was not overwritten", "recipes", "cp", "dense", "r.yaml", cwd=tmp_path)
    (tmp_path / "r.yaml").write_text("task: medqa\nsamples: many\nmodle: x\n")
    done = fails(2, "samples", "recipes", "validate", "r.yaml", cwd=tmp_path)
    assert "Unknown name 'modle': did you mean pruning.fusion.mode or model" in done.stderr
    (tmp_path / "r.yaml").write_text("data: medqa\n")
    fails(2, "'data' is a section of settings such as data.task, given 'medqa'",
          "recipes", "validate", "r.yaml", cwd=tmp_path)  # fmt: skip


def test_chat_answers_in_its_own_template(dense_f32):
    done = subprocess.run(
        [str(EDGEPRUNE), "chat", str(dense_f32), "--max-tokens", "24"],
        input="What is the capital of France?\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "Paris" in done.stdout


def test_names_cost_no_torch():
    code = "import sys, edgeprune.planning.allocation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
