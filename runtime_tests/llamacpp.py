"""llama.cpp in this process, through its low-level calls: no server, no sampling loop.

Answers are scored by log-likelihood. All choices of a question share one copy of its prompt: the
prompt's tokens belong to several sequences at once, which llama.cpp's unified KV cache allows, so
one decode call scores several whole questions.
"""

import ctypes
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as api

from edgeprune.models.opening import opening
from edgeprune.runtime import load_model, status
from runtime_tests.inputs import begun, most_likely, timing_ids, windows
from runtime_tests.memory import peak_memory

_CONTEXT = 4096
_BATCH = 2048
_MAX_SEQUENCES = 64
_ALL_LAYERS = 999

_LOG: deque[str] = deque(maxlen=8)


@api.llama_log_callback  # llama.cpp calls it until the process ends: it must live as long
def _keep_log(_level: int, text: bytes, _data: ctypes.c_void_p) -> None:
    _LOG.append(text.decode("utf-8", "replace").strip())


@dataclass(frozen=True)
class _Token:
    """One position of a batch."""

    id: int
    position: int
    sequences: tuple[int, ...]
    wants_logits: bool


class LlamaCpp:
    """A loaded model with one context.

    Args:
        path: a GGUF file.
        threads: threads for prefill and decode.
        provider: ``CPU``, or ``GPU`` for all layers on llama.cpp's GPU.

    Raises:
        RuntimeError: llama.cpp rejects the file; the message has the last lines of its log.
    """

    def __init__(self, path: Path, threads: int, provider: str = "CPU"):
        self._log, self._path = _LOG, path
        api.llama_log_set(_keep_log, ctypes.c_void_p(0))
        api.llama_backend_init()
        start = time.perf_counter()
        how = api.llama_model_default_params()
        how.n_gpu_layers = 0 if provider == "CPU" else _ALL_LAYERS
        self._loaded = load_model(path, how)
        self._model = self._loaded.model
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}: {' '.join(self._log)}")
        self.load_seconds = time.perf_counter() - start
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch = _CONTEXT, _BATCH
        params.n_seq_max, params.kv_unified = _MAX_SEQUENCES, True
        params.n_threads = params.n_threads_batch = threads
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot create a context: {' '.join(self._log)}")
        self._vocab = api.llama_model_get_vocab(self._model)
        self._vocab_size = api.llama_vocab_n_tokens(self._vocab)

    @cached_property
    def _opening(self) -> list[int]:
        return opening(self.tokenize)  # late: a model for timing may have no vocabulary

    def info(self) -> dict[str, Any]:
        """Describe the loaded model: name, load time in seconds, size, sparse placement."""
        from importlib.metadata import version

        placed = self._loaded.sparse
        return {
            "runtime": "llama.cpp",
            "version": f"llama-cpp-python {version('llama-cpp-python')}",
            "load_seconds": self.load_seconds,
            "file_bytes": self._path.stat().st_size,
            "sparse": asdict(placed) | {"kernel": status().kernel} if placed else None,
            "sparse_off": self._loaded.off,
        }

    def tokenize(self, text: str, add_special: bool = False) -> list[int]:
        """Tokenise a text; special tokens in it are treated as plain text."""
        data = text.encode()
        buffer = (api.llama_token * (len(data) + 8))()
        count = api.llama_tokenize(
            self._vocab, data, len(data), buffer, len(buffer), add_special, False
        )
        if count < 0:
            raise RuntimeError(f"llama.cpp cannot tokenise {text[:60]!r}")
        return list(buffer[:count])

    def score(self, items: list[dict[str, Any]]) -> list[list[dict[str, float]]]:
        """Compute log-likelihoods of continuations.

        Args:
            items: each with a ``prompt`` and its ``continuations``.

        Returns:
            For each item and continuation ``logprob`` in nats and ``tokens``.
        """
        questions = [self._question(item["prompt"], item["continuations"]) for item in items]
        results: list[list[dict[str, float]]] = []
        for group in _groups(questions):
            results += self._score_group(group)
        return results

    def perplexity(self, text: str, tokens: int) -> dict[str, Any]:
        """Compute nats over windows of 512 tokens, each read on its own, after a BOS if any.

        Args:
            text: text to read; its first ``tokens`` tokens are used.
            tokens: number of tokens.

        Returns:
            ``nats`` of each window, and ``tokens``, the total number predicted.
        """
        ids = self.tokenize(text)[:tokens]
        nats, predicted = [], 0
        for window, given in windows(ids, self._opening):
            places = range(given - 1, len(window) - 1)
            self._decode([_Token(t, i, (0,), i in places) for i, t in enumerate(window)])
            nats.append(-sum(self._log_probability(i, window[i + 1]) for i in places))
            predicted += len(places)
        return {"nats": nats, "tokens": predicted}

    def generate(self, prompts: list[str], max_tokens: int) -> list[str]:
        """Generate greedy answers, up to the first line break."""
        return [self._generate(prompt, max_tokens) for prompt in prompts]

    def prefill_seconds(self, tokens: int, batch: int = 1) -> float:
        """Time reading one or several prompts of so many tokens."""
        if tokens * batch > _BATCH or batch > _MAX_SEQUENCES:
            raise RuntimeError(
                f"{batch} prompts of {tokens} tokens are too many: at most {_MAX_SEQUENCES} "
                f"prompts and {_BATCH} tokens are read at once"
            )
        prompts = [
            _Token(t, i, (sequence,), i == tokens - 1)
            for sequence in range(batch)
            for i, t in enumerate(timing_ids(tokens, self._vocab_size))
        ]
        start = time.perf_counter()
        self._decode(prompts)
        return time.perf_counter() - start

    def decode_seconds(self, prompt_tokens: int, tokens: int, batch: int = 1) -> float:
        """Time decoding so many tokens one by one, without the prompt before them."""
        if batch * (prompt_tokens + tokens) > _CONTEXT:
            raise RuntimeError(
                f"{batch} sequences of {prompt_tokens} and {tokens} tokens are too many: the "
                f"context holds {_CONTEXT} tokens in total"
            )
        self.prefill_seconds(prompt_tokens, batch)
        ids = timing_ids(tokens, self._vocab_size)
        start = time.perf_counter()
        for i, token in enumerate(ids):
            step = [_Token(token, prompt_tokens + i, (s,), True) for s in range(batch)]
            self._decode(step, keep=True)
        return time.perf_counter() - start

    def peak_memory(self) -> int:
        """Return the peak resident memory of this process, in bytes."""
        return peak_memory()

    def _question(self, prompt: str, continuations: list[str]) -> tuple[list[int], list[list[int]]]:
        ends = [self.tokenize(text) for text in continuations]
        start = self.tokenize(prompt)
        if not start and not self._opening:  # nothing to condition on: the first token is given
            return ends[0][:1], [ends[0][1:_BATCH]]
        room = _BATCH - sum(map(len, ends))
        if room <= len(self._opening):
            raise RuntimeError(f"answers exceed {_BATCH} tokens: {continuations[0][:60]!r}")
        return begun(start, self._opening, room), ends

    def _score_group(
        self, group: list[tuple[list[int], list[list[int]]]]
    ) -> list[list[dict[str, float]]]:
        batch: list[_Token] = []
        wanted: list[
            list[list[tuple[int, int]]]
        ] = []  # question, choice: (batch index, next token)
        sequence = 0
        for prompt, ends in group:
            sequences = tuple(range(sequence, sequence + len(ends)))
            sequence += len(ends)
            last = len(prompt) - 1
            batch += [_Token(t, i, sequences, i == last) for i, t in enumerate(prompt)]
            prompt_end = len(batch) - 1
            choices = []
            for own, end in zip(sequences, ends, strict=True):
                places = [prompt_end, *range(len(batch), len(batch) + len(end) - 1)]
                batch += [_Token(t, len(prompt) + i, (own,), True) for i, t in enumerate(end[:-1])]
                choices.append(list(zip(places, end, strict=False)))
            wanted.append(choices)
        self._decode(batch)
        return [
            [
                {
                    "logprob": sum(self._log_probability(place, token) for place, token in choice),
                    "tokens": len(choice),
                }
                for choice in choices
            ]
            for choices in wanted
        ]

    def _generate(self, prompt: str, max_tokens: int) -> str:
        ids = begun(self.tokenize(prompt), self._opening, _BATCH - max_tokens)
        self._decode([_Token(t, i, (0,), i == len(ids) - 1) for i, t in enumerate(ids)])
        text, last = b"", len(ids) - 1
        for step in range(max_tokens):
            token = most_likely(self._logits(last))
            if api.llama_vocab_is_eog(self._vocab, token):
                break
            text += self._piece(token)
            if b"\n" in text.lstrip():
                break
            self._decode([_Token(token, len(ids) + step, (0,), True)], keep=True)
            last = 0
        return text.decode("utf-8", "replace").strip().partition("\n")[0]

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        size = api.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[: max(size, 0)]

    def _decode(self, tokens: list[_Token], keep: bool = False) -> None:
        if not keep:
            api.llama_memory_clear(api.llama_get_memory(self._context), False)
        count = len(tokens)
        ids = (api.llama_token * count)(*(t.id for t in tokens))
        positions = (api.llama_pos * count)(*(t.position for t in tokens))
        counts = (ctypes.c_int32 * count)(*(len(t.sequences) for t in tokens))
        lists = [(api.llama_seq_id * len(t.sequences))(*t.sequences) for t in tokens]
        pointer = ctypes.POINTER(api.llama_seq_id)
        sequences = (pointer * count)(*(ctypes.cast(item, pointer) for item in lists))
        wants = (ctypes.c_int8 * count)(*(t.wants_logits for t in tokens))
        batch = api.llama_batch(count, ids, None, positions, counts, sequences, wants)
        status = api.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}: {' '.join(self._log)}")
        api.llama_synchronize(self._context)

    def _logits(self, index: int) -> np.ndarray:
        row = api.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(row, (self._vocab_size,))

    def _log_probability(self, index: int, token: int) -> float:
        logits = self._logits(index)
        top = logits.max()
        return float(logits[token] - top - np.log(np.exp(logits - top, dtype=np.float32).sum()))


def _groups(questions: list[Any]) -> Iterator[list[Any]]:
    """Group questions so that each group fits into one decode call."""
    group: list[Any] = []
    tokens = sequences = 0
    for prompt, ends in questions:
        size = len(prompt) + sum(map(len, ends))
        if group and (tokens + size > _BATCH or sequences + len(ends) > _MAX_SEQUENCES):
            yield group
            group, tokens, sequences = [], 0, 0
        group.append((prompt, ends))
        tokens += size
        sequences += len(ends)
    if group:
        yield group
