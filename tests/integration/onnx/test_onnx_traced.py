"""Architectures that have no builder of their own: traced graphs against transformers."""

import importlib.util

import pytest

from edgeprune.models import open_checkpoint
from edgeprune.support.errors import InputError, MachineError
from exporters.base import StorageRequest
from tests.support.exporting import dense_model, plan_as
from tests.support.traced import random_model


def test_what_cannot_be_traced_is_refused_before_pruning(real_checkpoint, tmp_path, monkeypatch):
    random_model("gpt2", real_checkpoint, tmp_path / "hf", num_key_value_heads=4)
    source = dense_model(open_checkpoint(str(tmp_path / "hf")))
    with pytest.raises(InputError, match="is used by a"):  # stored as (in, out)
        plan_as("onnx", source, StorageRequest("int8"))
    known = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnxscript" else known(name)
    )
    with pytest.raises(MachineError, match="onnxscript"):
        plan_as("onnx", source, StorageRequest("int8"))
