"""The number of steps of a run: as set, or as many as fit into its time."""

import time
from dataclasses import dataclass

from edgeprune.recovery.compiled import compile_if_faster
from edgeprune.recovery.settings import Training
from edgeprune.recovery.state import TrainState
from edgeprune.recovery.step import TrainStep
from edgeprune.support.distributed import least, world

_POINTS = 10  # of the loss curve, fewer in a short run; as often is everything kept
_APART = 8  # steps between points at least, where the number of steps is given
_JUDGING = 0.15  # share of a time budget that the curve may take: short runs judge on less
_LEAST_POINTS, _LEAST_JUDGED = 2, 2  # sequences of each stream
_COMPILED_FROM = 240  # seconds: compiling takes up to a minute of them, and saves a quarter


@dataclass(frozen=True)
class Budget:
    """Plans the steps of a run.

    Attributes:
        settings: settings of the training, with its seconds or its steps.
        held_out: number of held-out sequences of each stream.
        begun: start of the time budget, by `time.perf_counter`.
    """

    settings: Training
    held_out: list[int]
    begun: float

    @property
    def timed(self) -> bool:
        """Tell whether a time budget sets the number of steps."""
        return not self.settings.steps

    def plan(self, step: TrainStep) -> TrainState:
        """Start a new run: its steps, the points of its curve, and whether blocks are compiled."""
        if steps := self.settings.steps:
            points = min(_POINTS, max(_LEAST_POINTS, steps // _APART))
            return TrainState(steps=steps, points=points)
        seconds, left = step.timed(rehearsals=0), self.left()
        # Processes that wait for each other's gradients can't fail, or decide, each on its own.
        may_compile = world()[1] == 1 and not self.settings.save_memory
        compiled = may_compile and left > _COMPILED_FROM and compile_if_faster(step, seconds)
        if compiled:
            seconds, left = step.timed(), self.left()
        most = _JUDGING * left / seconds  # steps that judging may take the time of
        judged = int(most / (_LEAST_POINTS + 1) / self._cost(1))
        judged = least(min(max(_LEAST_JUDGED, judged), max(self.held_out)))
        points = int(most / self._cost(judged)) - 1
        points = least(min(_POINTS, max(_LEAST_POINTS, points)))
        steps = int(left / seconds - (points + 1) * self._cost(judged))
        return TrainState(
            steps=least(max(1, steps)), points=points, judged=judged, compiled=compiled
        )

    def plan_again(self, state: TrainState, seconds: float) -> None:
        """Plan the steps again, from the ``seconds`` per step over the first interval."""
        assert state.judged
        more = self.left() / seconds - state.points * self._cost(state.judged)
        state.steps = state.step + least(max(1, int(more)))

    def left(self) -> float:
        """Return the seconds of the budget."""
        return self.settings.seconds - (time.perf_counter() - self.begun)

    def _cost(self, judged: int) -> float:
        """Return the cost of judging so many sequences of each stream, in steps.

        There is no backward pass.
        """
        return sum(min(judged, most) for most in self.held_out) / self.settings.batch / 2
