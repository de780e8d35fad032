"""Compiled blocks in training: torch starts a C++ compiler."""

import itertools
import json

import pytest

from edgeprune.models.blocks import decoder_blocks
from edgeprune.recovery import compiled
from edgeprune.recovery import train as training
from edgeprune.recovery.budget import Budget
from edgeprune.recovery.settings import Training
from edgeprune.recovery.step import TrainStep
from edgeprune.support.progress import Quiet
from tests.support.streams import streams


def paced(monkeypatch, seconds):
    """A clock of so many seconds a step, by turns; six minutes are left."""
    real, paces = TrainStep.timed, itertools.cycle(seconds)

    def timed(self, rehearsals=1):
        real(self, rehearsals)
        return next(paces)

    monkeypatch.setattr(TrainStep, "timed", timed)
    monkeypatch.setattr(Budget, "left", lambda _self: 360.0)
    monkeypatch.setattr(Budget, "plan_again", lambda *_: None)


def test_blocks_are_compiled_where_that_is_faster(pruned, tmp_path, monkeypatch):
    paced(monkeypatch, [60.0, 36.0, 36.0])
    how = Training(answers=True, seconds=1.0, batch=2, learning_rate=1e-3)
    real = TrainStep.take

    def run(folder, stop_at=None):
        def take(self, state):
            assert state.compiled
            blocks = decoder_blocks(self.models[0])[1]
            assert all(block._compiled_call_impl is not None for block in blocks)
            if state.step == stop_at:
                raise KeyboardInterrupt
            return real(self, state)

        monkeypatch.setattr(TrainStep, "take", take)
        return training.train(pruned, streams(12), how, folder, Quiet(), "cpu")

    found = run(tmp_path / "whole")
    losses = [point["held_out"] for point in found.curve]
    assert min(losses) < losses[0]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", found.planned - 1)
    again = run(tmp_path / "killed")
    ours, theirs = (one.checkpoint.files[-1].read_bytes() for one in (found, again))
    assert ours == theirs


@pytest.mark.parametrize("why", ["slower", "impossible"])
def test_blocks_that_gain_nothing_run_as_they_are(pruned, tmp_path, monkeypatch, why):
    def broken(_graph, _inputs):
        raise RuntimeError("no compiler here")

    def compile_blocks(*models):
        for block in (block for model in models for block in decoder_blocks(model)[1]):
            block.compile(backend=broken)

    paced(monkeypatch, [36.0, 60.0 if why == "slower" else 1.0])
    if why == "impossible":
        monkeypatch.setattr(compiled, "compile_blocks", compile_blocks)
    how = Training(seconds=1.0, batch=2, learning_rate=1e-3)
    folder = tmp_path / "run"
    found = training.train(pruned, streams(12), how, folder, Quiet(), "cpu")
    assert not json.loads((folder / "done.json").read_text())["compiled"]
    losses = [point["held_out"] for point in found.curve]
    assert min(losses) < losses[0]
