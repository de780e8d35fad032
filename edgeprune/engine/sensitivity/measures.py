"""Losses and distances of pruning candidates, measured on the dense model."""

from edgeprune.engine.sensitivity.trials import CandidateTrials, States, Zeros, first_states
from edgeprune.planning.allocation import Fitness
from edgeprune.support.progress import Progress

# Matrices tried side by side; each holds hidden states of the tried sequences.
_TOGETHER = 8


def sensitivity(
    trials: CandidateTrials, shares: dict[str, float], zeros: Zeros, progress: Progress
) -> dict[str, float]:
    """Measure how much the loss of answer tokens rises when one matrix alone is pruned.

    The loss is the task's, unless only the general stream is used.

    Args:
        trials: evaluates candidates on the dense model.
        shares: the streams that are used.
        zeros: number of zeros of each matrix in its trial.
        progress: receives progress by matrices.
    """
    runner = trials.runner
    stream = "task" if "task" in shares else "general"
    hidden = first_states(runner)[stream]
    losses: dict[str, float] = {}
    with progress.stage("measure sensitivity", len(zeros)) as stage:
        for index, matrices in enumerate(trials.blocks):
            names = list(matrices)
            for start in range(0, len(names), _TOGETHER):
                group = names[start : start + _TOGETHER]
                states: list[States] = [{stream: hidden.clone()} for _ in group]
                trials.run([{name: zeros[name]} for name in group], states, index)
                for name, state in zip(group, states, strict=True):
                    losses[name] = trials.loss(stream, state[stream])
                stage.advance(len(group))
            runner.advance(index, runner.load(index), hidden, hidden)
    dense = trials.loss(stream, hidden)
    return {name: loss - dense for name, loss in losses.items()}


def fitness(trials: CandidateTrials, shares: dict[str, float]) -> Fitness:
    """Measure ``(1-λ) KL_general + λ KL_task`` of candidates against the dense model's logits.

    It is taken at positions before answer tokens; a share of the data is the first sequences.

    Args:
        trials: evaluates candidates on the dense model.
        shares: weight of each stream.
    """
    first = first_states(trials.runner)
    final = {name: states.clone() for name, states in first.items()}
    trials.run([{}], [final])
    dense = {name: trials.log_probabilities(name, states) for name, states in final.items()}

    def judge(candidates: list[Zeros], share: float) -> list[float]:
        states: list[States] = [
            {
                name: hidden[: max(1, round(share * len(hidden)))].clone()
                for name, hidden in first.items()
            }
            for _ in candidates
        ]
        trials.run(candidates, states)
        return [
            sum(
                weight * trials.divergence(name, hidden[name], dense[name])
                for name, weight in shares.items()
            )
            for hidden in states
        ]

    return judge
