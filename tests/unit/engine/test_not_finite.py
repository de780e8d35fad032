"""NaN and infinity are no results: the engine says where they came from."""

import pytest
from safetensors.torch import load_file, save_file

from edgeprune.engine import pruner
from edgeprune.models import open_checkpoint
from edgeprune.pruning.matrix import Pruning
from edgeprune.support.errors import CheckFailed, InputError
from tests.support.models import make_small
from tests.support.plans import prune_uniformly
from tests.support.streams import streams

NAN = float("nan")


def small_with(folder, **values):
    """A tiny model with one value in place of all of some tensors."""
    make_small(folder)
    tensors = load_file(folder / "model.safetensors")
    for name, value in values.items():
        tensors[name.replace("__", ".")].fill_(value)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_inputs_of_a_layer_that_are_not_finite_are_named(tmp_path):
    """A norm is not pruned, so that no check of pruned weights sees it."""
    name = "model.layers.1.input_layernorm.weight"
    folder = small_with(tmp_path / "tiny", **{name.replace(".", "__"): NAN})
    with pytest.raises(InputError, match=r"inputs of model\.layers\.1\.self_attn\.\w+\.weight"):
        prune_uniformly(open_checkpoint(str(folder)), streams(2), Pruning(), tmp_path / "w")


def test_pruning_that_gives_no_numbers_names_the_tensor(small_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pruner, "prune_matrix", lambda weight, *_: weight / 0)
    with pytest.raises(CheckFailed, match=r"Pruning model\.layers\.0\.\S+ with wanda gave NaN"):
        prune_uniformly(open_checkpoint(str(small_folder)), streams(2), Pruning(), tmp_path)
