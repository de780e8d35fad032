"""transformers in this process: the reference that artifacts are held against.

On the CPU in float32, slow, and sure of itself. A prompt is read once for all its choices. On a
CUDA GPU in half precision, dense or with torch's 2:4 kernels.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from edgeprune.formats.chat import ChatFormat
from runtime_tests.runners.base import InProcess, Question
from runtime_tests.runners.runner import Rows


class Transformers(InProcess):
    """A model on the CPU, in float32, or on a GPU, in float16.

    Args:
        path: a transformers folder.
        threads: torch's threads.
        device: ``CPU``, ``CUDA``, or ``CUDA 2:4``: products with 2:4 weights by sparse kernels.

    Raises:
        RuntimeError: transformers can't open it, or no weight of it is 2:4.
    """

    def __init__(self, path: Path, threads: int, device: str = "CPU"):
        torch.set_num_threads(threads)
        self._device = "cpu" if device == "CPU" else "cuda"
        self._dtype = torch.float32 if device == "CPU" else torch.float16
        start = time.perf_counter()
        options = {"trust_remote_code": False, "local_files_only": True}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path, **options)
            self._model = AutoModelForCausalLM.from_pretrained(
                path, dtype=self._dtype, use_safetensors=True, **options
            ).eval()
        except (ValueError, OSError, KeyError) as error:
            raise RuntimeError(f"transformers can't open {path}: {error}") from None
        self._model.to(self._device)
        if device == "CUDA 2:4" and not _make_semi_structured(self._model):
            raise RuntimeError(f"{path} has no weights with two zeros in every four inputs")
        self.load_seconds = time.perf_counter() - start
        self._path = path
        self.vocabulary = self._model.config.vocab_size
        self._cache = DynamicCache()  # of what was read last
        ends = self._model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])

    def info(self) -> dict[str, Any]:
        """See `runtime_tests.runners.runner.Runner`."""
        import transformers

        files = [*self._path.glob("*.safetensors")]
        return {
            "runtime": "transformers",
            "version": f"transformers {transformers.__version__}",
            "load_seconds": self.load_seconds,
            "file_bytes": sum(file.stat().st_size for file in files),
            "sparse": None,
            "sparse_off": "",
        }

    def tokenize(self, text: str, add_special: bool = False) -> list[int]:
        """Token ids of a text."""
        return self._tokenizer(text, add_special_tokens=add_special).input_ids

    def _likelihoods(self, questions: list[Question]) -> Iterator[list[float]]:
        for start, ends in questions:
            cache = DynamicCache()
            first = self._run([start], cache)[0, -1:]
            longest = max(map(len, ends)) - 1
            behind = first.new_empty(len(ends), 0, first.shape[1])
            if longest > 0:  # shorter ends are filled up: what is read behind them changes nothing
                cache.batch_repeat_interleave(len(ends))
                rows = [(end[:-1] + (end[-1:] or [0]) * longest)[:longest] for end in ends]
                behind = self._run(rows, cache)
            yield [
                _log_probability(torch.cat([first, behind[row, : max(len(end) - 1, 0)]]), end)
                for row, end in enumerate(ends)
            ]

    def _nats(self, window: list[int], given: int) -> float:
        return -_log_probability(self._run([window], None)[0, given - 1 : -1], window[given:])

    def _logits_at(self, ids: list[int], places: list[int]) -> np.ndarray:
        found: np.ndarray = self._run([ids], None)[0, places].cpu().numpy()
        return found

    def _read(self, rows: Rows) -> Tensor:
        self._cache = DynamicCache()
        return self._run(rows, self._cache)[0, -1]

    def _step(self, tokens: list[int], position: int) -> Tensor:
        return self._run([[token] for token in tokens], self._cache)[0, -1]

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _ends_answer(self, token: int) -> bool:
        return token in self._ends

    def _tokens(self, text: str) -> list[int]:
        return self.tokenize(text)

    def _chat_format(self) -> ChatFormat | None:
        if not self._tokenizer.chat_template:
            return None
        return ChatFormat(self._tokenizer.get_chat_template(), self._tokenizer.special_tokens_map)

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _run(self, rows: Rows, cache: DynamicCache | None) -> Tensor:
        """Logits of sequences behind those in the cache, (sequences, tokens, vocabulary)."""
        with torch.no_grad():
            found = self._model(
                torch.tensor(rows, device=self._device),
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return found.logits.float()


def _make_semi_structured(model: torch.nn.Module) -> int:
    """Give 2:4 weights torch's compressed form, and count them."""
    from torch.sparse import to_sparse_semi_structured

    count = 0
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and is_two_of_four(module.weight):
            weight = to_sparse_semi_structured(module.weight.detach())
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
            count += 1
    return count


def is_two_of_four(weight: Tensor) -> bool:
    """Whether every four inputs of every row, (out, in), hold two zeros or more."""
    if weight.shape[1] % 4:
        return False
    return bool((weight.unflatten(1, (-1, 4)).count_nonzero(-1) <= 2).all())


def _log_probability(logits: Tensor, tokens: list[int]) -> float:
    """The sum over tokens, each predicted by its row of ``logits``."""
    return logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)].sum().item()
