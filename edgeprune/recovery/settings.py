"""Settings of training and reconstruction."""

from dataclasses import dataclass

# Sequences of each stream that reconstruction reads at most.
RECONSTRUCTION_SEQUENCES = 64


@dataclass(frozen=True)
class Training:
    """The settings of a training under a mask.

    Attributes:
        answers: the task stream teaches its answers (supervised fine-tuning) instead of the dense
            model's predictions.
        max_perplexity: answer tokens with a higher perplexity in the dense model are left out
            (arXiv 2501.14315); None: all are used.
        seconds: time budget; the first steps are timed to plan the rest.
        steps: number of steps instead of a time, the same on every machine.
        batch: sequences per step, over all processes.
        learning_rate: highest learning rate; it rises for 5 % of the steps and falls as a cosine.
        task_share: share of the task stream in the held-out loss and among the sequences, unless
            these
            would repeat more than about twice.
        chat_share: share of conversations in what is not the task's, if there are any.
        text_share: share of the text's own tokens in the loss on general text, beside the dense
            model's
            predictions.
        answer_weight: weight of the task's answer tokens when distilling; others have weight 1.
        hidden_weight: weight of matching the dense model's hidden states, beside its predictions.
        grid_from: share of the steps after which weights are trained on the grid of the file.
        learn_scales: train the scales of that grid too.
        selective: pull weights back to their initial values as far as those matter
            (`edgeprune.recovery.selection`).
        rank: rank of adapters to train instead of all kept weights; None: no adapters.
        save_memory: recompute a block's activations in the backward pass instead of keeping
            them (gradient checkpointing).
        seed: random seed of the sequences' order.
    """

    answers: bool = False
    max_perplexity: float | None = None
    seconds: float = 600.0
    steps: int | None = None
    batch: int = 2
    learning_rate: float = 3e-4
    task_share: float = 0.25
    chat_share: float = 0.5
    text_share: float = 0.5
    answer_weight: float = 1.0
    hidden_weight: float = 0.0
    grid_from: float = 0.6
    learn_scales: bool = False
    selective: bool = False
    rank: int | None = None
    save_memory: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Reconstruction:
    """The settings of a reconstruction.

    Attributes:
        seconds: time budget, from which steps and sequences are planned on the first block; at
            least four steps of eight sequences are done.
        steps: number of steps of each submodule instead of a time, the same on every machine.
        learning_rate: Adam's highest learning rate.
    """

    seconds: float = 300.0
    steps: int | None = None
    learning_rate: float = 3e-4
