"""One training step: gradients, the optimizer's move, and the model that shows it."""

import math
import time
from typing import Any

from edgeprune.recovery.batches import Batches
from edgeprune.recovery.losses import Objective
from edgeprune.recovery.optimizer import MaskedAdamW, schedule
from edgeprune.recovery.qat import FakeQuantizer
from edgeprune.recovery.selection import Selection
from edgeprune.recovery.settings import Training
from edgeprune.recovery.state import TrainState
from edgeprune.recovery.student import Student
from edgeprune.support.errors import CheckFailed
from edgeprune.support.files import number


class TrainStep:
    """Takes the steps of a run.

    Args:
        student: the model that is trained.
        teacher: the dense one.
        objective: gives their loss.
        batches: what is trained on.
        quantizer: rounds what the student computes with.
        settings: of the training.

    Attributes:
        models: transformers' student and teacher.
        masters: what is trained.
        optimizer: moves it.
        selection: of the weights that move freely; None: all do.
        batches: as given.
        quantizer: as given.
    """

    def __init__(
        self,
        student: Student,
        teacher: Any,
        objective: Objective,
        batches: Batches,
        quantizer: FakeQuantizer,
        settings: Training,
    ):
        self._objective, self._settings = objective, settings
        self.models = (student.model, teacher)
        self.masters, self.batches, self.quantizer = student.masters, batches, quantizer
        parameters = student.masters.parameters
        self.optimizer = MaskedAdamW(
            parameters, settings.learning_rate, masked=settings.rank is None, shared=True
        )
        self.selection = Selection(parameters) if settings.selective else None

    def take(self, state: TrainState) -> float:
        """Take the next step of a run, and give its loss.

        Raises:
            CheckFailed: the loss is NaN or infinite.
        """
        loss = self._gradients(state.step, state.task_share)
        if self.selection:
            self.selection.gather()
        self.optimizer.step(schedule(state.step, state.steps))
        if self.selection:
            self.selection.pull_back()
        self.show()
        state.step += 1
        if not math.isfinite(loss):
            raise CheckFailed(
                f"The loss of recovery is {number(loss)} at step {state.step} of {state.steps}.",
                "Try a lower learning rate: --set training.learning_rate=3e-5",
            )
        return loss

    def show(self) -> None:
        """Let the student compute with the weights as they are now, rounded if that has begun."""
        self.masters.show(self.quantizer.fake_quantize)

    def timed(self) -> float:
        """Seconds of a step that moves nothing."""
        for step in range(2):  # the first allocates
            begin = time.perf_counter()
            self._gradients(step, self._settings.task_share)
            self.optimizer.step(0.0)
            self.show()
        self.optimizer.inner.state.clear()
        return time.perf_counter() - begin

    def break_off(self) -> None:
        """Drop what is left of a timed step that did not come to its end."""
        self.masters.take_gradients()
        self.optimizer.inner.zero_grad()
        self.optimizer.inner.state.clear()

    def _gradients(self, number: int, task_share: float) -> float:
        """Of a step's loss, into the masters."""
        loss = self._objective.backward(self.batches.step(number, self._settings.batch, task_share))
        self.masters.take_gradients()
        return loss
