"""The tokenizer check: llama.cpp must give the checkpoint's token ids, in many scripts and code.

No text may differ, not even in its spaces: calibration and training use the checkpoint's ids, but
the user's texts get llama.cpp's.
"""

import ctypes
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from edgeprune.models.opening import opening
from edgeprune.support.errors import CheckFailed
from edgeprune.support.extras import load

_Tokenize = Callable[[str, bool], list[int]]
_HINT = (
    "This form of the tokenizer is not supported yet. Give the model as a .gguf file; if it is "
    "one, give the original transformers folder."
)
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
    "(fasting)  105 mg/dL\t 7   24.5\n  3 and\n\n 2",  # spaces before digits
    "x²  ½  ٣  १२  １２ Ⅷ",
    " leading space, trailing space ",
)


def check_same_ids(path: Path, folder: Path) -> None:
    """Compare llama.cpp's token ids with those of the folder's tokenizer.

    Args:
        path: the GGUF file.
        folder: the transformers folder that it was written from, or that was converted from it.

    Raises:
        CheckFailed: a text gives different ids or another BOS, which would silently cost accuracy.
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
            "llama.cpp rejects the exported tokenizer.",
            "Please report it with the model's name.",
        )
    try:
        vocab = api.llama_model_get_vocab(model)
        _compare(partial(_ids, api, vocab), partial(_expected, expected))
    finally:
        api.llama_model_free(model)


def _compare(ours: _Tokenize, theirs: _Tokenize) -> None:
    first, wanted = opening(ours), opening(theirs)
    if first != wanted:
        raise CheckFailed(
            f"llama.cpp begins texts with the tokens {first}, but the checkpoint's tokenizer "
            f"begins them with {wanted}.",
            _HINT,
        )
    for text in TEXTS:
        found, wanted = ours(text, False), theirs(text, False)
        if found != wanted:
            raise CheckFailed(
                f"llama.cpp splits {text!r} into different tokens than the checkpoint's tokenizer: "
                f"{found[:8]}… instead of {wanted[:8]}….",
                _HINT,
            )


def _ids(api: Any, vocab: Any, text: str, special: bool) -> list[int]:
    data = text.encode()
    buffer = (api.llama_token * (2 * len(data) + 8))()
    count = api.llama_tokenize(vocab, data, len(data), buffer, len(buffer), special, False)
    return list(buffer[: max(count, 0)])


def _expected(tokenizer: Any, text: str, special: bool) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=special).ids)


@cache
def _silence() -> Any:
    """A callback for llama.cpp's log, kept for as long as llama.cpp may call it."""
    return load("llama_cpp").llama_cpp.llama_log_callback(lambda *_: None)
