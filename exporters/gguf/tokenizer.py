"""Tokenizer and chat template, complete enough that llama.cpp gives the same token ids."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import InputError
from edgeprune.sparsity.gguf_file import field

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

_DIGITS = {"type": "Digits", "individual_digits": True}
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5


def copy_fields(
    writer: "GGUFWriter", source: "GGUFReader", prefix: str, except_for: tuple[str, ...] = ()
) -> None:
    """Copy all metadata under a prefix as it stands in another GGUF file, arrays included."""
    from gguf import GGUFValueType

    for key, found in source.fields.items():
        if key.startswith(prefix) and key not in except_for:
            kind = found.types[0]
            item = found.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(key, field(source, key), kind, item)


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder whose tokenizer can't be written.

    Raises:
        InputError: as `write_from_folder`.
    """
    _pre_tokenizer_name(_read(folder), folder)


def write_from_folder(writer: "GGUFWriter", folder: Path, vocab_size: int) -> None:
    """Write the tokenizer of a transformers folder (byte-level BPE).

    Raises:
        InputError: another kind of tokenizer, or a pre-tokenizer llama.cpp has no name for.
    """
    from gguf import SpecialVocab

    tokenizer = _read(folder)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer_name(tokenizer, folder))
    tokens, types = _tokens(tokenizer, vocab_size)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    special = SpecialVocab(folder, load_merges=True, n_vocab=len(tokens))
    special.add_to_gguf(writer, quiet=True)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    try:
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        kind = tokenizer["model"]["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} can't be read as a tokenizer: {error}.") from None
    if kind != "BPE" or tokenizer["model"].get("byte_fallback"):
        raise InputError(f"{path}: the GGUF exporter doesn't know this {kind} tokenizer yet.")
    return tokenizer


def _pre_tokenizer_name(tokenizer: dict[str, Any], folder: Path) -> str:
    """llama.cpp's name for how text is cut before merging.

    A wrong name gives wrong ids without an error, so an unknown one is refused.
    """
    steps = tokenizer.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers", [steps])
    if _DIGITS in parts and any(part.get("type") == "ByteLevel" for part in parts):
        return "smollm"
    patterns = [part.get("pattern", {}).get("Regex") for part in parts]
    if patterns[0] == _LLAMA3_SPLIT:
        return "llama-bpe"
    if len(parts) == 1 and parts[0].get("type") == "ByteLevel" and parts[0].get("use_regex", True):
        return "gpt-2"
    raise InputError(
        f"{folder / 'tokenizer.json'}: llama.cpp has no known name for this pre-tokenizer.",
        "Known: GPT-2's, SmolLM's and Llama 3's. Or give the model as a .gguf file, whose "
        "tokenizer is kept.",
    )


def _tokens(tokenizer: dict[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    by_id = {index: (token, _NORMAL) for token, index in tokenizer["model"]["vocab"].items()}
    for added in tokenizer.get("added_tokens", []):
        kind = _CONTROL if added.get("special") else _USER_DEFINED
        by_id[added["id"]] = (added["content"], kind)
    size = max(vocab_size, max(by_id) + 1)
    rows = [by_id.get(index, (f"[PAD{index}]", _UNUSED)) for index in range(size)]
    return [token for token, _ in rows], [kind for _, kind in rows]
