"""Write tokenizer and chat template so that llama.cpp gives the same token ids."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.models.opening import opening
from edgeprune.support.errors import InputError
from edgeprune.support.extras import load

if TYPE_CHECKING:
    from gguf import GGUFWriter

_DIGITS = {"type": "Digits", "individual_digits": True}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How text is cut before merging -> llama.cpp's name for it.
_SPLITS = {
    _CONTRACTIONS + r"|\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + r"|\p{N}" + _REST: "qwen2",
}
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_NEVER_MERGED = -1e6
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>$")


def check_tokenizer(folder: Path) -> None:
    """Reject a folder whose tokenizer cannot be written.

    Raises:
        InputError: as `write_from_folder`.
    """
    tokenizer = _read(folder)
    if not _is_sentencepiece(tokenizer):
        _pre_tokenizer_name(tokenizer, folder)


def write_from_folder(writer: "GGUFWriter", folder: Path, vocab_size: int) -> None:
    """Write the tokenizer of a transformers folder: byte-level BPE, or SentencePiece's BPE.

    Raises:
        InputError: another kind of tokenizer, or a pre-tokenizer that llama.cpp has no name for.
    """
    from gguf import SpecialVocab

    tokenizer = _read(folder)
    tokens, types = _tokens(tokenizer, vocab_size)
    sentencepiece = _is_sentencepiece(tokenizer)
    if sentencepiece:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokenizer, tokens))
        writer.add_add_space_prefix(_adds_space(tokenizer))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer_name(tokenizer, folder))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    special = SpecialVocab(folder, load_merges=not sentencepiece, n_vocab=len(tokens))
    # The library goes by tokenizer_config.json first, which transformers itself leaves unread where
    # there is a tokenizer.json; and llama.cpp adds a BOS of its own accord where nothing is said.
    first = opening_of(folder)
    special.add_special_token["bos"] = bool(first)
    special.special_token_ids |= {"bos": first[0]} if first else {}
    special.add_to_gguf(writer, quiet=True)


def opening_of(folder: Path) -> list[int]:
    """Find what the folder's tokenizer puts before a text."""
    tokenizer = load("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    return opening(lambda text, special: tokenizer.encode(text, add_special_tokens=special).ids)


def _is_sentencepiece(tokenizer: dict[str, Any]) -> bool:
    """Tell whether it came from SentencePiece: unknown characters fall back to bytes."""
    return bool(tokenizer["model"].get("byte_fallback"))


def _scores(tokenizer: dict[str, Any], tokens: list[str]) -> list[float]:
    """Compute llama.cpp's merge scores: the earlier a token is made, the higher its score."""
    rank: dict[str, int] = {}
    for index, merge in enumerate(tokenizer["model"]["merges"]):
        made = "".join(merge.split(" ") if isinstance(merge, str) else merge)
        rank.setdefault(made, index)
    return [float(-rank[token]) if token in rank else _NEVER_MERGED for token in tokens]


def _adds_space(tokenizer: dict[str, Any]) -> bool:
    """Tell whether the normaliser or the pre-tokenizer puts a space before the text."""
    normalizer = tokenizer.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    metaspace = tokenizer.get("pre_tokenizer") or {}
    prepends = metaspace.get("type") == "Metaspace" and metaspace.get("prepend_scheme") != "never"
    return prepends or any(step.get("type") == "Prepend" for step in steps)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    try:
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        kind = tokenizer["model"]["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as a tokenizer: {error}.") from None
    if kind != "BPE":
        raise InputError(f"{path}: the GGUF exporter does not support this {kind} tokenizer yet.")
    return tokenizer


def _pre_tokenizer_name(tokenizer: dict[str, Any], folder: Path) -> str:
    """Find llama.cpp's name of the pre-tokenizer, which splits text before merging.

    A wrong name gives wrong ids without an error, so an unknown one is rejected.
    """
    steps = tokenizer.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers", [steps])
    if _DIGITS in parts and any(part.get("type") == "ByteLevel" for part in parts):
        return "smollm"  # also in the published GGUF: the same ids, spaces before digits too
    patterns = [part.get("pattern", {}).get("Regex") for part in parts]
    if patterns[0] in _SPLITS:
        return _SPLITS[patterns[0]]
    if len(parts) == 1 and parts[0].get("type") == "ByteLevel" and parts[0].get("use_regex", True):
        return "gpt-2"
    raise InputError(
        f"{folder / 'tokenizer.json'}: unknown pre-tokenizer.",
        "Supported: those of GPT-2, SmolLM, Llama 3, Qwen 2 and SentencePiece. Or give the "
        "model as a .gguf file, whose tokenizer is kept.",
    )


def _tokens(tokenizer: dict[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    model = tokenizer["model"]
    by_id = {index: (token, _NORMAL) for token, index in model["vocab"].items()}
    if _is_sentencepiece(tokenizer):
        by_id |= {
            index: (token, _BYTE) for index, (token, _) in by_id.items() if _BYTE_TOKEN.match(token)
        }
    for added in tokenizer.get("added_tokens", []):
        kind = _CONTROL if added.get("special") else _USER_DEFINED
        kind = _UNKNOWN if added["content"] == model.get("unk_token") else kind
        by_id[added["id"]] = (added["content"], kind)
    # As many as the embedding has rows: llama.cpp holds one against the other. Gemma 3's text
    # models have a token for images beyond their last row.
    rows = [by_id.get(index, (f"[PAD{index}]", _UNUSED)) for index in range(vocab_size)]
    return [token for token, _ in rows], [kind for _, kind in rows]
