"""NaN and infinity in files, gates and answers."""

import math

import numpy as np
import pytest
import torch

from edgeprune import Recipe
from edgeprune.pipeline.gates import failures
from edgeprune.support.errors import CheckFailed
from edgeprune.support.files import json_text, read_json, write_json
from runtime_tests.runners.inputs import most_likely

NAN = float("nan")


def test_nothing_is_written_from_logits_that_are_not_finite():
    assert most_likely(np.array([1.0, 3.0, 2.0])) == 1
    for bad in (np.array([1.0, NAN, 2.0]), torch.tensor([0.0, NAN]), np.array([1.0, math.inf])):
        with pytest.raises(RuntimeError, match="logits are NaN or infinite"):
            most_likely(bad)


def test_json_holds_no_bare_nan(tmp_path):
    path = tmp_path / "record.json"
    with pytest.raises(CheckFailed, match=r"rows\.1\.samples\.0 = NaN"):
        write_json(path, {"rows": [{"samples": [1.0]}, {"samples": (NAN,)}]})
    assert not path.exists()
    with pytest.raises(CheckFailed, match="value = -infinity"):
        json_text(-math.inf)
    path.write_text('{"nats": NaN}')
    assert read_json(path) is None
    write_json(path, {"accuracy": None})
    assert read_json(path) == {"accuracy": None}


def test_nan_holds_no_gate():
    wrong = {"answers": {"correct": [True, False], "nats": [NAN, NAN]},
             "decode": {"samples": [NAN, NAN]}}  # fmt: skip
    right = {"answers": {"correct": [True, False], "nats": [1.0, 2.0]},
             "decode": {"samples": [1.0, 2.0]}}  # fmt: skip
    results = {"artifacts": {"dense": right, "pruned": wrong}, "difference": {}}
    recipe = Recipe.of({"gates": {"max_nats_increase": 0.1, "min_decode_speed": 0.1}}, task="t")
    assert len(failures(recipe, results)) == 2
