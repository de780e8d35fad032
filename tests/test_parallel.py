"""Data-parallel statistics: two processes with half the sequences each prune as one with all."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from edgeprune.engine import Pruning, prune
from edgeprune.models import open_checkpoint
from edgeprune.progress import Quiet
from tests.test_engine import streams_of

_WORKER = """
import sys
import torch
from pathlib import Path
from edgeprune.engine import Pruning, prune
from edgeprune.models import open_checkpoint
from edgeprune.progress import Quiet
from tests.test_engine import streams_of

model, folder, method, rank = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}-rendezvous", rank=rank, world_size=2
)
prune(open_checkpoint(model), streams_of(32, 256), Pruning(method), folder, Quiet())
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("method", ["wanda", "alps", "wanda_pp", "fisher"])
def test_two_gloo_processes_give_the_masks_of_one(tiny_folder, tmp_path, method):
    alone = prune(
        open_checkpoint(str(tiny_folder)), streams_of(32, 256), Pruning(method),
        tmp_path / "one", Quiet(),
    )  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(tiny_folder), str(tmp_path / "two"), method, rank],
            cwd=Path(__file__).parents[1],
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
