"""What every runner can do, and what all of them do alike."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from edgeprune.formats.chat import ChatFormat
from edgeprune.models.opening import opening
from runtime_tests.counters import peak_memory
from runtime_tests.runners.inputs import (
    Writing,
    begun,
    log_softmax,
    most_likely,
    timing_ids,
    up_to,
    windows,
)
from runtime_tests.runners.runner import Rows

Question = tuple[list[int], list[list[int]]]  # ids of the prompt, and of every continuation


class InProcess(ABC):
    """A `Runner` in this process; a runtime adds how it reads tokens.

    Attributes:
        most_tokens: of a prompt with its answer.
        vocabulary: tokens that there are.
    """

    most_tokens = 2048
    vocabulary: int

    @abstractmethod
    def tokenize(self, text: str, add_special: bool = False) -> list[int]:
        """See `Runner`."""

    @abstractmethod
    def _likelihoods(self, questions: list[Question]) -> Iterable[list[float]]:
        """Log-likelihood of every continuation of every question, in nats."""

    @abstractmethod
    def _nats(self, window: list[int], given: int) -> float:
        """Nats of a text's tokens, of which the first ``given`` are not predicted."""

    @abstractmethod
    def _logits_at(self, ids: list[int], places: list[int]) -> np.ndarray:
        """Logits behind some tokens of a sequence, (places, vocabulary)."""

    @abstractmethod
    def _read(self, rows: Rows) -> Any:
        """Read sequences of one length from their beginning.

        Returns:
            Logits behind the last token of the first of them, (vocabulary,).
        """

    @abstractmethod
    def _step(self, tokens: list[int], position: int) -> Any:
        """Read a token more of every sequence; returns as `_read`."""

    @abstractmethod
    def _ends_answer(self, token: int) -> bool:
        """Whether a token ends an answer."""

    @abstractmethod
    def _text(self, tokens: list[int]) -> str:
        """Tokens as text."""

    @abstractmethod
    def _chat_format(self) -> ChatFormat | None:
        """The chat template that the artifact brings with it."""

    @abstractmethod
    def _tokens(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens are such."""

    def _grammar(self, functions: list[dict[str, Any]]) -> Any:
        """What a call of functions obeys."""
        raise RuntimeError("this runtime has no grammars")

    def _make_room(self, prompt: int, more: int, batch: int) -> None:  # noqa: B027  # a hook
        """Prepare for ``batch`` prompts and for tokens behind them; raises if they are too many."""

    def _wait(self) -> None:  # noqa: B027  # a hook
        """Until a device has done what it was given."""

    def _room_of(self, ends: list[list[int]]) -> int:
        """Tokens that continuations take beside their prompt."""
        return max(map(len, ends))

    @cached_property
    def _opening(self) -> list[int]:
        return opening(self.tokenize)  # late: a model for timing may have no vocabulary

    @cached_property
    def _format(self) -> ChatFormat | None:
        return self._chat_format()

    def score(self, items: list[dict[str, Any]]) -> list[list[dict[str, float]]]:
        """See `Runner`."""
        questions = [self._question(item) for item in items]
        return [
            [
                {"logprob": nats, "tokens": len(end)}
                for nats, end in zip(likelihoods, ends, strict=True)
            ]
            for (_, ends), likelihoods in zip(questions, self._likelihoods(questions), strict=True)
        ]

    def perplexity(self, text: str, tokens: int) -> dict[str, Any]:
        """See `Runner`."""
        nats, predicted = [], 0
        for window, given in windows(self.tokenize(text)[:tokens], self._opening):
            nats.append(self._nats(window, given))
            predicted += len(window) - given
        return {"nats": nats, "tokens": predicted}

    def generate(
        self, prompts: list[str], max_tokens: int, stop: Sequence[str] = ("\n",)
    ) -> list[str]:
        """See `Runner`."""
        return [self._generate(prompt, max_tokens, stop) for prompt in prompts]

    def reply(
        self,
        items: list[dict[str, Any]],
        max_tokens: int,
        in_grammar: bool = False,
        stop: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """See `Runner`."""
        if self._format is None or not all(item.get("chat") for item in items):
            prompts = [item["prompt"] for item in items]
            answers = self.generate(prompts, max_tokens, stop or ("\n",))
            return [
                {
                    "text": text,
                    "prompt_tokens": len(self.tokenize(prompt)),
                    "tokens": len(self.tokenize(text)),
                }
                for text, prompt in zip(answers, prompts, strict=True)
            ]
        room, texts = self.most_tokens - max_tokens, list[Writing]()
        for item in items:
            grammar = self._grammar(item["chat"]["functions"]) if in_grammar else None
            texts.append(Writing(self._asked(item["chat"])[-room:], max_tokens, grammar=grammar))
        self._write(texts)
        return [
            {
                "text": up_to(self._text(one.tokens), stop),
                "prompt_tokens": len(one.prompt),
                "tokens": len(one.tokens),
            }
            for one in texts
        ]

    def write(self, prompts: Rows, max_tokens: int, **how: Any) -> list[dict[str, Any]]:
        """See `Runner`."""
        room = self.most_tokens - max_tokens
        texts = [
            Writing(ids[-room:], max_tokens, place, **how) for place, ids in enumerate(prompts)
        ]
        self._write(texts)
        return [
            {"tokens": one.tokens, "text": self._text(one.tokens), "ended": one.ended}
            for one in texts
        ]

    def predict(self, rows: list[dict[str, Any]], file: str) -> None:
        """See `Runner`."""
        shape = (sum(len(row["places"]) for row in rows), self.vocabulary)
        kept = np.lib.format.open_memmap(file, "w+", np.float16, shape)
        for own, place in self._predictions(rows):
            kept[place] = own
        kept.flush()

    def divergence(self, rows: list[dict[str, Any]], file: str) -> dict[str, list[Any]]:
        """See `Runner`."""
        others = np.load(file, mmap_mode="r")
        found: dict[str, list[Any]] = {"nats": [], "same": []}
        for own, place in self._predictions(rows):
            theirs = log_softmax(others[place].astype(np.float32))  # 16 bits do not sum to 1
            shared = own[:, : theirs.shape[1]]  # virtual tokens stand behind all others
            found["nats"] += (np.exp(theirs) * (theirs - shared)).sum(-1).tolist()
            found["same"] += (theirs.argmax(-1) == own.argmax(-1)).tolist()
        return found

    def _predictions(self, rows: list[dict[str, Any]]) -> Iterator[tuple[np.ndarray, slice]]:
        """Log probabilities of each row, and where they stand among those of all."""
        start = 0
        for row in rows:
            yield (
                log_softmax(self._logits_at(row["ids"], row["places"])),
                (slice(start, start := start + len(row["places"]))),
            )

    def _write(self, texts: list[Writing]) -> None:
        """Write texts to their ends; a runtime that can do several at once does."""
        for one in texts:
            self._make_room(len(one.prompt), one.most, 1)
            logits = self._read([one.prompt])
            while not self._is_done_with(one, logits):
                place = len(one.prompt) + len(one.tokens) - 1
                logits = self._step([one.tokens[-1]], place)

    def _is_done_with(self, text: Writing, logits: Any) -> bool:
        """Add the next token to a text, and tell whether it is done."""
        token = text.next(logits)
        if self._ends_answer(token):
            text.ended = True
        else:
            text.tokens.append(token)
        return text.done

    def prefill_seconds(self, tokens: int, batch: int = 1) -> float:
        """See `Runner`."""
        rows = [timing_ids(tokens, self.vocabulary)] * batch
        self._make_room(tokens, 0, batch)
        start = time.perf_counter()
        self._read(rows)
        self._wait()
        return time.perf_counter() - start

    def decode_seconds(self, prompt_tokens: int, tokens: int, batch: int = 1) -> float:
        """See `Runner`."""
        ids = timing_ids(tokens, self.vocabulary)
        self._make_room(prompt_tokens, tokens, batch)
        self._read([timing_ids(prompt_tokens, self.vocabulary)] * batch)
        self._wait()
        start = time.perf_counter()
        for place, token in enumerate(ids, prompt_tokens):
            self._step([token] * batch, place)
        self._wait()
        return time.perf_counter() - start

    def first_token_seconds(self, prompt_tokens: int) -> float:
        """See `Runner`."""
        start = time.perf_counter()
        self.decode_seconds(prompt_tokens, 1)
        return time.perf_counter() - start

    def peak_memory(self) -> int:
        """See `Runner`."""
        return peak_memory()

    def _question(self, item: dict[str, Any]) -> Question:
        """Tokens of a question; of a prompt that is too long, the end."""
        if self._format and item.get("chat"):  # the template opens the text itself
            turn, before = item["chat"]["turn"], list[int]()
            texts = [self._format.reply(turn["messages"], turn["reply"], turn["tools"])]
            start, ends = self._asked(item["chat"]), [self._tokens(texts[0])]
        else:
            texts, before = item["continuations"], self._opening
            start, ends = self.tokenize(item["prompt"]), list(map(self.tokenize, texts))
            if not start and not before:  # nothing to condition on: the first token is given
                start, ends = ends[0][:1], [ends[0][1 : self.most_tokens]]
        room = self.most_tokens - self._room_of(ends)
        if room <= len(before):
            raise RuntimeError(f"answers longer than {self.most_tokens} tokens: {texts[0][:60]!r}")
        return begun(start, before, room), ends

    def _asked(self, chat: dict[str, Any]) -> list[int]:
        """Tokens of a turn that the assistant is to answer."""
        assert self._format
        turn = chat["turn"]
        return self._tokens(self._format.text(turn["messages"], asks=True, tools=turn["tools"]))

    def _generate(self, prompt: str, max_tokens: int, stop: Sequence[str]) -> str:
        ids = begun(self.tokenize(prompt), self._opening, self.most_tokens - max_tokens)
        self._make_room(len(ids), max_tokens, 1)
        written: list[int] = []
        logits = self._read([ids])
        for place in range(len(ids), len(ids) + max_tokens):
            token = most_likely(logits)
            if self._ends_answer(token):
                break
            written.append(token)
            if any(text in self._text(written).lstrip() for text in stop):
                break
            logits = self._step([token], place)
        return up_to(self._text(written), stop)
