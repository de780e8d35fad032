"""One training step: gradients, the optimizer's update, and the updated model."""

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
    """Runs the training steps.

    Args:
        student: the trained model.
        teacher: the dense model.
        objective: computes the loss.
        batches: training sequences.
        quantizer: rounds the student's weights.
        settings: settings of the training.

    Attributes:
        models: the student's and the teacher's transformers models.
        masters: the trained weights.
        optimizer: updates the trained weights.
        selection: pulls weights back (selective updates); None: all move freely.
        batches: training sequences, as given.
        quantizer: the quantizer, as given.
        settings: the settings, as given.
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
        self._objective, self.settings = objective, settings
        self.models = (student.model, teacher)
        self.masters, self.batches, self.quantizer = student.masters, batches, quantizer
        parameters = student.masters.parameters
        self.optimizer = MaskedAdamW(
            parameters, settings.learning_rate, student.masked, shared=True
        )
        self.selection = Selection(parameters) if settings.selective else None

    def take(self, state: TrainState) -> float:
        """Take the next step of a run, and return its loss.

        Raises:
            CheckFailed: the loss is NaN or infinite.
        """
        loss = self._gradients(state.step, state.task_share)
        if self.selection:
            self.selection.gather()
        share = schedule(state.step, state.steps)
        self.quantizer.learn(self.masters, share)
        self.optimizer.step(share)
        if self.selection:
            self.selection.pull_back()
        self.show()
        state.step += 1
        if not math.isfinite(loss):
            raise CheckFailed(
                f"The training loss is {number(loss)} at step {state.step} of {state.steps}.",
                "Try a lower learning rate: --set training.learning_rate=3e-5",
            )
        return loss

    def show(self) -> None:
        """Copy the present weights to the student, rounded if rounding has begun."""
        self.masters.show(self.quantizer.fake_quantize)

    def timed(self, rehearsals: int = 1) -> float:
        """Time a step that changes no weight, in seconds; the first one compiles what it can."""
        for step in range(rehearsals + 1):
            begin = time.perf_counter()
            self._gradients(step, self.settings.task_share)
            self.optimizer.step(0.0)
            self.show()
        self.optimizer.inner.state.clear()
        return time.perf_counter() - begin

    def break_off(self) -> None:
        """Clear what an unfinished timed step left."""
        self.masters.take_gradients()
        self.optimizer.inner.zero_grad()
        self.optimizer.inner.state.clear()

    def _gradients(self, number: int, task_share: float) -> float:
        """Compute gradients of a step's loss in the masters."""
        loss = self._objective.backward(self.batches.step(number, self.settings.batch, task_share))
        self.masters.take_gradients()
        return loss
