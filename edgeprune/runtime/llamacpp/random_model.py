"""A Llama with random sparse weights as a GGUF file, for the probe, tests and benchmarks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

from edgeprune.formats import forms
from edgeprune.formats.codes import CODES
from edgeprune.planning.grid import FILE_BLOCK


@dataclass(frozen=True)
class Sizes:
    """The sizes of a Llama model.

    Attributes:
        types: ggml's names of the blocks' weight types, one block for each; perhaps with an
            alphabet, such as ``Q4_0:3/64``.
        head_type: type of embedding and output, likewise.
        tied: whether one tensor is both.
    """

    types: tuple[str, ...]
    width: int = 128
    feed_forward: int = 288
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 256
    context: int = 64
    head_type: str = "F32"
    tied: bool = False


def write_random_llama(path: Path, sizes: Sizes, zeros: float) -> None:
    """Write a model whose matrices have a share of ``zeros`` in every row.

    Blocks of one type hold the same numbers, which takes a fraction of the time. There is no
    tokenizer: the model is run with token ids.
    """
    writer = GGUFWriter(path, "llama")
    writer.add_vocab_size(sizes.vocabulary)
    writer.add_tokenizer_model("no_vocab")
    writer.add_context_length(sizes.context)
    writer.add_embedding_length(sizes.width)
    writer.add_block_count(len(sizes.types))
    writer.add_feed_forward_length(sizes.feed_forward)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(sizes.width // sizes.heads)

    counts: dict[str, int] = {}
    alphabets: dict[str, str] = {}

    def add(name: str, data: np.ndarray, kind: str) -> None:
        base, _, alphabet = kind.partition(":")
        writer.add_tensor(f"{name}.weight", data, raw_dtype=GGMLQuantizationType[base])
        if alphabet:
            alphabets[f"{name}.weight"] = alphabet

    chance = np.random.default_rng(0)
    head = _quantised(_random(chance, sizes.vocabulary, sizes.width, 0), sizes.head_type)
    for name in ("token_embd",) if sizes.tied else ("token_embd", "output"):
        add(name, head, sizes.head_type)
    norm = np.ones(sizes.width, np.float32)
    add("output_norm", norm, "F32")
    matrices = {n: _random(chance, *shape, zeros) for n, shape in _shapes(sizes).items()}
    quantised: dict[tuple[str, str], np.ndarray] = {}
    for block, kind in enumerate(sizes.types):
        for name, values in matrices.items():
            if (name, kind) not in quantised:
                quantised[name, kind] = _quantised(values, kind)
            add(f"blk.{block}.{name}", quantised[name, kind], kind)
            counts[f"blk.{block}.{name}.weight"] = int(np.count_nonzero(values))
        add(f"blk.{block}.attn_norm", norm, "F32")
        add(f"blk.{block}.ffn_norm", norm, "F32")
    writer.add_uint32("edgeprune.schema", 1)
    writer.add_float32("edgeprune.sparsity.target", zeros)
    for key in ("sparsity.pattern", "method", "fusion", "task", "base.sha256"):
        writer.add_string(f"edgeprune.{key}", "random")
    writer.add_string("edgeprune.recipe", "{}")
    writer.add_array("edgeprune.sparsity.tensors", list(counts))
    writer.add_array("edgeprune.sparsity.nonzeros", list(counts.values()))
    if alphabets:
        writer.add_array("edgeprune.storage.tensors", list(alphabets))
        writer.add_array("edgeprune.storage.codes", list(alphabets.values()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _quantised(values: np.ndarray, kind: str) -> np.ndarray:
    """Round to nearest, (rows, bytes); of few codes, the largest weight has the outermost."""
    base, _, alphabet = kind.partition(":")
    if not alphabet:
        return quants.quantize(values, GGMLQuantizationType[base])
    form, own = forms.parse(alphabet, base), CODES[base]
    half, blocks = 2 ** (form.bits - 1), values.reshape(-1, form.group * FILE_BLOCK)
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / half).astype(np.float16)
    found = np.rint(blocks / np.maximum(scale, np.float16(1e-6)).astype(np.float32))
    found = found.clip(-half, half if form.masked else half - 1)
    if form.masked:
        found = np.where((found == 0) & (blocks != 0), np.sign(blocks), found)
    codes = (found.astype(np.int8).reshape(-1, FILE_BLOCK) + np.int8(own.zero)).view(np.uint8)
    side = scale.repeat(form.group, axis=0).view(np.uint8)
    return own.join(side, codes).reshape(len(values), -1)


def _shapes(sizes: Sizes) -> dict[str, tuple[int, int]]:
    """Return the shapes of a block's matrices, (out, in)."""
    kv_width = sizes.width // sizes.heads * sizes.kv_heads
    return {
        "attn_q": (sizes.width, sizes.width),
        "attn_k": (kv_width, sizes.width),
        "attn_v": (kv_width, sizes.width),
        "attn_output": (sizes.width, sizes.width),
        "ffn_gate": (sizes.feed_forward, sizes.width),
        "ffn_up": (sizes.feed_forward, sizes.width),
        "ffn_down": (sizes.width, sizes.feed_forward),
    }


def _random(chance: np.random.Generator, rows: int, columns: int, zeros: float) -> np.ndarray:
    """Draw normal numbers, (rows, columns), with the smallest of each row set to zero."""
    values = chance.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)
    count = round(columns * zeros)
    if count:
        size = np.abs(values)
        values[size <= np.partition(size, count - 1, axis=1)[:, count - 1 : count]] = 0
    return values
