"""The tiny Llama, 2:4, in every precision."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeprune.formats.weights import Weights
from exporters.base import Model
from tests.support.onnx import METADATA, PRECISIONS, save


@pytest.fixture(scope="module")
def pruned(tiny_folder, tmp_path_factory) -> Model:
    """The tiny Llama, 2:4 in every matrix of its blocks."""
    folder = tmp_path_factory.mktemp("pruned")
    weights = load_file(tiny_folder / "model.safetensors")
    names = [name for name in weights if "proj" in name]
    for name in names:
        groups = weights[name].reshape(-1, 4)
        kept = torch.zeros_like(groups).scatter(1, groups.abs().topk(2, dim=1).indices, 1)
        weights[name] = (groups * kept).reshape(weights[name].shape)  # leaves zeros of both signs
    save_file(weights, folder / "pruned.safetensors")
    return Model(tiny_folder, Weights([folder / "pruned.safetensors"]), frozenset(names))


@pytest.fixture(scope="module")
def exported(pruned, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {
        kind: save(pruned, folder / kind / "model.onnx", METADATA, type=kind) for kind in PRECISIONS
    }
