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
from edgeprune.plan.allocation import Allocation
from edgeprune.recipe.schema import make
from edgeprune.support.files import read_json
from tests.support.paths import ROOT
from tests.support.plans import prune_uniformly
from tests.support.recipes import QUICK
from tests.support.streams import streams_of

_WORKER = """
import sys
import torch
from pathlib import Path
from edgeprune.engine import Pruning, prune
from edgeprune.models import open_checkpoint
from edgeprune.support.progress import Quiet
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
        "model": str(tiny_folder), "task": str(rows_file), "device": "cpu", "recover": True,
        "recover_steps": 3, "recover_by": ["reconstruct", "finetune"], "sparsity": 0.6,
        "recover_from": 0.5,
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
    assert manifest["recovery"]["finetune"]["steps"] == 3
    zeros = [t["nonzeros"] for t in manifest["artifact"]["tensors"] if t["pruned"]]
    alone = build(make(values), tmp_path / "alone").manifest
    assert zeros == [t["nonzeros"] for t in alone["artifact"]["tensors"] if t["pruned"]]
    rounds = [m["recovery"]["rounds"]["0.5"] for m in (manifest, alone)]  # nothing is trained yet
    reconstructed = [one["reconstruct"]["before"] for one in rounds]
    assert reconstructed[0] == pytest.approx(reconstructed[1], rel=1e-3)  # on all the sequences
    curves = [m["recovery"]["finetune"]["curve"][-1]["held_out"] for m in (manifest, alone)]
    assert curves[0] == pytest.approx(curves[1], rel=0.05)


_TWO = """
import sys
from pathlib import Path
import torch.distributed as dist
from tests.support.streams import streams_of
from edgeprune.plan.allocation import Allocation
from edgeprune.engine import Pruning, prune
from edgeprune.models import open_checkpoint
from edgeprune.support.progress import Quiet
model, kind, folder, rank = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{folder}-meet", rank=int(rank), world_size=2)
pruning = Pruning(allocation=Allocation(kind))
prune_uniformly(open_checkpoint(model), streams_of(), pruning, Path(folder))
"""


@pytest.mark.parametrize("kind", ["rank", "evolve"])
def test_two_processes_agree(tiny_folder, tmp_path, kind):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _TWO, str(tiny_folder), kind, str(tmp_path / "run"), str(rank)],
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    zeros = read_json(tmp_path / "run" / "allocation.json")
    pruning = Pruning(allocation=Allocation(kind))
    checkpoint = open_checkpoint(str(tiny_folder))
    alone = prune_uniformly(checkpoint, streams_of(), pruning, tmp_path / "alone")
    if kind == "rank":  # evolve's rounds see other sequences when these are dealt out
        assert zeros == read_json(tmp_path / "alone" / "allocation.json")
    assert sum(zeros.values()) == sum(r.shape[0] * r.shape[1] - r.nonzeros for r in alone.records)
