"""Submodules that learn to give what the dense ones give."""

import itertools

import pytest
import torch

from edgeprune.progress import Quiet
from edgeprune.recovery import reconstruct
from tests.conftest import streams


def rebuild(pruned, folder, **changes):
    how = reconstruct.Reconstruction(**{"steps": 6, "learning_rate": 1e-3} | changes)
    return reconstruct.reconstruct(pruned, streams(5), how, folder, Quiet(), "cpu")


def test_sinks_count_as_one_token_each():
    wanted = torch.ones(2, 8, 4)
    wanted[:, 0] *= 1000
    wanted[:, 1] *= 0.01  # below the median, which is 1
    made = wanted.clone()
    made[:, 0] *= 1.1
    made[:, 1] += 0.1
    made[:, 2] += 0.1
    assert reconstruct.relative_error(made, wanted).item() == pytest.approx(3 * 0.01 / 8, rel=1e-3)


def test_submodules_come_nearer_to_the_dense_ones(pruned, tmp_path):
    found = rebuild(pruned, tmp_path)
    assert set(found.errors) == {f"{i}.{name}" for i in (0, 1) for name in ("self_attn", "mlp")}
    assert all(after <= before for before, after in found.errors.values())
    assert sum(after < before for before, after in found.errors.values()) >= 3
    before, after = pruned.weights(), found.checkpoint.weights()
    for record in pruned.records:
        old, new = before.read(record.name), after.read(record.name)
        assert torch.equal(old == 0, new == 0)
    assert {path.name for path in tmp_path.iterdir()} == {
        "block-0000.safetensors", "block-0001.safetensors", "calibration-0000.safetensors",
        "calibration-0001.safetensors", "rebuilt.json",
    }  # fmt: skip


def test_a_killed_reconstruction_gives_the_same_weights(pruned, tmp_path, monkeypatch):
    whole = [file.read_bytes() for file in rebuild(pruned, tmp_path / "whole").checkpoint.files]
    real = reconstruct._Block.rebuild

    def rebuild_one(self, steps):
        if self._index == 1:
            raise KeyboardInterrupt
        return real(self, steps)

    with monkeypatch.context() as patched:
        patched.setattr(reconstruct._Block, "rebuild", rebuild_one)
        with pytest.raises(KeyboardInterrupt):
            rebuild(pruned, tmp_path / "killed")
    again = rebuild(pruned, tmp_path / "killed")
    assert [file.read_bytes() for file in again.checkpoint.files] == whole
    assert len(again.errors) == 4


def test_a_time_budget_becomes_steps_of_each_submodule(pruned, tmp_path, monkeypatch):
    clock, seen = itertools.count(), []
    real = reconstruct._Block.rebuild

    def rebuild_one(self, steps):
        seen.append(steps)
        return real(self, steps)

    monkeypatch.setattr(reconstruct.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(reconstruct._Block, "rebuild", rebuild_one)
    rebuild(pruned, tmp_path, steps=None, seconds=40)
    assert seen == [40 / 2 / 2 - round(4 * 10 / 8 / 3)] * 2
