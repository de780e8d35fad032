"""The training loop."""

import time

from edgeprune.recovery.budget import Budget
from edgeprune.recovery.compiled import compile_blocks
from edgeprune.recovery.curve import Curve
from edgeprune.recovery.state import RunFolder, TrainState
from edgeprune.recovery.step import TrainStep
from edgeprune.support.distributed import world
from edgeprune.support.progress import Progress


def run(
    step: TrainStep, curve: Curve, budget: Budget, folder: RunFolder, progress: Progress, name: str
) -> TrainState:
    """Train to the end, or until the held-out loss has not fallen for three points.

    Args:
        step: runs one training step.
        curve: evaluates the run and keeps its best weights.
        budget: plans the number of steps.
        folder: keeps the run at every point of the curve; a killed run resumes from there.
        progress: receives progress by steps.
        name: name of the progress stage.
    """
    state = _begin_or_resume(step, curve, budget, folder)
    losses: list[float] = []
    planned, begin = bool(state.step), time.perf_counter()
    with progress.stage(name, state.steps) as stage:
        stage.advance(state.step)
        while state.step < state.steps and not curve.stops(state):
            if step.quantizer.pending and state.step >= int(step.settings.grid_from * state.steps):
                pause = time.perf_counter()
                _begin_rounding(state, step, curve)
                begin += time.perf_counter() - pause  # it is not the steps' time
            losses.append(step.take(state))
            stage.advance()
            interval = _interval(state)
            if state.step % interval == 0 or state.step == state.steps:
                if not planned and budget.timed:
                    planned = True
                    budget.plan_again(state, (time.perf_counter() - begin) / interval)
                    stage.expect(state.steps)
                curve.judge(state, sum(losses) / len(losses))
                folder.save(state)
                losses.clear()
    return state


def _begin_or_resume(
    step: TrainStep, curve: Curve, budget: Budget, folder: RunFolder
) -> TrainState:
    state = folder.resume()
    step.show()
    if not state.steps:
        state = budget.plan(step)
        state.task_share = step.batches.task_share(state.steps * budget.settings.batch)
        begins = step.settings.grid_from * state.steps
        if not step.quantizer.pending or begins >= _interval(state):  # rounding judges anew
            curve.judge(state, None)
    elif state.compiled and world()[1] == 1:
        compile_blocks(*step.models)
    return state


def _interval(state: TrainState) -> int:
    """Return the steps between two points of the curve."""
    return -(-state.steps // state.points)


def _begin_rounding(state: TrainState, step: TrainStep, curve: Curve) -> None:
    """Begin fake quantisation: earlier weights were not on the file's grid and do not count."""
    step.quantizer.fit(step.masters)
    step.show()
    state.best = None
    curve.judge(state, None)
