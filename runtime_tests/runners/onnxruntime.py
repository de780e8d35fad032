"""onnxruntime in this process, with keys and values in buffers that the model fills in place.

A prompt is read once for all its choices: each choice goes on behind it, over what the one before
left in the buffers.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from edgeprune.formats.chat import ChatFormat, chat_format_beside
from edgeprune.runtime import library
from edgeprune.runtime.onnxruntime.loading import Opened, open_session
from edgeprune.support.errors import EdgepruneError
from runtime_tests.devices import CPU, PROVIDERS, Provider
from runtime_tests.runners.base import InProcess, Question
from runtime_tests.runners.inputs import Writing
from runtime_tests.runners.runner import Rows

_CAPACITY_STEP = 512
_AT_ONCE = 8  # texts that are written side by side: each has its own keys and values, in float32
_ERRORS_ONLY = 3


class OnnxRuntime(InProcess):
    """A session on the CPU, with the tokenizer that stands beside the model.

    Args:
        path: an ``.onnx`` file as edgeprune or onnxruntime-genai writes it.
        threads: threads for prefill and decode.
        device: a key of `runtime_tests.devices.PROVIDERS`; sparse products are the CPU's.

    Raises:
        RuntimeError: onnxruntime rejects the model, or it is not a decoder with a cache.
    """

    def __init__(self, path: Path, threads: int, device: str = "CPU"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = _ERRORS_ONLY
        start = time.perf_counter()
        try:
            self._tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
            if device == "CPU":
                self._opened = open_session(path, options)
            else:
                self._opened = Opened(_on_gpu(path, options, PROVIDERS[device]))
        except EdgepruneError:
            raise
        except Exception as error:  # onnxruntime's and tokenizers' own kinds
            raise RuntimeError(f"onnxruntime cannot load {path}: {error}") from None
        self.load_seconds = time.perf_counter() - start
        self._path, self._session = path, self._opened.session
        shapes = {i.name: i.shape for i in self._session.get_inputs()}
        self._caches = [name for name in shapes if name.startswith("past_key_values.")]
        if not self._caches or not {"input_ids", "attention_mask"} <= set(shapes):
            raise RuntimeError(
                f"{path} is not a decoder with a cache: its inputs are {sorted(shapes)}"
            )
        _, self._heads, _, width = shapes[self._caches[0]]
        self._head_dim = width if isinstance(width, int) else _head_size(path)
        self.vocabulary = self._session.get_outputs()[0].shape[-1]
        properties = self._session.get_modelmeta().custom_metadata_map
        self._ends = _end_tokens(path)
        fused = properties.get("edgeprune.flavour", "ort") == "ort"
        self._in_place = fused and device == "CPU"
        self._buffers: list[np.ndarray] = []  # one for each of the caches

    def info(self) -> dict[str, Any]:
        """See `runtime_tests.runners.runner.Runner`."""
        data = self._path.with_name(f"{self._path.name}.data")
        files = [self._path, *([data] if data.exists() else [])]
        placed = self._opened.sparse
        return {
            "runtime": "onnxruntime",
            "version": f"onnxruntime {onnxruntime.__version__}",
            "load_seconds": self.load_seconds,
            "file_bytes": sum(file.stat().st_size for file in files),
            "sparse": asdict(placed) | {"kernel": library.in_use()} if placed else None,
            "sparse_off": self._opened.off,
        }

    def tokenize(self, text: str, add_special: bool = False) -> list[int]:
        """Tokenise a text."""
        return self._tokenizer.encode(text, add_special_tokens=add_special).ids

    def _likelihoods(self, questions: list[Question]) -> Iterator[list[float]]:
        for start, ends in questions:
            self._make_room(len(start), max(map(len, ends)), 1)
            first = self._run(start, 0)[-1:].copy()
            scores = []
            for end in ends:  # one by one: onnxruntime's operator takes no batch behind a cache
                logits = first
                if len(end) > 1:
                    logits = np.concatenate([first, self._run(end[:-1], len(start))])
                scores.append(_log_probabilities(logits, end))
            yield scores

    def _nats(self, window: list[int], given: int) -> float:
        return -_log_probabilities(self._run(window, 0)[given - 1 : -1], window[given:])

    def _logits_at(self, ids: list[int], places: list[int]) -> np.ndarray:
        return self._run(ids, 0)[places]

    def _write(self, texts: list[Writing]) -> None:
        if not self._in_place:
            super()._write(texts)
            return
        for start in range(0, len(texts), _AT_ONCE):
            self._write_together(texts[start : start + _AT_ONCE])

    def _write_together(self, group: list[Writing]) -> None:
        """Read prompts one by one, then go on with all at once: each has a row of the buffers."""
        capacity = _capacity(max(len(one.prompt) + one.most for one in group))
        held = [np.zeros(self._shape(len(group), capacity), np.float32) for _ in self._caches]
        left: list[Writing] = []
        for one in group:
            length = len(one.prompt)
            self._make_room(length, 0, 1)
            if not self._is_done_with(one, self._run(one.prompt, 0)[-1]):
                for rows, read in zip(held, self._buffers, strict=True):
                    rows[len(left), :, :length] = read[0, :, :length]
                left.append(one)
        while left:
            lengths = [len(one.prompt) + len(one.tokens) for one in left]
            self._buffers = [rows[: len(left)] for rows in held]
            logits = self._run_in_place(
                {
                    "input_ids": np.array([[one.tokens[-1]] for one in left], np.int64),
                    "attention_mask": (np.arange(max(lengths)) < np.c_[lengths]).astype(np.int64),
                }
            )
            going_on = [
                row for row, one in enumerate(left) if not self._is_done_with(one, logits[row, -1])
            ]
            if len(going_on) < len(left):
                for rows in held:
                    rows[: len(going_on)] = rows[going_on]
                left = [left[row] for row in going_on]
        self._buffers = []

    def _make_room(self, prompt: int, more: int, batch: int) -> None:
        """Buffers for so many positions; what they held is lost if they were too small."""
        if self._buffers:
            held, _, room, _ = self._buffers[0].shape
            if held == batch and room >= prompt + more:
                return
        shape = self._shape(batch, _capacity(prompt + more))
        self._buffers = [np.zeros(shape, np.float32) for _ in self._caches]

    def _shape(self, batch: int, capacity: int) -> tuple[int, ...]:
        return batch, self._heads, capacity, self._head_dim

    def _read(self, rows: Rows) -> np.ndarray:
        return self._run_rows(rows, 0)[0, -1]

    def _step(self, tokens: list[int], position: int) -> np.ndarray:
        return self._run_rows([[token] for token in tokens], position)[0, -1]

    def _ends_answer(self, token: int) -> bool:
        return token in self._ends

    def _tokens(self, text: str) -> list[int]:
        return self.tokenize(text)

    def _chat_format(self) -> ChatFormat | None:
        return chat_format_beside(self._path)

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens))

    def _run(self, ids: list[int], past: int) -> np.ndarray:
        """Compute logits of tokens after ``past`` others, (tokens, vocabulary)."""
        return self._run_rows([ids], past)[0]

    def _run_rows(self, rows: Rows, past: int) -> np.ndarray:
        """Logits of sequences side by side, (sequences, tokens, vocabulary)."""
        ids = np.array(rows, np.int64)
        self._make_room(past, ids.shape[1], len(rows))
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((len(rows), past + ids.shape[1]), np.int64),
        }
        return self._run_in_place(feeds) if self._in_place else self._run_and_copy(feeds, past)

    def _run_in_place(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        binding = self._session.io_binding()
        logits = np.empty((*feeds["input_ids"].shape, self.vocabulary), np.float32)
        for name, value in feeds.items():
            binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        for name, buffer in zip(self._caches, self._buffers, strict=True):
            place = ("cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
            binding.bind_input(name, *place)
            binding.bind_output(name.replace("past_key_values", "present"), *place)
        self._session.run_with_iobinding(binding)
        return logits

    def _run_and_copy(self, feeds: dict[str, np.ndarray], past: int) -> np.ndarray:
        old = {n: b[:, :, :past] for n, b in zip(self._caches, self._buffers, strict=True)}
        names = [name.replace("past_key_values", "present") for name in self._caches]
        logits, *new = self._session.run(["logits", *names], feeds | old)
        for buffer, present in zip(self._buffers, new, strict=True):
            buffer[:, :, past : present.shape[2]] = present[:, :, past:]
        return logits


def _capacity(positions: int) -> int:
    return -(-positions // _CAPACITY_STEP) * _CAPACITY_STEP


def _on_gpu(path: Path, options: Any, provider: Provider) -> Any:
    """Open a session that must use the provider: onnxruntime silently falls back to the CPU."""
    wanted = [(provider.ort, provider.options), CPU.ort]
    session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    if provider.ort not in session.get_providers():
        raise RuntimeError(f"onnxruntime did not use {provider.name}")
    return session


def _end_tokens(path: Path) -> frozenset[int]:
    """Read the tokens that end an answer from the configuration beside the model."""
    for name in ("genai_config.json", "generation_config.json", "config.json"):
        try:
            config = json.loads(path.with_name(name).read_text(encoding="utf-8"))
            found = config.get("model", config)["eos_token_id"]
            return frozenset(found if isinstance(found, list) else [found])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return frozenset()


def _head_size(path: Path) -> int:
    """Read the width of a head, which onnxruntime-genai keeps in a configuration file."""
    try:
        config = json.loads(path.with_name("genai_config.json").read_text(encoding="utf-8"))
        return int(config["model"]["decoder"]["head_size"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RuntimeError(
            f"{path} does not state the width of its heads, nor does genai_config.json beside it."
        ) from None


def _log_probabilities(logits: np.ndarray, tokens: list[int]) -> float:
    """Sum log-likelihoods of tokens, each predicted by its row of ``logits``."""
    chosen = logits[np.arange(len(tokens)), tokens]
    top = logits.max(axis=1)
    totals = np.exp(logits - top[:, None]).sum(axis=1)
    return float((chosen - top - np.log(totals)).sum())
