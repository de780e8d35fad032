"""What exporters are given."""

from edgeprune.models import Checkpoint
from exporters.artifact import Model


class Counter:
    """A progress stage that counts."""

    def __init__(self) -> None:
        self.steps = 0

    def advance(self, steps: int = 1) -> None:
        self.steps += steps


def dense_model(checkpoint: Checkpoint) -> Model:
    return Model(checkpoint.folder, checkpoint.weights(), gguf=checkpoint.gguf)
