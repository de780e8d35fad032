"""Short trainings, whole and killed."""

import contextlib

import pytest

from edgeprune.recovery import train as training
from edgeprune.recovery.settings import Training
from edgeprune.recovery.step import TrainStep
from edgeprune.support.progress import Quiet
from tests.support.streams import streams

STEPS = 25


APART = 9  # steps between points of the curve, where a run is kept


def train(pruned, folder, grids=None, **changes):
    how = Training(**{"steps": STEPS, "task_share": 0.5, "learning_rate": 1e-3} | changes)
    return training.train(pruned, streams(12), how, folder, Quiet(), "cpu", grids)


@contextlib.contextmanager
def killed_before(step, monkeypatch):
    """A run that is interrupted when so many steps are done."""
    real = TrainStep.take

    def interrupted(self, state):
        if state.step == step:
            raise KeyboardInterrupt
        return real(self, state)

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield


def note_steps(monkeypatch) -> list[int]:
    """Make the list of how many steps were done at the beginning of each step from now on."""
    real, begun = TrainStep.take, []

    def take(self, state):
        begun.append(state.step)
        return real(self, state)

    monkeypatch.setattr(TrainStep, "take", take)
    return begun
