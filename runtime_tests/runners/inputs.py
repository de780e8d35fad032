"""Inputs shared by all runners: windows, tokens for timing, the next token."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_WINDOW = 512
_NUCLEUS = 256  # tokens that are drawn from, at most: sorting a vocabulary takes milliseconds


def windows(ids: list[int], opening: list[int]) -> Iterator[tuple[list[int], int]]:
    """Yield consecutive whole windows of 512 tokens; the remainder at the end is not used.

    Args:
        ids: token ids of the text.
        opening: tokens before each window, from `edgeprune.models.opening.opening`.

    Yields:
        The window, and the number of tokens at its start that are given: the opening, or without
        one the first token of the text. All others are predicted.
    """
    step = _WINDOW - len(opening)
    for start in range(0, len(ids) - step + 1, step):
        yield [*opening, *ids[start : start + step]], max(len(opening), 1)


def begun(ids: list[int], opening: list[int], room: int) -> list[int]:
    """Put the opening before a prompt; a prompt that is too long is cut at its start.

    Args:
        ids: token ids of the prompt alone.
        opening: opening tokens, as for `windows`.
        room: largest number of tokens; more than the opening has.
    """
    return [*opening, *ids[len(opening) - room :]]


def up_to(text: str, stop: Sequence[str]) -> str:
    """Return a written text without spaces around it, up to the first of the texts that end it."""
    found = text.strip()
    return found[: min((at for one in stop if (at := found.find(one)) >= 0), default=None)].strip()


def timing_ids(tokens: int, vocabulary: int) -> list[int]:
    """Return token ids that depend only on their number; the choice does not matter for speed."""
    return [100 + (i * 7919) % (vocabulary - 100) for i in range(tokens)]


def most_likely(logits: Any) -> int:
    """Return the token with the highest logit, (vocabulary,) in numpy or torch.

    Raises:
        RuntimeError: that logit is NaN or infinite; both libraries treat NaN as the highest.
    """
    token = int(logits.argmax())
    if not math.isfinite(float(logits[token])):
        raise RuntimeError("the logits are NaN or infinite while generating an answer")
    return token


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log probabilities along the last axis, float32."""
    above = logits.astype(np.float32) - logits.max(-1, keepdims=True)
    found: np.ndarray = above - np.log(np.exp(above).sum(-1, keepdims=True))
    return found


@dataclass
class Writing:
    """One text that is being written.

    Attributes:
        prompt: token ids that are given.
        most: tokens that may be written.
        number: of the text among others of the same seed.
        temperature: of sampling; 0: the most likely token.
        top_p: tokens are drawn from the most likely ones of this share (nucleus sampling, arXiv
            1904.09751).
        seed: of the draws, which with its number are a text's own: others beside it don't count.
        grammar: what the text obeys, as `edgeprune.runtime.llamacpp.grammar.Grammar`.
        tokens: ids written so far.
        ended: whether the model has ended the text.
    """

    prompt: list[int]
    most: int
    number: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    grammar: Any = None
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        self._random = np.random.default_rng((self.seed, self.number))

    @property
    def done(self) -> bool:
        """Whether nothing more is written."""
        return self.ended or len(self.tokens) >= self.most

    def next(self, logits: Any) -> int:
        """Choose the next token by its logits, (vocabulary,)."""
        if self.grammar:
            return int(self.grammar.choose(logits))
        token = most_likely(logits)
        if not self.temperature:
            return token
        scaled = (np.asarray(logits, np.float32) - float(logits[token])) / self.temperature
        total = float(np.exp(scaled).sum())
        few = np.argpartition(scaled, -_NUCLEUS)[-_NUCLEUS:] if len(scaled) > _NUCLEUS else (
            np.arange(len(scaled))
        )  # fmt: skip
        few = few[np.argsort(-scaled[few], kind="stable")]
        share = np.exp(scaled[few].astype(np.float64))
        inside = 1 + int(np.searchsorted(share.cumsum(), self.top_p * total))
        return int(self._random.choice(few[:inside], p=share[:inside] / share[:inside].sum()))
