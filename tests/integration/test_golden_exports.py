"""Bytes of one fixed model in every target's types: other bytes must raise the export's _VERSION.

Weights are whole numbers over 1024, so that no processor's way of making random numbers matters;
half of them are zero. Types that ggml finds scales for by trying are left out: their sums differ
between processors.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeprune.formats.gguf.file import open_gguf
from edgeprune.models import open_checkpoint
from edgeprune.pipeline.export import _VERSION
from exporters.base import Model, StorageRequest
from tests.support import golden
from tests.support.exporting import dense_model, export_as

TYPES = {
    "gguf": ("f32", "f16", "bf16", "q8_0", "q5_0", "q4_0", "z4_m"),
    "onnx": ("fp32", "fp16", "int8", "int4"),
    "transformers": ("f32", "bf16"),
}


@pytest.fixture(scope="module")
def fixed(tiny_folder, tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp("fixed") / "model"
    shutil.copytree(tiny_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    for number, name in enumerate(sorted(tensors)):
        chance = np.random.default_rng(number)
        values = chance.integers(-500, 501, tensors[name].shape) * chance.integers(
            0, 2, tensors[name].shape
        )
        tensors[name] = torch.from_numpy(values).to(tensors[name].dtype) / 1024
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return dense_model(open_checkpoint(str(folder)))


def hashed(path: Path) -> str:
    """Of all tensors' bytes, whatever else is in the file."""
    found = hashlib.sha256()
    if path.is_dir():
        for name, tensor in sorted(load_file(path / "model.safetensors").items()):
            found.update(name.encode() + tensor.view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]
    if path.suffix == ".onnx":
        found.update(path.with_name("model.onnx.data").read_bytes())
        return found.hexdigest()[:16]
    for tensor in sorted(open_gguf(path).tensors, key=lambda tensor: tensor.name):
        found.update(tensor.name.encode() + np.ascontiguousarray(tensor.data).tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("target", TYPES)
def test_targets_write_the_bytes_they_wrote(fixed, tmp_path, target):
    found = {}
    for kind in TYPES[target]:
        path = tmp_path / kind / {"gguf": "m.gguf", "onnx": "model.onnx"}.get(target, "model")
        artifact = export_as(target, fixed, StorageRequest(kind, lossy_zeros=True), path)
        found[kind] = hashed(artifact.path)
    kept = Path(__file__).with_name(f"golden_{target}.json")
    golden.check(kept, "_VERSION in edgeprune/pipeline/export.py", _VERSION, found)
    assert len(set(json.loads(kept.read_text())["values"].values())) == len(TYPES[target])
