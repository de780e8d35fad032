"""Checkpoints with virtual tokens: control tokens of the vocabulary that the chat template puts in.

Any runtime reads them as it reads every other token (SPRING, arXiv 2405.19670).
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.formats.chat import ChatFormat
from edgeprune.formats.weights import Weights, save_tensors
from edgeprune.models.checkpoint import Checkpoint
from edgeprune.models.loading import load_tokenizer
from edgeprune.planning.tensors import Role, role_of
from edgeprune.support.errors import InputError
from edgeprune.support.files import atomic_folder, write_json

if TYPE_CHECKING:
    from torch import Tensor

_NAME = "<|edgeprune_{}|>"
_BOS = re.compile(r"\{\{-?\s*bos_token\s*-?\}\}")
_ASKED = [{"role": "user", "content": "?"}]


@dataclass(frozen=True)
class VirtualTokenizer:
    """A tokenizer with virtual tokens, which its chat template puts before every chat.

    Attributes:
        tokenizer: transformers' tokenizer.
        ids: of the virtual tokens, in a row.
    """

    tokenizer: Any
    ids: range


def virtual_tokenizer(base: Checkpoint, count: int) -> VirtualTokenizer:
    """Add virtual tokens to a checkpoint's tokenizer and chat template.

    Raises:
        InputError: there is no chat template, or it can't be extended.
    """
    from tokenizers import AddedToken

    tokenizer = load_tokenizer(base)
    template = getattr(tokenizer, "chat_template", None)
    if not isinstance(template, str):
        raise InputError(
            f"{base.source} has no chat template, which virtual tokens stand in.",
            "Take an instruction-tuned model, or leave training.virtual_tokens out.",
        )
    names = [_NAME.format(number) for number in range(count)]
    tokenizer.add_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True
    )
    tokenizer.chat_template = with_prefix(template, "".join(names), tokenizer.special_tokens_map)
    first, *_ = found = tokenizer.convert_tokens_to_ids(names)
    assert found == list(range(first, first + count))
    return VirtualTokenizer(tokenizer, range(first, first + count))


def with_prefix(template: str, prefix: str, special: dict[str, str]) -> str:
    """Return a chat template that begins with a text, behind the BOS if it writes one.

    Raises:
        InputError: the template does more at its beginning than can be seen.
    """
    bos = _BOS.search(template)
    at = bos.end() if bos else 0
    found = f"{template[:at]}{prefix}{template[at:]}"
    plain = ChatFormat(template, special).text(_ASKED, asks=True)
    begins = len(special.get("bos_token", "")) if bos else 0
    if ChatFormat(found, special).text(_ASKED, asks=True) != (
        plain[:begins] + prefix + plain[begins:]
    ):
        raise InputError(
            "The model's chat template has no place for virtual tokens at its beginning.",
            "Leave training.virtual_tokens out, or simplify the template.",
        )
    return found


def write_extended(
    base: Checkpoint, weights: Weights, virtual: VirtualTokenizer, rows: "Tensor", folder: Path
) -> None:
    """Write a transformers folder of a model with virtual tokens.

    Args:
        base: the model's checkpoint.
        weights: the model's weights.
        virtual: its tokenizer.
        rows: (tokens, width), of the embedding, and of the head if that is the same tensor.
        folder: is written; one that is there is kept.
    """
    import torch

    def longer(matrix: "Tensor", own: "Tensor") -> "Tensor":
        """Put rows at their places; others that are new are never read."""
        size = max(len(matrix), virtual.ids.stop)
        found = torch.cat([matrix, matrix.mean(0).expand(size - len(matrix), -1)])
        found[virtual.ids.start : virtual.ids.stop] = own.to(matrix.dtype)
        return found

    tensors = {name: weights.read(name) for name in weights.names()}
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    for name, tensor in tensors.items():
        role = role_of(name, tuple(tensor.shape))
        if role in (Role.EMBEDDING, Role.HEAD):
            # A head of its own does not say them: as likely as the mean of all tokens.
            own = rows if role == Role.EMBEDDING else tensor.mean(0).expand(len(rows), -1)
            tensors[name] = longer(tensor, own)
            config["vocab_size"] = len(tensors[name])
    with atomic_folder(folder) as temporary:
        virtual.tokenizer.save_pretrained(temporary)
        write_json(temporary / "config.json", config)
        generation = base.folder / "generation_config.json"
        if generation.is_file():
            shutil.copy(generation, temporary)
        save_tensors(temporary / "model.safetensors", tensors, {"format": "pt"})
