"""Correct the tokenizer of transformers' GGUF loader, so that it splits text as llama.cpp does."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.formats.gguf.file import GgufFile

# Names in `tokenizer.ggml.pre` of tokenizers that set every digit apart before GPT-2's rule cuts
# the rest, as SmolLM2's own tokenizer.json does: one case in llama.cpp. transformers takes them
# for GPT-2's alone, which cuts "  105" into " " and " 1", where the model was trained on "  ", "1".
_DIGITS_APART = (
    "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2",
)  # fmt: skip
# Names of those before whose texts llama.cpp puts a BOS even if the file doesn't say so.
_BEGIN_WITH_BOS = (
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "jina-v5-nano", "tekken", "chameleon",
)  # fmt: skip


def mend(tokenizer: Any, file: "GgufFile") -> None:
    """Make a tokenizer that transformers read from a GGUF file give llama.cpp's token ids.

    Args:
        tokenizer: the tokenizer, changed in place.
        file: the GGUF file it was read from.
    """
    from tokenizers import normalizers
    from tokenizers import pre_tokenizers as steps

    name = file.get("tokenizer.ggml.pre", "")
    if name in _DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = steps.Sequence(
            [steps.Digits(individual_digits=True), steps.ByteLevel(add_prefix_space=False)]
        )
    sentencepiece = file.get("tokenizer.ggml.model") == "llama"
    if sentencepiece and file.get("tokenizer.ggml.add_space_prefix", True):
        # Also before a text that begins with one, where transformers' Metaspace adds none.
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tokenizer.backend_tokenizer.pre_tokenizer = None
    if name in _BEGIN_WITH_BOS and file.get("tokenizer.ggml.add_bos_token") is None:
        tokenizer.add_bos_token = True
