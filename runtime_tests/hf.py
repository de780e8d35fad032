"""transformers in this process: the reference for artifacts.

On the CPU it runs in float32, which is slow but accurate. A prompt is read once for all its
choices. On a
CUDA GPU in half precision, dense or with torch's 2:4 kernels.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from edgeprune.models.opening import opening
from runtime_tests.inputs import begun, most_likely, timing_ids, windows
from runtime_tests.memory import peak_memory

_MOST_TOKENS = 2048  # of a prompt with its answer


class Transformers:
    """A model on the CPU, in float32, or on a GPU, in float16.

    Args:
        path: a transformers folder.
        threads: torch's threads.
        provider: ``CPU``, ``CUDA``, or ``CUDA 2:4``: products with 2:4 weights by sparse kernels.

    Raises:
        RuntimeError: transformers cannot open it, or none of its weights is 2:4.
    """

    def __init__(self, path: Path, threads: int, provider: str = "CPU"):
        torch.set_num_threads(threads)
        self._device = "cpu" if provider == "CPU" else "cuda"
        self._dtype = torch.float32 if provider == "CPU" else torch.float16
        start = time.perf_counter()
        options = {"trust_remote_code": False, "local_files_only": True}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path, **options)
            self._model = AutoModelForCausalLM.from_pretrained(
                path, dtype=self._dtype, use_safetensors=True, **options
            ).eval()
        except (ValueError, OSError, KeyError) as error:
            raise RuntimeError(f"transformers cannot open {path}: {error}") from None
        self._model.to(self._device)
        if provider == "CUDA 2:4" and not _make_semi_structured(self._model):
            raise RuntimeError(f"{path} has no weights with two zeros in every four inputs")
        self.load_seconds = time.perf_counter() - start
        self._path = path
        self._opening = opening(self.tokenize)
        ends = self._model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])

    def info(self) -> dict[str, Any]:
        """Describe the loaded model: name, load time in seconds, and size."""
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
        """Tokenise a text."""
        return self._tokenizer(text, add_special_tokens=add_special).input_ids

    def score(self, items: list[dict[str, Any]]) -> list[list[dict[str, float]]]:
        """Compute log-likelihoods of continuations.

        Args:
            items: each with a ``prompt`` and its ``continuations``.

        Returns:
            For each item and continuation ``logprob`` in nats and ``tokens``.
        """
        return [self._score(item["prompt"], item["continuations"]) for item in items]

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
            logits = self._run([window], None)[0, given - 1 : -1]
            nats.append(-_log_probability(logits, window[given:]))
            predicted += len(window) - given
        return {"nats": nats, "tokens": predicted}

    def generate(self, prompts: list[str], max_tokens: int) -> list[str]:
        """Generate greedy answers, up to the first line break."""
        return [self._generate(prompt, max_tokens) for prompt in prompts]

    def prefill_seconds(self, tokens: int, batch: int = 1) -> float:
        """Time reading one or several prompts of so many tokens."""
        ids = timing_ids(tokens, self._model.config.vocab_size)
        start = time.perf_counter()
        self._run([ids] * batch, DynamicCache())
        self._wait()
        return time.perf_counter() - start

    def decode_seconds(self, prompt_tokens: int, tokens: int, batch: int = 1) -> float:
        """Time decoding so many tokens one by one, without the prompt before them."""
        ids = timing_ids(prompt_tokens + tokens, self._model.config.vocab_size)
        cache = DynamicCache()
        self._run([ids[:prompt_tokens]] * batch, cache)
        self._wait()
        start = time.perf_counter()
        for token in ids[prompt_tokens:]:
            self._run([[token]] * batch, cache)
        self._wait()
        return time.perf_counter() - start

    def peak_memory(self) -> int:
        """Return the peak resident memory of this process, in bytes."""
        return peak_memory()

    def _wait(self) -> None:
        """Wait until the GPU has finished."""
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _score(self, prompt: str, continuations: list[str]) -> list[dict[str, float]]:
        ends = [self.tokenize(text) for text in continuations]
        start = self.tokenize(prompt)
        if not start and not self._opening:  # nothing to condition on: the first token is given
            start, ends = ends[0][:1], [ends[0][1:_MOST_TOKENS]]
        room = _MOST_TOKENS - max(map(len, ends))
        if room <= len(self._opening):
            raise RuntimeError(f"prompt and answer exceed {_MOST_TOKENS} tokens: {prompt[-60:]!r}")
        start, cache, scores = begun(start, self._opening, room), DynamicCache(), []
        first = self._run([start], cache)[0, -1:]
        longest = max(map(len, ends)) - 1
        behind = first.new_empty(len(ends), 0, first.shape[1])
        if longest > 0:  # shorter ends are filled up: what is read behind them changes nothing
            cache.batch_repeat_interleave(len(ends))
            rows = [(end[:-1] + (end[-1:] or [0]) * longest)[:longest] for end in ends]
            behind = self._run(rows, cache)
        for row, end in enumerate(ends):
            logits = torch.cat([first, behind[row, : max(len(end) - 1, 0)]])
            scores.append({"logprob": _log_probability(logits, end), "tokens": len(end)})
        return scores

    def _generate(self, prompt: str, max_tokens: int) -> str:
        ids = begun(self.tokenize(prompt), self._opening, _MOST_TOKENS - max_tokens)
        cache, written = DynamicCache(), list[int]()
        logits = self._run([ids], cache)[0]
        while len(written) < max_tokens:
            token = most_likely(logits[-1])
            if token in self._ends:
                break
            written.append(token)
            if "\n" in self._tokenizer.decode(written).lstrip():
                break
            logits = self._run([[token]], cache)[0]
        return self._tokenizer.decode(written).strip().partition("\n")[0]

    def _run(self, rows: list[list[int]], cache: DynamicCache | None) -> Tensor:
        """Compute logits of sequences after those in the cache, (sequences, tokens, vocabulary)."""
        with torch.no_grad():
            found = self._model(
                torch.tensor(rows, device=self._device),
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return found.logits.float()


def _make_semi_structured(model: torch.nn.Module) -> int:
    """Convert 2:4 weights to torch's compressed form, and count them."""
    from torch.sparse import to_sparse_semi_structured

    count = 0
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and is_two_of_four(module.weight):
            weight = to_sparse_semi_structured(module.weight.detach())
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
            count += 1
    return count


def is_two_of_four(weight: Tensor) -> bool:
    """Tell whether every four inputs of every row, (out, in), have at least two zeros."""
    if weight.shape[1] % 4:
        return False
    return bool((weight.unflatten(1, (-1, 4)).count_nonzero(-1) <= 2).all())


def _log_probability(logits: Tensor, tokens: list[int]) -> float:
    """Sum log-likelihoods of tokens, each predicted by its row of ``logits``."""
    return logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)].sum().item()
