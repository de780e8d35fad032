"""How to train."""

from dataclasses import dataclass

# Sequences of each stream that reconstruction reads at most.
RECONSTRUCTION_SEQUENCES = 64


@dataclass(frozen=True)
class Training:
    """The settings of a training under a mask.

    Attributes:
        answers: the task stream teaches its answers (supervised fine-tuning) instead of the dense
            model's predictions.
        max_perplexity: answers' tokens that the dense model finds harder than this are left out
            (arXiv 2501.14315); None: none are.
        seconds: time to take; the first steps are timed and the rest planned by that.
        steps: how many instead; the same on every machine.
        batch: sequences a step, of all processes together.
        learning_rate: at its highest; it rises for 5 % of the steps and falls as a cosine.
        task_share: of the task stream in the held-out loss, and among the sequences, unless they
            would come more than about twice.
        text_share: of the text's own tokens in the loss of general text, beside the dense model's
            predictions.
        answer_weight: when distilling, of tokens of the task's answers; others weigh 1.
        hidden_weight: of matching the dense model's hidden states, beside its predictions.
        selective: pull weights back to where they were as far as they matter there
            (`edgeprune.recovery.selection`).
        rank: of adapters to train in place of all kept weights; None: no adapters.
        save_memory: compute a block's activations again in the backward pass instead of keeping
            them (gradient checkpointing).
        seed: of the sequences' order.
    """

    answers: bool = False
    max_perplexity: float | None = None
    seconds: float = 600.0
    steps: int | None = None
    batch: int = 2
    learning_rate: float = 3e-4
    task_share: float = 0.25
    text_share: float = 0.5
    answer_weight: float = 1.0
    hidden_weight: float = 0.0
    selective: bool = False
    rank: int | None = None
    save_memory: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Reconstruction:
    """The settings of a reconstruction.

    Attributes:
        seconds: time to take, from which steps and sequences are planned on the first block; four
            steps of eight sequences are done in any case.
        steps: of each submodule instead; the same on every machine.
        learning_rate: Adam's at its highest.
    """

    seconds: float = 300.0
    steps: int | None = None
    learning_rate: float = 3e-4
