"""A conversation with a GGUF model through llama-cpp-python."""

import json
from collections.abc import Iterator
from pathlib import Path

from jinja2 import TemplateError

from edgeprune.formats.chat import as_call, plain_call
from edgeprune.formats.gguf.packed import open_any
from edgeprune.runtime import enable
from edgeprune.runtime.llamacpp.calls import App, CallHandler
from edgeprune.support.environment import cores
from edgeprune.support.errors import InputError
from edgeprune.support.extras import load


class Chat:
    """A loaded model and the conversation so far.

    Args:
        path: a GGUF file with a chat template.
        context: context length in tokens.
        app: functions that the model may call; a call is answered as its JSON.

    Raises:
        InputError: the file cannot be used or has no chat template.
    """

    def __init__(self, path: Path, context: int, app: App | None = None):
        if "tokenizer.chat_template" not in open_any(path):
            raise InputError(f"{path} has no chat template.", "Use an instruction-tuned model.")
        llama_cpp = load("llama_cpp")
        enable()
        try:
            self._llama = llama_cpp.Llama(
                str(path),
                n_ctx=context,
                n_threads=cores(),
                verbose=False,
                chat_handler=CallHandler(app) if app else None,
            )
        except (ValueError, TemplateError) as error:
            raise InputError(f"llama.cpp cannot load {path}: {error}.") from None
        self._messages: list[dict[str, str]] = []

    def answer(
        self, question: str, max_tokens: int, temperature: float, repeat_penalty: float = 1.0
    ) -> Iterator[str]:
        """Stream an answer piece by piece.

        Args:
            question: what the user says.
            max_tokens: of the answer.
            temperature: of sampling; 0 is greedy.
            repeat_penalty: divides logits of the last 64 tokens, as llama.cpp does; 1: none.

        Raises:
            InputError: the context is full, or the model's template fails.
        """
        self._messages.append({"role": "user", "content": question})
        pieces = []
        try:
            for part in self._llama.create_chat_completion(
                self._messages,
                max_tokens=max_tokens,
                temperature=temperature,
                repeat_penalty=repeat_penalty,
                stream=True,
            ):
                delta = part["choices"][0]["delta"]
                calls = [call["function"] for call in delta.get("tool_calls") or []]
                called = (as_call(c["name"], json.loads(c["arguments"])) for c in calls)
                for piece in (delta.get("content") or "", *map(plain_call, called)):
                    pieces.append(piece)
                    yield piece
        except InputError:
            raise
        except ValueError as error:  # llama-cpp-python's word for a full context
            raise InputError(
                f"The model cannot continue: {error}.", "Use a larger --context."
            ) from None
        except TemplateError as error:
            raise InputError(f"The model's chat template failed: {error}.") from None
        self._messages.append({"role": "assistant", "content": "".join(pieces)})
