"""The plug-in in a program that knows nothing of it: node-llama-cpp, as npm delivers it."""

import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgeprune.formats.gguf.file import open_gguf
from edgeprune.models import open_checkpoint
from edgeprune.runtime import library, plugin
from edgeprune.support.errors import MachineError
from edgeprune.support.files import cache_folder
from exporters.base import StorageRequest
from tests.support.exporting import dense_model, export_gguf
from tests.support.gguf import metadata
from tests.support.processes import EDGEPRUNE
from tests.support.programs import need

VERSION = "3.22.1"  # llama.cpp 0.5.0, ggml 0.25.1
SCRIPT = Path(__file__).parents[1] / "support" / "node" / "answers.mjs"
CLOSE = 0.02  # of probabilities: both round activations to 8 bits, llama.cpp scales to 16 as well

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux", reason="the plug-in is built for Linux alone"
)


@dataclass(frozen=True)
class Run:
    """What the program printed, and what was printed beside it."""

    models: list[dict]
    said: list[str]


@pytest.fixture(scope="session")
def node() -> Path:
    """A folder with node-llama-cpp's own binaries, fetched once."""
    need("node", "npm")
    folder = cache_folder() / "sources" / f"node-llama-cpp-{VERSION}"
    if not folder.exists():
        machine = {"x86_64": "x64", "aarch64": "arm64"}[platform.machine()]
        place = folder.with_name(f"{folder.name}.{os.getpid()}")
        place.mkdir(parents=True)
        command = ["npm", "install", "--prefix", place, "--omit=optional", "--ignore-scripts"]
        command += ["--no-audit", "--no-fund", f"node-llama-cpp@{VERSION}"]
        command += [f"@node-llama-cpp/linux-{machine}@{VERSION}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"npm has no packages, so this was not checked: {done.stderr[-200:]}")
        place.rename(folder)
    shutil.copy(SCRIPT, folder)  # node looks for modules beside it
    return folder


@pytest.fixture(scope="module")
def halved(pruned_tiny, tmp_path_factory) -> Path:
    """A tiny Llama with SmolLM2's tokenizer and half of its weights zero."""
    path = tmp_path_factory.mktemp("halved") / "halved.gguf"
    export_gguf(pruned_tiny, StorageRequest("q8_0"), path, metadata())
    return path


@pytest.fixture(scope="module")
def dense(tiny_folder, tmp_path_factory) -> Path:
    """The same model, with other values under the same names."""
    path = tmp_path_factory.mktemp("dense") / "dense.gguf"
    found = dense_model(open_checkpoint(str(tiny_folder)))
    export_gguf(found, StorageRequest("q8_0"), path)
    return path


def run(node: Path, *models: Path, mmap: bool = True, **environment: str) -> Run:
    asked = json.dumps({"models": list(map(str, models)), "mmap": mmap, "count": 8})
    done = subprocess.run(
        ["node", node / SCRIPT.name, asked], env=os.environ | environment, check=False,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("edgeprune")]
    return Run(json.loads(done.stdout.splitlines()[-1]), said)


def with_plugin(**more: str) -> dict[str, str]:
    return plugin.environment() | {"EDGEPRUNE_LAYOUT": "sparse"} | more


def close(one: dict, other: dict) -> bool:
    return bool(np.abs(np.array(one["first"]) - np.array(other["first"])).sum() < CLOSE)


@pytest.mark.parametrize("mmap", [True, False])
def test_an_unmodified_program_runs_sparse_weights(node, halved, mmap):
    (stock,), (ours,) = (
        run(node, halved).models,
        (found := run(node, halved, mmap=mmap, **with_plugin())).models,
    )
    (line,) = found.said
    packed = 14 + library.dense_gains("Q8_0")  # the embedding is the head, too
    assert line.startswith(f"edgeprune: halved.gguf: {packed} tensors run packed, ")
    assert line.endswith(f"{library.in_use()} kernels")
    assert close(stock, ours)
    assert stock["first"] != ours["first"]  # our kernels' rounding, so they really ran


def test_models_of_equal_names_beside_each_other(node, halved, dense):
    alone = [run(node, path).models[0] for path in (halved, dense)]
    assert not close(*alone)
    for order in ((halved, dense), (dense, halved)):
        found = dict(zip(order, run(node, *order, **with_plugin()).models, strict=True))
        assert close(found[halved], alone[0])
        assert found[dense] == alone[1]  # not touched: stock's own arithmetic


def test_counts_that_lie_give_right_answers(node, halved, tmp_path):
    data = bytearray(halved.read_bytes())
    at, size = open_gguf(halved).place("edgeprune.sparsity.nonzeros")
    data[at : at + size] = bytes(size)
    lie = tmp_path / "lie.gguf"
    lie.write_bytes(data)
    assert run(node, lie, **with_plugin()).models == run(node, halved, **with_plugin()).models


def test_a_model_of_someone_else_is_left_alone(node, dense):
    found = run(node, dense, **with_plugin())
    assert found == run(node, dense)
    assert not found.said


def test_it_can_be_turned_off(node, halved):
    found = run(node, halved, **with_plugin(EDGEPRUNE_SPARSE="0"))
    assert found.models == run(node, halved).models


def test_the_shell_gets_the_variable():
    command = 'eval "$("$0" runtime env)"; echo "$GGML_BACKEND_PATH"; "$0" runtime path'
    done = subprocess.run(
        ["sh", "-c", command, EDGEPRUNE], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [str(plugin.PLUGIN)] * 2


def test_a_library_that_was_not_compiled_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(plugin, "PLUGIN", tmp_path / "absent.so")
    with pytest.raises(MachineError, match="failed to compile"):
        plugin.environment()
