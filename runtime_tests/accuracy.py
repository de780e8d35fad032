"""Turn scored answers into figures with intervals."""

import math
import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from runtime_tests.calls import Chat, judge_call
from runtime_tests.paired import CONFIDENCE, bootstrap, share

WRITTEN = ("exact_match", "exact_call")  # metrics of answers that are written, not chosen


@dataclass(frozen=True)
class Item:
    """One evaluation row as plain text.

    Attributes:
        id: row id.
        prompt: text that the model reads.
        continuations: every choice, or only the correct answer, as it follows the prompt.
        answer: index of the correct continuation.
        lengths: number of characters of each choice, for ``acc_norm``.
        accepted: correct answers as text, where one is written.
        choices: what the row chooses from, whether or not all of it is scored.
        chat: the row for a model with a chat template, in place of prompt and continuations.
    """

    id: str
    prompt: str
    continuations: tuple[str, ...]
    answer: int
    lengths: tuple[int, ...] = ()
    accepted: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    chat: Chat | None = None

    def request(self) -> dict[str, Any]:
        """Make the item a runner's; see `runtime_tests.runners.runner.Runner.score`."""
        return {
            "prompt": self.prompt,
            "continuations": self.continuations,
            # Not copied: an app's functions are the same objects in all rows.
            "chat": vars(self.chat) | {"turn": vars(self.chat.turn)} if self.chat else None,
        }


@dataclass(frozen=True)
class Answered:
    """A model's result on one item.

    Attributes:
        correct: whether it chose or wrote the correct answer; None if nothing is chosen.
        nats: negative log-likelihood of the correct answer.
        tokens: number of tokens of the correct answer.
        written: the model's own answer, where it writes one.
    """

    correct: bool | None
    nats: float
    tokens: int
    written: str | None = None


def judge(item: Item, scores: list[dict[str, float]], metric: str, written: str | None) -> Answered:
    """Compare a model's scores, or its written answer, with the correct one.

    ``acc`` takes the choice of the highest log-likelihood; ``acc_norm`` divides by the choice's
    characters first (both as in lm-evaluation-harness); ``exact_match`` compares what is written;
    ``exact_call`` the call of a function, or that there is none.
    """
    right = scores[item.answer]
    correct: bool | None = None
    if metric == "exact_match":
        correct = written is not None and _plain(written) in {_plain(a) for a in item.accepted}
    elif metric == "exact_call" and item.chat:
        correct = judge_call(written or "", item.chat.calls, item.chat.functions).exact
    elif metric in ("acc", "acc_norm"):
        norms = item.lengths if metric == "acc_norm" else [1] * len(scores)
        values = [s["logprob"] / max(n, 1) for s, n in zip(scores, norms, strict=True)]
        correct = int(np.argmax(values)) == item.answer
    return Answered(correct, -right["logprob"], int(right["tokens"]), written)


def chance_level(items: list[Item]) -> float | None:
    """Accuracy of a random choice, or of always giving the most frequent answer; the higher one.

    Always giving the same answer is a strategy only where every row has the same choices, such as
    yes and no; elsewhere the model cannot see the position of the correct choice.
    """
    given = [item.choices or item.continuations for item in items]
    if not items or len(given[0]) < 2:
        return None
    chance = float(np.mean([1 / len(choices) for choices in given]))
    if len(set(given)) > 1:
        return chance
    (_, most), *_ = Counter((item.answer, item.accepted) for item in items).most_common(1)
    return max(chance, most / len(items))


def accuracy_interval(answered: list[Answered]) -> dict[str, float] | None:
    """Compute the share of correct answers with a Wilson interval; None if nothing is chosen."""
    if not answered or answered[0].correct is None:
        return None
    return share([bool(one.correct) for one in answered])


def nats_per_token(answered: list[Answered]) -> dict[str, float]:
    """Compute negative log-likelihood per answer token, with a bootstrap interval over rows."""
    nats, tokens = _columns(answered)
    return _bootstrap(lambda i: nats[i].sum(-1) / tokens[i].sum(-1), len(answered))


def nats_difference(before: list[Answered], after: list[Answered]) -> dict[str, float]:
    """Compute the increase in nats per answer token on the same rows, with a paired interval."""
    nats_b, tokens = _columns(before)
    nats_a, _ = _columns(after)
    delta = nats_a - nats_b
    return _bootstrap(lambda i: delta[i].sum(-1) / tokens[i].sum(-1), len(before))


def perplexity(nats: list[float], tokens: int) -> dict[str, float]:
    """Compute perplexity over windows of equal length, with a bootstrap interval over them.

    Args:
        nats: negative log-likelihood of each window.
        tokens: number of tokens predicted in all windows.
    """
    windows = np.array(nats)
    each = tokens / len(nats)
    found = _bootstrap(lambda i: windows[i].mean(-1) / each, len(nats))
    return {name: math.exp(value) for name, value in found.items()}


def near_chance(accuracy: dict[str, float] | None, line: float | None) -> bool:
    """Whether an accuracy can't be told from chance level."""
    return accuracy is not None and line is not None and accuracy["low"] <= line


def _columns(answered: list[Answered]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([a.nats for a in answered]), np.array([a.tokens for a in answered], float)


def _bootstrap(statistic: Any, rows: int) -> dict[str, float]:
    return asdict(bootstrap(statistic, rows, CONFIDENCE))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w.-]+", text.casefold())).strip(". ")
