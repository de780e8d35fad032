"""The tokenizer gate: the ids of the checkpoint's tokenizer, in many scripts and in code."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from edgeprune.errors import CheckFailed
from edgeprune.extras import load

TEXTS = (
    "Question: Which vitamin?\nAnswer: vitamin B12, 1984 or 3.14159",
    "The patient’s blood pressure is 132/76 mmHg; temperature 97.7°F. It's, we'll, I'VE",
    "def f(x):\n\treturn {'a': x ** 2}  # comment\n\n\n    pass\r\n",
    "for (int i = 0; i < 10; ++i) { a[i] += 0x1F << 2; }  // C++",
    "Straße, café, naïve, Übung, œuvre",
    "Привет, как дела?",
    "Γειά σου Κόσμε",
    "日本語のテキスト、漢字とかな",
    "中文文本，没有空格",
    "한국어 문장입니다",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "emoji 👩‍⚕️🩺 and   spaces   \t tabs",
    " leading space, trailing space ",
)


def check_same_ids(path: Path, folder: Path) -> None:
    """Compare llama.cpp's token ids with those of the folder's tokenizer.

    Args:
        path: the GGUF file.
        folder: the transformers folder it was written from.

    Raises:
        CheckFailed: a text gives other ids, which would cost accuracy without a word.
        MachineError: llama-cpp-python or transformers is not installed.
    """
    api = load("llama_cpp").llama_cpp
    expected = load("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    api.llama_log_set(_silence(), ctypes.c_void_p(0))
    params = api.llama_model_default_params()
    params.vocab_only = True
    model = api.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise CheckFailed(
            "llama.cpp refuses the tokenizer that was written.",
            "Please report it with the model's name.",
        )
    try:
        vocab = api.llama_model_get_vocab(model)
        for text in TEXTS:
            data = text.encode()
            buffer = (api.llama_token * (2 * len(data) + 8))()
            count = api.llama_tokenize(vocab, data, len(data), buffer, len(buffer), False, False)
            ours = list(buffer[: max(count, 0)])
            theirs = expected.encode(text, add_special_tokens=False).ids
            if ours != theirs:
                raise CheckFailed(
                    f"llama.cpp cuts {text!r} into other tokens than the checkpoint's tokenizer: "
                    f"{ours[:8]}… instead of {theirs[:8]}….",
                    "Its tokenizer isn't supported yet; give the model as a .gguf file.",
                )
    finally:
        api.llama_model_free(model)


@cache
def _silence() -> Any:
    """A callback for llama.cpp's log, kept for as long as llama.cpp may call it."""
    return load("llama_cpp").llama_cpp.llama_log_callback(lambda *_: None)
