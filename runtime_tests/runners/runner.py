"""What every runner can be asked, whatever runs the model."""

from collections.abc import Sequence
from typing import Any, Protocol

Rows = list[list[int]]


class Runner(Protocol):
    """An artifact loaded into a runtime; its methods are what a child is asked by name."""

    def info(self) -> dict[str, Any]:
        """What is loaded, how long it took, in seconds, its size, and what its zeros became."""

    def tokenize(self, text: str, add_special: bool = False) -> list[int]:
        """Token ids of a text; special tokens in it are plain text."""

    def score(self, items: list[dict[str, Any]]) -> list[list[dict[str, float]]]:
        """Log-likelihood of continuations.

        Args:
            items: each with a ``prompt`` and its ``continuations``, or with a ``chat`` in their
                place where the artifact has a chat template.

        Returns:
            For each item and continuation ``logprob`` in nats and ``tokens``.
        """

    def perplexity(self, text: str, tokens: int) -> dict[str, Any]:
        """Nats over windows of 512 tokens, each read from its own beginning, behind a BOS if any.

        Args:
            text: what to read; the first ``tokens`` of it are used.
            tokens: how many.

        Returns:
            ``nats`` of each window, and ``tokens``, how many were predicted in all.
        """

    def generate(
        self, prompts: list[str], max_tokens: int, stop: Sequence[str] = ("\n",)
    ) -> list[str]:
        """Greedy answers, up to the first of the texts that ``stop`` them."""

    def reply(
        self,
        items: list[dict[str, Any]],
        max_tokens: int,
        in_grammar: bool = False,
        stop: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """Greedy replies in the artifact's own chat template; without one as `generate`.

        Args:
            items: as `score` takes them.
            max_tokens: of each reply.
            in_grammar: whether nothing but calls of the items' functions is written.
            stop: texts before which a reply ends; without a template the first line does.

        Returns:
            For each item the ``text``, and the number of ``prompt_tokens`` and of its ``tokens``.
        """

    def write(self, prompts: Rows, max_tokens: int, **how: Any) -> list[dict[str, Any]]:
        """Texts behind prompts of token ids, until the model ends them.

        Args:
            prompts: of one that is too long, the end counts.
            max_tokens: of each text.
            how: ``temperature``, ``top_p`` and ``seed`` of `inputs.Writing`; greedy without.

        Returns:
            For each prompt ``tokens``, their ``text``, and whether the model ``ended`` it.
        """

    def predict(self, rows: list[dict[str, Any]], file: str) -> None:
        """Keep the predictions of token sequences, for another runner to be held against.

        Args:
            rows: each with ``ids``, and ``places``, behind which predictions count.
            file: an array of log probabilities is written there, (places, vocabulary), float16.
        """

    def divergence(self, rows: list[dict[str, Any]], file: str) -> dict[str, list[Any]]:
        """Compare predictions with those that another runner has kept, place by place.

        Returns:
            ``nats``, the Kullback-Leibler divergence from the others to these, and whether the
            most likely token is the ``same``.
        """

    def prefill_seconds(self, tokens: int, batch: int = 1) -> float:
        """Time to read a prompt of so many tokens, or several of them at once."""

    def decode_seconds(self, prompt_tokens: int, tokens: int, batch: int = 1) -> float:
        """Time to decode so many tokens one by one after a prompt, without the prompt."""

    def first_token_seconds(self, prompt_tokens: int) -> float:
        """Time to read a prompt and to decode one token behind it."""

    def peak_memory(self) -> int:
        """The most memory this process has held resident, in bytes."""
