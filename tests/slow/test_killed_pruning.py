"""kill -9 while a model is pruned."""

import os
import random
import signal
import subprocess
import sys
import time

from safetensors.torch import load_file

from edgeprune.engine import Pruning
from edgeprune.models import open_checkpoint
from tests.support.models import make_tiny
from tests.support.paths import ROOT
from tests.support.plans import prune_uniformly
from tests.support.streams import streams_of

_KILLED = """
import sys
from tests.support.streams import streams_of
from edgeprune.engine import Pruning
from edgeprune.models import open_checkpoint
from tests.support.plans import prune_uniformly
from pathlib import Path
print("ready", flush=True)
prune_uniformly(open_checkpoint(sys.argv[1]), streams_of(16, 128), Pruning(), Path(sys.argv[2]))
"""


def test_kill_minus_nine_at_random_instants_gives_the_same_bits(real_checkpoint, tmp_path):
    folder = make_tiny(real_checkpoint, tmp_path / "model", num_hidden_layers=6)
    checkpoint = open_checkpoint(str(folder))
    start = time.perf_counter()
    whole = prune_uniformly(checkpoint, streams_of(16, 128), Pruning(), tmp_path / "whole")
    duration = time.perf_counter() - start
    moments = random.Random(0)
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(folder), str(tmp_path / "cut")],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        process.stdout.readline()
        time.sleep(moments.uniform(0, duration))
        kills += process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    cut = prune_uniformly(checkpoint, streams_of(16, 128), Pruning(), tmp_path / "cut")
    assert kills > 0
    assert not list((tmp_path / "cut").glob("hidden-*"))
    for one, other in zip(whole.files, cut.files, strict=True):
        assert load_file(one).keys() == load_file(other).keys()
        assert one.read_bytes() == other.read_bytes()
