"""A client of an OpenAI-style server that times what its users wait for."""

import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgeprune.formats.chat import Function, Message
from edgeprune.support.errors import MachineError
from edgeprune.support.extras import load
from runtime_tests.child import patience

# Servers of llama.cpp and vLLM know some of these; others refuse what they do not know.
_WISHES = {"ignore_eos": True, "cache_prompt": False, "stream_options": {"include_usage": True}}
_WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work night point"
)
_FIT = 0.02  # prompts differ by no more than this share from the length that is asked for
_TRIES = 3


@dataclass(frozen=True)
class _Answer:
    """One streamed completion: seconds to its first and its last token, and how many there were."""

    first: float
    last: float
    tokens: int


class Client:
    """Completions of one server, one after the other.

    Prompts are random words, another one each time, since servers keep what they have read.

    Args:
        address: of the server, with or without ``/v1``. Its key is in ``OPENAI_API_KEY``.
    """

    def __init__(self, address: str):
        httpx = load("httpx")
        self.address = address.rstrip("/").removesuffix("/v1")
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        # A connection for each request: servers close those that wait for their turn.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(base_url=self.address, headers=headers, limits=limits)
        self._refused = httpx.HTTPError
        self._chance, self._words = random.Random(0), dict[int, int]()
        self._wishes: dict[str, Any] = dict(_WISHES)

    def close(self) -> None:
        """Let go of its connections."""
        self._http.close()

    def is_ready(self) -> bool:
        """Whether it answers requests by now."""
        try:
            answer = self._http.get("/health", timeout=5.0)
            if answer.status_code == 404:  # only llama.cpp's and vLLM's tell
                answer = self._http.get("/v1/models", timeout=5.0)
        except self._refused:
            return False
        return bool(answer.is_success)

    def first_token_seconds(self, prompt_tokens: int) -> float:
        """Seconds to the first token behind a prompt of about so many tokens."""
        return self._ask(prompt_tokens, 1).first

    def decode_seconds(self, prompt_tokens: int, tokens: int) -> float:
        """Seconds of so many tokens behind the first one, at the pace of those that came.

        Raises:
            MachineError: every answer ended with its first token.
        """
        for _ in range(_TRIES):
            found = self._ask(prompt_tokens, tokens + 1)
            if found.tokens > 1:
                return (found.last - found.first) * tokens / (found.tokens - 1)
        raise MachineError(f"{self.address} answers with one token, and has no pace.")

    def complete(self, prompt: str, max_tokens: int, stop: Sequence[str]) -> str:
        """Complete a text greedily."""
        asked = {"prompt": prompt, **self._greedily(max_tokens, stop)}
        answer = self._sent("/v1/completions", asked, patience({"tokens": max_tokens}))
        return str(self._choice(answer).get("text") or "")

    def chat(
        self, messages: Sequence[Message], tools: Sequence[Function], max_tokens: int,
        stop: Sequence[str],
    ) -> Message:  # fmt: skip
        """Ask for the assistant's next message, greedily, in OpenAI's form."""
        asked = {"messages": list(messages), **self._greedily(max_tokens, stop)}
        if tools:
            asked["tools"] = list(tools)
        answer = self._sent("/v1/chat/completions", asked, patience({"tokens": max_tokens}))
        return dict(self._choice(answer).get("message") or {})

    def _greedily(self, max_tokens: int, stop: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "model": self._model, "max_tokens": max_tokens, "temperature": 0,
        }  # fmt: skip
        return found | ({"stop": list(stop)} if stop else {})

    def _choice(self, answer: dict[str, Any]) -> dict[str, Any]:
        choices = answer.get("choices")
        if not choices:
            raise self._failed("its answer has no choices")
        return dict(choices[0])

    @cached_property
    def _model(self) -> str:
        """The model that it serves: some servers want to be told."""
        answer = self._http.get("/v1/models", timeout=30.0)
        served = answer.json().get("data") if answer.is_success else None
        return served[0]["id"] if served else "default"

    def _ask(self, prompt_tokens: int, tokens: int) -> _Answer:
        """Ask for a completion of a prompt of about so many tokens."""
        if prompt_tokens not in self._words:
            self._words[prompt_tokens] = self._fitted(prompt_tokens)
        limit = patience({"prompt_tokens": prompt_tokens, "tokens": tokens})
        return self._streamed(self._prompt(self._words[prompt_tokens]), tokens, limit)

    def _fitted(self, prompt_tokens: int) -> int:
        """Find how many words are a prompt of about so many tokens."""
        words = prompt_tokens
        for _ in range(_TRIES):
            body = {"model": self._model, "prompt": self._prompt(words), "max_tokens": 1}
            answer = self._sent("/v1/completions", body, patience({"tokens": prompt_tokens}))
            read = (answer.get("usage") or {}).get("prompt_tokens")
            if not read:
                raise MachineError(
                    f"{self.address} does not say how many tokens it read ('usage'), so its speed "
                    "is not known."
                )
            if abs(read / prompt_tokens - 1) <= _FIT:
                break
            words = max(1, round(words * prompt_tokens / read))
        return words

    def _prompt(self, words: int) -> str:
        return " ".join(self._chance.choices(_WORDS.split(), k=words))

    def _sent(self, path: str, body: dict[str, Any], limit: float) -> dict[str, Any]:
        try:
            answer = self._http.post(path, json=body, timeout=limit)
        except self._refused as error:
            raise self._failed(str(error) or type(error).__name__) from None
        if not answer.is_success:
            raise self._failed(f"{answer.status_code} {answer.text[:200]}")
        found: dict[str, Any] = answer.json()
        return found

    def _streamed(self, prompt: str, tokens: int, limit: float) -> _Answer:
        body = {
            "model": self._model, "prompt": prompt, "max_tokens": tokens, "temperature": 0,
            "stream": True,
        }  # fmt: skip
        start, times, counted = time.perf_counter(), [], 0
        try:
            with self._http.stream(
                "POST", "/v1/completions", json=body | self._wishes, timeout=limit
            ) as answer:
                if answer.status_code in (400, 422) and self._wishes:
                    self._wishes = {}
                    return self._streamed(prompt, tokens, limit)
                if not answer.is_success:
                    raise self._failed(f"{answer.status_code} {answer.read().decode()[:200]}")
                for event in _events(answer.iter_lines()):
                    if "error" in event:
                        raise self._failed(str(event["error"]))
                    if any(choice.get("text") for choice in event.get("choices", ())):
                        times.append(time.perf_counter() - start)
                    counted = (event.get("usage") or {}).get("completion_tokens") or counted
        except self._refused as error:
            raise self._failed(str(error) or type(error).__name__) from None
        if not times:
            raise self._failed("its answer was empty")
        return _Answer(times[0], times[-1], counted or len(times))

    def _failed(self, why: str) -> MachineError:
        return MachineError(f"{self.address} did not complete a prompt: {why}.")


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Parse server-sent events, up to the one that ends them."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)
