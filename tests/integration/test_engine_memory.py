"""Memory that does not grow with the calibration set."""

import subprocess
import sys

import pytest

from tests.support.models import make_tiny
from tests.support.paths import ROOT

_LIMITED = """
import resource, sys
import torch
from edgeprune.engine import Pruning
from edgeprune.models import open_checkpoint
from pathlib import Path
from tests.support.plans import prune_uniformly
from tests.support.streams import streams_of

torch.set_num_threads(1)
model, folder, samples, spare = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
checkpoint = open_checkpoint(model)
prune_uniformly(checkpoint, streams_of(8, 512), Pruning("alps"), folder / "warm")  # libraries load
used = next(int(l.split()[1]) << 10 for l in open("/proc/self/status") if l.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + spare,) * 2)
try:
    torch.ones(2 * spare // 4)
    sys.exit("the limit does not hold")
except RuntimeError:
    pass
streams = streams_of(samples, 512)
prune_uniformly(checkpoint, streams, Pruning("alps"), folder / "limited")
hidden = sum(s.tokens.numel() for s in streams.values()) * 256 * 2
print(hidden)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_hidden_states_larger_than_the_memory_limit(real_checkpoint, tmp_path):
    """Private memory, the model included, is capped below what the hidden states take."""
    folder = make_tiny(real_checkpoint, tmp_path / "model", hidden_size=256, intermediate_size=256)
    spare = 160 << 20
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(folder), str(tmp_path), "400", str(spare)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > spare
