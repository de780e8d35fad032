"""Submodules that learn to give what the dense ones give."""

import itertools

import pytest
import torch

from edgeprune.recovery import reconstruct, submodules
from edgeprune.recovery.settings import Reconstruction
from edgeprune.support.progress import Quiet
from tests.support.streams import streams


def reconstructed(pruned, folder, **changes):
    how = Reconstruction(**{"steps": 6, "learning_rate": 1e-3} | changes)
    return reconstruct.reconstruct(pruned, streams(5), how, folder, Quiet(), "cpu")


def test_sinks_count_as_one_token_each():
    wanted = torch.ones(2, 8, 4)
    wanted[:, 0] *= 1000
    wanted[:, 1] *= 0.01  # below the median, which is 1
    made = wanted.clone()
    made[:, 0] *= 1.1
    made[:, 1] += 0.1
    made[:, 2] += 0.1
    assert submodules.relative_error(made, wanted).item() == pytest.approx(3 * 0.01 / 8, rel=1e-3)


def test_submodules_come_nearer_to_the_dense_ones(pruned, tmp_path):
    found = reconstructed(pruned, tmp_path)
    assert set(found.errors) == {f"{i}.{name}" for i in (0, 1) for name in ("self_attn", "mlp")}
    assert all(after <= before for before, after in found.errors.values())
    assert sum(after < before for before, after in found.errors.values()) >= 3
    before, after = pruned.weights(), found.checkpoint.weights()
    for record in pruned.records:
        old, new = before.read(record.name), after.read(record.name)
        assert torch.equal(old == 0, new == 0)
    assert {path.name for path in tmp_path.iterdir()} == {
        "block-0000.safetensors", "block-0001.safetensors", "calibration-0000.safetensors",
        "calibration-0001.safetensors", "reconstructed.json",
    }  # fmt: skip


def test_a_killed_reconstruction_gives_the_same_weights(pruned, tmp_path, monkeypatch):
    whole = [
        file.read_bytes() for file in reconstructed(pruned, tmp_path / "whole").checkpoint.files
    ]
    real = submodules.Block.reconstruct

    def one_block(self, steps, rate):
        if self._index == 1:
            raise KeyboardInterrupt
        return real(self, steps, rate)

    with monkeypatch.context() as patched:
        patched.setattr(submodules.Block, "reconstruct", one_block)
        with pytest.raises(KeyboardInterrupt):
            reconstructed(pruned, tmp_path / "killed")
    again = reconstructed(pruned, tmp_path / "killed")
    assert [file.read_bytes() for file in again.checkpoint.files] == whole
    assert len(again.errors) == 4


@pytest.mark.parametrize(
    ("seconds", "steps", "sequences"),
    [
        (211, 25, 40),  # 100 s a block, 50 of them to read all
        (71, 7, 12),  # 30 s, half of them to read 12
        (20, 4, 8),  # no less than four steps, of one batch
    ],
)
def test_a_time_budget_becomes_steps_and_sequences(
    pruned, tmp_path, monkeypatch, seconds, steps, sequences
):
    """A step of both submodules takes 2 s, to read 8 sequences 10 s; 11 s have gone by then."""
    clock, seen = itertools.count(), []
    real = submodules.Block.reconstruct

    def one_block(self, steps, rate):
        seen.append((steps, len(self._inputs["sparse"][0]) + len(self._inputs["sparse"][1])))
        return real(self, 1, rate)

    monkeypatch.setattr(submodules.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(submodules.Block, "reconstruct", one_block)
    how = Reconstruction(seconds=seconds)
    reconstruct.reconstruct(pruned, streams(20, 8), how, tmp_path, Quiet(), "cpu")
    assert seen == [(steps, sequences)] * 2
