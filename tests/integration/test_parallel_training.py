"""Two processes that train as one."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from edgeprune.planning.grid import Grid
from edgeprune.recovery import train as training
from tests.support.paths import ROOT
from tests.support.training import APART, note_steps, train

_WORKER = """
import json
import shutil
import sys
from pathlib import Path
import pytest
import torch
from edgeprune.engine import PrunedCheckpoint
from edgeprune.models import open_checkpoint
from edgeprune.planning.grid import Grid
from edgeprune.recovery import train as training
from edgeprune.recovery.masters import Masters
from tests.support.training import killed_before, note_steps
from tests.support.training import note_steps, train

given, rank = json.loads(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
training.compute_dtype = lambda _device: torch.float32
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{given['folder']}-rendezvous", rank=rank, world_size=2
)
owned, made = [], Masters.__init__

def counted(self, working):
    made(self, working)
    sizes = [sum(p.numel() for p in some.values()) for some in (self.parameters, working)]
    owned.append(sizes[0] / sizes[1])

Masters.__init__ = counted
files, calibration = ([Path(file) for file in given[key]] for key in ("files", "calibration"))
pruned = PrunedCheckpoint(open_checkpoint(given["model"]), files, [], calibration)
grids = {name: Grid(-8, 7) for name in given["grids"]}
with pytest.MonkeyPatch.context() as patch, killed_before(given["killed_at"], patch):
    train(pruned, Path(given["folder"]), grids, **given["how"])
if rank == 0:
    shutil.copytree(given["folder"], given["folder"] + "-killed")
torch.distributed.barrier()
train(pruned, Path(given["folder"]), grids, **given["how"])
assert len(owned) == 2 and all(0.4 < share < 0.6 for share in owned), owned
torch.distributed.destroy_process_group()
"""


# When they are killed, how they train, on a grid or not, and how many weights end alike: sums in
# another order can move a code, or which weights matter most.
GROUPS = {
    "distilled": (10, {}, False, 0.999),
    "selective": (10, {"answers": True, "selective": True}, False, 0.999),
    "rounded": (20, {}, True, 0.99),
}


@pytest.mark.parametrize("variant", GROUPS)
def test_two_gloo_processes_that_were_killed_train_as_one(pruned, tmp_path, monkeypatch, variant):
    """One process, too, goes on with what they left when they were killed."""
    monkeypatch.setattr(training, "compute_dtype", lambda _device: torch.float32)
    killed_at, how, rounded, alike = GROUPS[variant]
    grids = {record.name: Grid(-8, 7) for record in pruned.records if rounded}
    given = {
        "model": str(pruned.base.folder), "files": [str(file) for file in pruned.files],
        "calibration": [str(file) for file in pruned.calibration], "grids": list(grids),
        "folder": str(tmp_path / "two"), "how": how, "killed_at": killed_at,
    }  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, json.dumps(given), rank],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors[-2000:]
    alone = load_file(train(pruned, tmp_path / "one", grids, **how).checkpoint.files[-1])
    begun = note_steps(monkeypatch)
    train(pruned, tmp_path / "two-killed", grids, **how)
    assert begun[0] == killed_at // APART * APART
    for folder in ("two", "two-killed"):
        found = load_file(tmp_path / folder / "recovered.safetensors")
        assert found.keys() == alone.keys()
        for name, tensor in found.items():
            assert torch.isclose(tensor, alone[name], atol=1e-4).float().mean() >= alike, name
