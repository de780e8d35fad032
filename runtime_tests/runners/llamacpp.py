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
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as api

from edgeprune.formats.chat import ChatFormat
from edgeprune.runtime import load_model, status
from edgeprune.runtime.llamacpp.grammar import Grammar, call_grammar
from runtime_tests.runners.base import InProcess, Question
from runtime_tests.runners.inputs import Writing
from runtime_tests.runners.runner import Rows

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


class LlamaCpp(InProcess):
    """A loaded model with one context.

    Args:
        path: a GGUF file.
        threads: threads for prefill and decode.
        device: ``CPU``, or ``GPU`` for all layers on llama.cpp's GPU.

    Raises:
        RuntimeError: llama.cpp rejects the file; the message has the last lines of its log.
    """

    most_tokens = _BATCH

    def __init__(self, path: Path, threads: int, device: str = "CPU"):
        self._log, self._path = _LOG, path
        api.llama_log_set(_keep_log, ctypes.c_void_p(0))
        api.llama_backend_init()
        start = time.perf_counter()
        how = api.llama_model_default_params()
        how.n_gpu_layers = 0 if device == "CPU" else _ALL_LAYERS
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
        self.vocabulary = api.llama_vocab_n_tokens(self._vocab)

    def info(self) -> dict[str, Any]:
        """See `runtime_tests.runners.runner.Runner`."""
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

    def tokenize(self, text: str, add_special: bool = False, special: bool = False) -> list[int]:
        """Tokenise a text; special tokens in it are plain text unless ``special`` is set."""
        data = text.encode()
        buffer = (api.llama_token * (len(data) + 8))()
        count = api.llama_tokenize(
            self._vocab, data, len(data), buffer, len(buffer), add_special, special
        )
        if count < 0:
            raise RuntimeError(f"llama.cpp cannot tokenise {text[:60]!r}")
        return list(buffer[:count])

    def _likelihoods(self, questions: list[Question]) -> Iterator[list[float]]:
        for group in _groups(questions):
            yield from self._score_group(group)

    def _score_group(self, group: list[Question]) -> list[list[float]]:
        batch: list[_Token] = []
        # By question and choice: place in the batch, and the token that comes next.
        wanted: list[list[list[tuple[int, int]]]] = []
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
            [sum(self._log_probability(place, token) for place, token in one) for one in choices]
            for choices in wanted
        ]

    def _nats(self, window: list[int], given: int) -> float:
        places = range(given - 1, len(window) - 1)
        self._decode([_Token(t, i, (0,), i in places) for i, t in enumerate(window)])
        return -sum(self._log_probability(i, window[i + 1]) for i in places)

    def _logits_at(self, ids: list[int], places: list[int]) -> np.ndarray:
        wanted = set(places)
        self._decode([_Token(t, i, (0,), i in wanted) for i, t in enumerate(ids)])
        return np.stack([self._logits(place) for place in places])

    def _room_of(self, ends: list[list[int]]) -> int:
        return sum(map(len, ends))  # they share a batch

    def _make_room(self, prompt: int, more: int, batch: int) -> None:
        if batch * (prompt + more) > _CONTEXT:
            raise RuntimeError(
                f"{batch} sequences of {prompt} and {more} tokens: the context holds "
                f"{_CONTEXT} in all"
            )
        if prompt * batch > _BATCH or batch > _MAX_SEQUENCES:
            raise RuntimeError(
                f"{batch} prompts of {prompt} tokens: at most {_MAX_SEQUENCES} prompts and "
                f"{_BATCH} tokens are read at once"
            )

    def _read(self, rows: Rows) -> np.ndarray:
        last = len(rows[0]) - 1
        self._decode(
            [
                _Token(token, place, (sequence,), place == last)
                for sequence, ids in enumerate(rows)
                for place, token in enumerate(ids)
            ]
        )
        return self._logits(last)

    def _step(self, tokens: list[int], position: int) -> np.ndarray:
        step = [_Token(t, position, (sequence,), True) for sequence, t in enumerate(tokens)]
        self._decode(step, keep=True)
        return self._logits(0)

    def _write(self, texts: list[Writing]) -> None:
        for group in _together(texts):
            rows = [
                [
                    _Token(token, place, (sequence,), place == len(one.prompt) - 1)
                    for place, token in enumerate(one.prompt)
                ]
                for sequence, one in enumerate(group)
            ]
            self._decode([token for row in rows for token in row])
            left = list(range(len(group)))
            places = [int(end) - 1 for end in np.cumsum([len(row) for row in rows])]
            while left:
                at = dict(zip(left, places, strict=True))
                left = [n for n in left if not self._is_done_with(group[n], self._logits(at[n]))]
                places = list(range(len(left)))
                if left:
                    self._decode([_last(group[n], n) for n in left], keep=True)

    def _ends_answer(self, token: int) -> bool:
        return bool(api.llama_vocab_is_eog(self._vocab, token))

    def _text(self, tokens: list[int]) -> str:
        return b"".join(map(self._piece, tokens)).decode("utf-8", "replace")

    def _tokens(self, text: str) -> list[int]:
        return self.tokenize(text, special=True)

    def _chat_format(self) -> ChatFormat | None:
        source = api.llama_model_chat_template(self._model, None)
        if not source:
            return None
        named = {"bos_token": api.llama_vocab_bos, "eos_token": api.llama_vocab_eos}
        ids = {name: find(self._vocab) for name, find in named.items()}
        return ChatFormat(
            source.decode(),
            {name: self._piece(t, True).decode() for name, t in ids.items() if t >= 0},
        )

    def _grammar(self, functions: list[dict[str, Any]]) -> Grammar:
        assert self._format
        return Grammar(self._vocab, call_grammar(functions, self._format))

    def _piece(self, token: int, special: bool = False) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        size = api.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
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
        return np.ctypeslib.as_array(row, (self.vocabulary,))

    def _log_probability(self, index: int, token: int) -> float:
        logits = self._logits(index)
        top = logits.max()
        return float(logits[token] - top - np.log(np.exp(logits - top, dtype=np.float32).sum()))


def _last(text: Writing, sequence: int) -> _Token:
    """Return the token that was written last, which is read next."""
    place = len(text.prompt) + len(text.tokens) - 1
    return _Token(text.tokens[-1], place, (sequence,), True)


def _together(texts: list[Writing]) -> Iterator[list[Writing]]:
    """Cut texts into groups that fit one context, and whose prompts fit one decode call."""
    group: list[Writing] = []
    for one in texts:
        tried = [*group, one]
        prompts = sum(len(text.prompt) for text in tried)
        whole = prompts + sum(text.most for text in tried)
        if group and (whole > _CONTEXT or prompts > _BATCH or len(tried) > _MAX_SEQUENCES):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _groups(questions: list[Question]) -> Iterator[list[Question]]:
    """Cut questions into groups that fit one decode call."""
    group: list[Question] = []
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
