"""Data-parallel statistics: two processes with half the sequences each prune as one with all."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from edgeprune import build
from edgeprune.engine import Pruning
from edgeprune.models import open_checkpoint
from edgeprune.pipeline import planner
from edgeprune.recipe.schema import make
from tests.support.paths import ROOT
from tests.support.plans import job_of, prune_uniformly
from tests.support.recipes import QUICK
from tests.support.streams import streams_of

_WORKER = """
import sys
import torch
from pathlib import Path
from edgeprune.engine import Pruning
from edgeprune.models import open_checkpoint
from tests.support.plans import prune_uniformly
from tests.support.streams import streams_of

model, folder, method, rank = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}-rendezvous", rank=rank, world_size=2
)
prune_uniformly(open_checkpoint(model), streams_of(32, 256), Pruning(method), folder)
torch.distributed.destroy_process_group()
"""


@pytest.fixture
def one_thread():
    """As the workers have: more add up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("method", ["wanda", "alps", "wanda_pp", "fisher"])
@pytest.mark.usefixtures("one_thread")
def test_two_gloo_processes_give_the_masks_of_one(tiny_folder, tmp_path, method):
    alone = prune_uniformly(
        open_checkpoint(str(tiny_folder)), streams_of(32, 256), Pruning(method), tmp_path / "one"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(tiny_folder), str(tmp_path / "two"), method, rank],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors[-2000:]
    assert not list((tmp_path / "two").glob("hidden-*"))
    for file in alone.files:
        ours = load_file(tmp_path / "two" / file.name)
        for name, tensor in load_file(file).items():
            same = (ours[name] != 0) == (tensor != 0)
            assert same.all(), (name, same.float().mean())


@pytest.mark.usefixtures("one_thread")
def test_a_launched_build_shares_pruning_and_training(tiny_folder, rows_file, tmp_path):
    """Two processes on the CPU, as `torchrun` starts them on two GPUs; the first one's build."""
    out = tmp_path / "out"
    recipe = tmp_path / "recipe.yaml"
    values = QUICK | {
        "model.name": str(tiny_folder), "data.task": str(rows_file), "model.device": "cpu",
        "pruning.sparsity": 0.6, "training.enabled": True, "training.steps": 3,
        "training.ways": ["reconstruct", "finetune"], "training.start_sparsity": 0.5,
    }  # fmt: skip
    recipe.write_text(json.dumps(values))
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
         "-m", "edgeprune", "build", "--recipe", str(recipe), "--out", str(out)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert launched.stdout.count("sparsity 0.6") == 1  # the first process alone speaks
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["training"]["finetune"]["steps"] == 3
    zeros = [t["nonzeros"] for t in manifest["artifact"]["tensors"] if t["pruned"]]
    alone = build(make(values), tmp_path / "alone").manifest.to_json()
    assert zeros == [t["nonzeros"] for t in alone["artifact"]["tensors"] if t["pruned"]]
    rounds = [m["training"]["rounds"]["0.5"] for m in (manifest, alone)]  # nothing is trained yet
    reconstructed = [one["reconstruct"]["before"] for one in rounds]
    assert reconstructed[0] == pytest.approx(reconstructed[1], rel=1e-3)  # on all the sequences
    curves = [m["training"]["finetune"]["curve"][-1]["held_out"] for m in (manifest, alone)]
    assert curves[0] == pytest.approx(curves[1], rel=0.05)


_TWO = """
import json, sys
from pathlib import Path
import torch.distributed as dist
from edgeprune.models import open_checkpoint
from edgeprune.pipeline import planner
from tests.support.plans import job_of
from tests.support.streams import streams_of
model, kind, folder, rank = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{folder}-meet", rank=int(rank), world_size=2)
job = job_of(open_checkpoint(model), streams_of(), Path(folder, rank), allocation={"kind": kind})
zeros = {name: row.zeros for name, row in planner.plan(job).tensors.items()}
Path(f"{folder}-{rank}.json").write_text(json.dumps(zeros))
"""


@pytest.mark.parametrize("kind", ["rank", "evolve"])
def test_two_processes_plan_alike(tiny_folder, tmp_path, kind):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _TWO, str(tiny_folder), kind, str(tmp_path / "run"), str(rank)],
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    zeros, other = (json.loads((tmp_path / f"run-{rank}.json").read_text()) for rank in range(2))
    assert zeros == other
    checkpoint = open_checkpoint(str(tiny_folder))
    job = job_of(checkpoint, streams_of(), tmp_path / "alone", allocation={"kind": kind})
    alone = planner.plan(job)
    assert sum(zeros.values()) == alone.zeros
    if kind == "rank":  # evolve's rounds see other sequences when these are dealt out
        assert zeros == {name: row.zeros for name, row in alone.tensors.items()}
