"""A conversation with a GGUF model through llama-cpp-python."""

from collections.abc import Iterator
from pathlib import Path

from jinja2 import TemplateError

from edgeprune.formats.gguf.packed import open_any
from edgeprune.runtime import enable
from edgeprune.support.environment import cores
from edgeprune.support.errors import InputError
from edgeprune.support.extras import load


class Chat:
    """A loaded model and the conversation so far.

    Args:
        path: a GGUF file with a chat template.
        context: context length in tokens.

    Raises:
        InputError: the file cannot be used or has no chat template.
    """

    def __init__(self, path: Path, context: int):
        if "tokenizer.chat_template" not in open_any(path):
            raise InputError(f"{path} has no chat template.", "Use an instruction-tuned model.")
        llama_cpp = load("llama_cpp")
        enable()
        try:
            self._llama = llama_cpp.Llama(
                str(path), n_ctx=context, n_threads=cores(), verbose=False
            )
        except (ValueError, TemplateError) as error:
            raise InputError(f"llama.cpp cannot load {path}: {error}.") from None
        self._messages: list[dict[str, str]] = []

    def answer(self, question: str, max_tokens: int, temperature: float) -> Iterator[str]:
        """Stream an answer piece by piece.

        Raises:
            InputError: the context is full, or the model's template fails.
        """
        self._messages.append({"role": "user", "content": question})
        pieces = []
        try:
            for part in self._llama.create_chat_completion(
                self._messages, max_tokens=max_tokens, temperature=temperature, stream=True
            ):
                piece = part["choices"][0]["delta"].get("content") or ""
                pieces.append(piece)
                yield piece
        except ValueError as error:  # llama-cpp-python's word for a full context
            raise InputError(
                f"The model cannot continue: {error}.", "Use a larger --context."
            ) from None
        except TemplateError as error:
            raise InputError(f"The model's chat template failed: {error}.") from None
        self._messages.append({"role": "assistant", "content": "".join(pieces)})
