"""Whole builds: on a tiny random model, and on the real one."""

import json
import resource
import shutil
import subprocess
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, quants

from edgeprune import Recipe, build
from edgeprune.data import loading
from edgeprune.formats.gguf.file import open_gguf
from edgeprune.manifest.manifest import read
from edgeprune.pipeline import export as export_module
from edgeprune.report.caveats import caveats
from edgeprune.runtime import status
from edgeprune.runtime.llamacpp import adapter
from edgeprune.support.errors import CheckFailed, InputError, MachineError, UsageError
from tests.support.processes import EDGEPRUNE, run
from tests.support.recipes import settings


@pytest.fixture(scope="module")
def tiny_build(tiny_recipe, tmp_path_factory):
    return build(tiny_recipe, tmp_path_factory.mktemp("b") / "out")


def names(recipe: Recipe) -> list[str]:
    return ["--model", recipe.model.name, "--task", recipe.data.task]


def zeros_by_an_independent_reader(path: Path) -> dict[str, int]:
    return {
        tensor.name: int(np.count_nonzero(quants.dequantize(tensor.data, tensor.tensor_type)))
        for tensor in GGUFReader(path).tensors
    }


def test_a_build_hashes_its_rows_once_and_its_artifacts_once(tiny_recipe, tmp_path, monkeypatch):
    rendered, hashed = Counter(), Counter()
    hash_rows, hash_file = loading.Source.calibration_hash.func, export_module.sha256_file

    def rows(source):
        rendered[source.task.name] += 1
        return hash_rows(source)

    def file(path):
        hashed[path.name] += 1
        return hash_file(path)

    counted = cached_property(rows)
    counted.__set_name__(loading.Source, "calibration_hash")
    monkeypatch.setattr(loading.Source, "calibration_hash", counted)
    monkeypatch.setattr(export_module, "sha256_file", file)
    made = build(tiny_recipe, tmp_path / "out")
    assert list(rendered.values()) == [1, 1]  # of the task and of the general corpus
    assert hashed == {"model.gguf": 1, f"dense-{tiny_recipe.artifact.type}.gguf": 1}
    artifact = made.manifest.artifact
    assert artifact.sha256 == artifact.files["model.gguf"] == hash_file(made.artifact)


def test_the_manifest_equals_what_an_independent_reader_counts(tiny_build):
    counted = zeros_by_an_independent_reader(tiny_build.artifact)
    tensors = tiny_build.manifest.artifact.tensors
    assert {t.name: t.nonzeros for t in tensors} == counted
    assert sum(t.pruned for t in tensors) == 14
    assert read(tiny_build.folder) == tiny_build.manifest


def test_a_build_measures_with_sparse_weights_and_says_so(tiny_recipe, tmp_path, monkeypatch):
    """Switched on or off, the same build is measured anew."""
    if not status().on:
        pytest.skip(f"sparse weights are off here, so this was not checked: {status().reason}")
    monkeypatch.setenv("EDGEPRUNE_LAYOUT", "sparse")
    built = build(tiny_recipe, tmp_path / "b")
    first, claimed = built.manifest, adapter.claim(open_gguf(built.artifact))
    adapter.release()
    assert first.results.artifacts["pruned"].sparse.tensors == len(claimed) >= 14
    assert first.results.artifacts["dense"].sparse is None
    said = next(line for line in caveats(first) if line.startswith("Decode runs at"))
    assert f"edgeprune's '{status().kernel}' kernels" in said
    monkeypatch.setenv("EDGEPRUNE_SPARSE", "0")
    second = build(tiny_recipe, tmp_path / "b").manifest
    assert second.results.artifacts["pruned"].sparse is None
    said = next(line for line in caveats(second) if line.startswith("Decode runs at"))
    assert "kernels were off: EDGEPRUNE_SPARSE=0 is set" in said


def test_the_manifest_says_what_went_in(tiny_build, tiny_recipe):
    manifest = tiny_build.manifest
    assert manifest.recipe == tiny_recipe
    assert manifest.model.sha256
    for stream in (manifest.data.task, manifest.data.general):
        used, measured = stream.calibration_rows, stream.evaluation_rows
        assert used
        assert measured
        assert not set(used) & set(measured)
    assert manifest.machine.versions["torch"]
    ratio = manifest.results.difference.decode_speed
    assert ratio.value > 0
    assert ratio.low is ratio.high is None  # of one process


def test_the_report_is_one_offline_page_with_every_plot(tiny_build):
    page = (tiny_build.folder / "report.html").read_text()
    quality = "Accuracy, likelihood and perplexity"
    for title in (quality, "Latency", "Size", "Sparsity by layer", "Channels"):
        assert f"<h2>{title}" in page
    assert page.count("<svg") == 5
    for remote in ("<script", "src=", "@import", "<link"):
        assert remote not in page
    assert "nothing was enforced" in page


def test_an_unchanged_build_redoes_nothing(tiny_build, tiny_recipe):
    before = {p: p.stat().st_mtime_ns for p in tiny_build.folder.rglob("*") if p.name != "lock"}
    again = build(tiny_recipe, tiny_build.folder)
    after = {p: p.stat().st_mtime_ns for p in tiny_build.folder.rglob("*") if p.name != "lock"}
    files = [path for path in before if path.is_file()]
    assert {p: after[p] for p in files} == {p: before[p] for p in files}
    assert again.manifest == tiny_build.manifest


def test_only_what_changed_is_redone(tiny_build, tiny_recipe, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(tiny_build.folder, out)
    blocks = sorted(out.glob("work/prune-*/block-*"))
    times = [path.stat().st_mtime_ns for path in blocks]
    changed = build(tiny_recipe.changed({"artifact.type": "f16"}), out, replace=True)
    assert [path.stat().st_mtime_ns for path in blocks] == times
    assert {t.type for t in changed.manifest.artifact.tensors} == {"F16", "F32"}
    other = build(tiny_recipe.changed({"data.seed": 1}), out, replace=True)
    assert sorted(out.glob("work/prune-*/block-*")) != blocks
    assert other.manifest.artifact.sha256 != changed.manifest.artifact.sha256


def test_a_packed_four_bit_build_is_rounded_with_the_data(tiny_recipe, tmp_path):
    recipe = tiny_recipe.changed({"artifact.type": "z4_m", "artifact.pack": True})
    found = build(recipe, tmp_path / "out")
    packed = found.manifest.packed
    assert packed.packed_bytes == (tmp_path / "out" / packed.file).stat().st_size
    assert "leaves the zeros out" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "model.imatrix.gguf").is_file()
    assert all(t.lost_zeros == 0 for t in found.manifest.artifact.tensors)
    plain = build(recipe.changed({"artifact.rounding": "nearest", "artifact.pack": False}),
                  tmp_path / "out", replace=True)  # fmt: skip
    assert plain.manifest.artifact.sha256 != found.manifest.artifact.sha256
    assert plain.manifest.packed is None
    assert not (tmp_path / "out" / "model.packed.gguf").exists()


def test_allowed_losses_are_reported(tiny_recipe, tmp_path):
    recipe = tiny_recipe.changed({"artifact.type": "q4_1", "artifact.allow_lossy_zeros": True})
    found = build(recipe, tmp_path / "out")
    lost = sum(t.lost_zeros for t in found.manifest.artifact.tensors)
    assert lost > 0
    assert f"{lost:,} of" in (tmp_path / "out" / "report.html").read_text()


def test_a_dense_model_can_be_rounded_with_the_data(tiny_recipe, tmp_path):
    recipe = tiny_recipe.changed(
        {"artifact.type": "q4_0", "pruning.sparsity": 0.0, "artifact.rounding": "gptq"}
    )
    found = build(recipe, tmp_path / "out")
    assert not any(t.pruned for t in found.manifest.artifact.tensors)
    dense = (tmp_path / "out" / "work" / "dense-q4_0.gguf").read_bytes()
    assert found.artifact.read_bytes() != dense


def test_a_lost_or_damaged_block_is_pruned_again(tiny_build, tiny_recipe, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(tiny_build.folder, out)
    (block,) = out.glob("work/prune-*/block-0001*")
    for spoil in (block.unlink, lambda: block.write_bytes(b"cut short")):
        spoil()
        again = build(tiny_recipe, out)
        assert again.manifest.artifact.sha256 == tiny_build.manifest.artifact.sha256


def test_a_damaged_artifact_is_made_again(tiny_build, tiny_recipe, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(tiny_build.folder, out)
    (out / "model.gguf").write_bytes(b"gone")
    again = build(tiny_recipe, out)
    assert again.manifest.artifact.sha256 == tiny_build.manifest.artifact.sha256


def test_a_gate_that_does_not_hold_fails_after_the_report_is_written(tiny_build, tiny_recipe,
                                                                     tmp_path):  # fmt: skip
    out = tmp_path / "out"
    shutil.copytree(tiny_build.folder, out)
    strict = tiny_recipe.changed({"gates.min_decode_speed": 5000.0, "measurement.processes": 2})
    with pytest.raises(CheckFailed, match="the required speed is 5000x"):
        build(strict, out)
    assert "failed" in (out / "report.html").read_text()
    done = run("build", *names(tiny_recipe), "--out", out,
               "--set", "gates.min_decode_speed=5000", *settings(),
               "--set", "measurement.processes=2")  # fmt: skip
    assert done.returncode == 1
    assert "the required speed is 5000x" in done.stderr
    assert "failed" in done.stdout


def test_json_and_quiet_output_of_the_command(tiny_build, tiny_recipe):
    done = run("build", *names(tiny_recipe), "--json", "--out",
               tiny_build.folder, *settings())  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == tiny_build.manifest.to_json()
    assert "━" not in done.stderr  # no bars where nobody looks
    done = run("build", *names(tiny_recipe), "--out",
               tiny_build.folder, *settings())  # fmt: skip
    last = done.stdout.strip().splitlines()[-1]
    assert last == f"next    edgeprune chat {tiny_build.folder / 'model.gguf'}"


def test_dense_is_never_the_pruned_file_of_an_earlier_build(tiny_recipe, tmp_path):
    out = tmp_path / "out"
    for sparsity in (0.5, 0.0, 0.5):
        made = build(tiny_recipe.changed({"pruning.sparsity": sparsity}), out, replace=True)
    assert made.manifest.dense_artifact.file == "work/dense-q8_0.gguf"
    dense = zeros_by_an_independent_reader(out / "work" / "dense-q8_0.gguf")
    sparse = zeros_by_an_independent_reader(out / "model.gguf")
    assert sum(dense.values()) > 1.01 * sum(sparse.values())


def test_what_a_killed_run_left_is_swept(tiny_build, tiny_recipe):
    left = [tiny_build.folder / ".model.gguf.abc", tiny_build.folder / "work" / "x" / ".y.z"]
    left[1].parent.mkdir()
    for path in left:
        path.write_text("half")
    build(tiny_recipe, tiny_build.folder)
    assert not any(path.exists() for path in left)
    left[1].parent.rmdir()


def test_models_that_cannot_be_exported_are_refused_before_pruning(tiny_recipe, tiny_folder,
                                                                   tmp_path):  # fmt: skip
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text()) | {
        "layer_types": ["sliding_attention"] * 2
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no sliding_window"):
        build(tiny_recipe.changed({"model.name": str(folder)}), tmp_path / "out")
    assert not list((tmp_path / "out" / "work").glob("prune-*"))


def test_a_dense_export_is_a_build_without_pruning(tiny_recipe, tmp_path):
    made = build(tiny_recipe.changed({"pruning.sparsity": 0.0}), tmp_path / "out")
    assert made.manifest.pruned_tensors == []
    assert set(made.manifest.results.artifacts) == {"dense"}
    assert made.artifact.is_file()


@pytest.mark.parametrize("kind", ["text", "short_answer", "yes_no"])
def test_every_kind_of_task_builds(tiny_recipe, tmp_path, kind):
    words = "the quick brown fox jumps over the lazy dog near the river bank at noon today "
    rows = {
        "text": [{"text": f"{i} {words}"} for i in range(60)],
        "short_answer": [{"question": f"{i}? {words}", "answers": [str(i)]} for i in range(60)],
        "yes_no": [{"question": f"{i}? {words}", "answer": i % 2 == 0} for i in range(60)],
    }[kind]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "t.yaml").write_text(
        f"name: t\nkind: {kind}\nsources:\n"
        "  - {kind: local, calibration: rows.jsonl, evaluation: rows.jsonl}\n"
    )
    made = build(tiny_recipe.changed({"data.task": str(tmp_path / "t.yaml")}), tmp_path / "out")
    artifact = made.manifest.results.artifacts["pruned"]
    assert artifact.nats_per_answer_token.value > 0
    assert (artifact.accuracy is None) == (kind == "text")
    assert (made.folder / "report.html").is_file()


def test_two_builds_in_one_folder_are_refused(tiny_build, tiny_recipe):
    from filelock import FileLock

    with (
        FileLock(tiny_build.folder / "work" / "lock"),
        pytest.raises(UsageError, match="Another build"),
    ):
        build(tiny_recipe, tiny_build.folder)


def test_calibrating_on_evaluation_rows_is_refused(tiny_recipe, rows_file, tmp_path):
    (tmp_path / "t.yaml").write_text(
        "name: t\nkind: multiple_choice\nsources:\n"
        f"  - {{kind: local, calibration: {rows_file}, evaluation: {tmp_path / 'same.jsonl'}}}\n"
    )
    shutil.copy(rows_file, tmp_path / "same.jsonl")
    with pytest.raises(InputError, match="appear in the evaluation rows"):
        build(tiny_recipe.changed({"data.task": str(tmp_path / "t.yaml")}), tmp_path / "out")


def test_a_full_disk_is_seen_before_work_begins(tiny_recipe, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(MachineError, match="GiB of free space, but the build needs"):
        build(tiny_recipe, tmp_path / "out")


@pytest.mark.parametrize("limit", [20_000, 200_000, 1_000_000])
def test_a_disk_that_fills_up_fails_clearly_and_loses_nothing(tiny_recipe, tmp_path, limit):
    """A limit on file sizes stands in for a full disk: the same errors, at each writer in turn."""
    command = [EDGEPRUNE, "build", *names(tiny_recipe), "--out", tmp_path / "out", *settings()]
    full = subprocess.run(
        command, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert full.returncode == 4, full.stderr
    assert "The disk is full" in full.stderr
    assert "Traceback" not in full.stderr
    assert not (tmp_path / "out" / "model.gguf").exists()
    leftovers = [p for p in (tmp_path / "out").rglob(".*") if p.is_file()]
    assert leftovers == []
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
