"""The held-out loss curve, which selects the best weights and stops a run early."""

import math
from pathlib import Path
from typing import Any

from edgeprune.formats.weights import save_tensors
from edgeprune.recovery.batches import Batches
from edgeprune.recovery.losses import Objective
from edgeprune.recovery.masters import Masters
from edgeprune.recovery.qat import FakeQuantizer
from edgeprune.recovery.state import TrainState
from edgeprune.support.distributed import world
from edgeprune.support.errors import CheckFailed
from edgeprune.support.files import atomic_path, number

SCALES = "scales:"  # before the names of scales, in the file of the best weights
_PATIENCE = 3  # points without a better one, and training stops


class Curve:
    """Evaluates a run on held-out sequences.

    Args:
        judging: the held-out sequences.
        objective: computes their loss.
        masters: the trained weights.
        quantizer: rounds the student's weights.
        best: file for the best weights.
    """

    def __init__(
        self,
        judging: Batches,
        objective: Objective,
        masters: Masters,
        quantizer: FakeQuantizer,
        best: Path,
    ):
        self._judging, self._objective = judging, objective
        self._masters, self._quantizer, self._best = masters, quantizer, best

    def judge(self, state: TrainState, train: float | None) -> None:
        """Add a point to the curve, and keep the weights if they are the best so far.

        Args:
            state: state of the run.
            train: training loss since the last point; None at the beginning.
        """
        # Of all processes: they end together.
        held_out = self._objective.evaluate(self._judging.all(state.judged))
        if not math.isfinite(held_out):
            raise CheckFailed(
                f"The held-out loss of training is {number(held_out)} at step {state.step} of "
                f"{state.steps}.",
                "Check the model, or try a lower learning rate: --set training.learning_rate=3e-5",
            )
        rounded = bool(self._quantizer.state)
        state.curve.append(
            {"step": state.step, "train": train, "held_out": held_out, "rounded": rounded}
        )
        if state.best is None or held_out < state.best:
            state.best = held_out
            self._keep()

    def stops(self, state: TrainState) -> bool:
        """Tell whether more training would only make the model worse."""
        if self._quantizer.pending:
            return False  # what is best so far is not what a file would hold
        return has_risen(state.curve, state.best)

    def _keep(self) -> None:
        own, fake_quantize = self._masters.parameters, self._quantizer.fake_quantize
        weights = self._masters.gathered(lambda name: fake_quantize(name, own[name].data))
        if world()[0] == 0:
            scales = self._quantizer.scales
            kept = {f"{SCALES}{name}": scale.cpu() for name, scale in scales.items()}
            with atomic_path(self._best) as path:
                save_tensors(path, weights | kept)


def has_risen(curve: list[dict[str, Any]], best: float | None) -> bool:
    """Tell whether the last three held-out losses are all above ``best``.

    Args:
        curve: points as in `TrainState.curve`; points before rounding began do not count after it.
        best: the lowest loss that counts; None before the first.
    """
    now = [point for point in curve if point["rounded"] == curve[-1]["rounded"]]
    last = now[-_PATIENCE:]
    return (
        best is not None
        and len(now) > _PATIENCE
        and all(point["held_out"] > best for point in last)
    )
