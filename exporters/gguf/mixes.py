"""llama.cpp's rules for which tensors get more bits (llama-quant.cpp), and mixes that keep zeros.

Heads, embeddings, value and down projections lose most with few bits.
"""

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edgeprune.planning.types import WeightType

_T = GGMLQuantizationType
_ZERO_SAFE = {_T.Q4_K: _T.Q4_0, _T.Q5_K: _T.Q5_0}
# Where a row doesn't divide into blocks of 256: what llama.cpp takes, or for Q3_K, the nearest that
# keeps zeros.
_SMALL_BLOCKS = {
    _T.Q2_K: _T.IQ4_NL, _T.Q3_K: _T.Q4_0, _T.Q4_K: _T.Q5_0, _T.Q5_K: _T.Q5_1, _T.Q6_K: _T.Q8_0,
    _T.IQ4_XS: _T.IQ4_NL, _T.IQ3_S: _T.IQ4_NL, _T.IQ3_XXS: _T.IQ4_NL, _T.IQ2_S: _T.IQ4_NL,
    _T.IQ2_XS: _T.IQ4_NL, _T.IQ2_XXS: _T.IQ4_NL, _T.IQ1_M: _T.IQ4_NL, _T.IQ1_S: _T.IQ4_NL,
    _T.TQ1_0: _T.Q4_0, _T.TQ2_0: _T.Q4_0,
}  # fmt: skip
_WIDE = (_T.F32, _T.F16, _T.BF16, _T.Q8_0)


def storage_type(
    wanted: WeightType, name: str, columns: int, blocks: int, tied: bool
) -> GGMLQuantizationType:
    """Choose a matrix' type.

    Args:
        wanted: type set by the user.
        name: the tensor's name in the GGUF file.
        columns: length of its rows.
        blocks: number of decoder blocks.
        tied: whether the embedding is also the output head.
    """
    base = _T[wanted.base]
    if name == "output.weight" or (name == "token_embd.weight" and (tied or not wanted.mix)):
        kind = base if base in _WIDE else _T.Q6_K
    elif wanted.mix:
        kind = _by_rule(wanted.mix, name, blocks) or base
        if wanted.keeps_zeros:
            kind = _ZERO_SAFE.get(kind, kind)
    else:
        kind = base
    return fitting(kind, columns)


def fitting(kind: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    """Return the type, or the nearest whose blocks divide a row."""
    if columns % GGML_QUANT_SIZES[kind][0]:
        kind = _SMALL_BLOCKS.get(kind, _T.F16)
    return kind if columns % GGML_QUANT_SIZES[kind][0] == 0 else _T.F16


def _by_rule(mix: str, name: str, blocks: int) -> GGMLQuantizationType | None:
    """Return the type of a tensor that does not get the mix' base type; None: the base."""
    if not name.startswith("blk."):
        return None
    _, number, role, _ = name.split(".", 3)
    index = int(number)
    more = index < blocks // 8 or index >= 7 * blocks // 8 or (index - blocks // 8) % 3 == 2
    first_eighth = index < blocks // 8
    rules = {
        ("Q5_K_M", "attn_v"): _T.Q6_K if more else None,
        ("Q5_K_M", "ffn_down"): _T.Q6_K if more else None,
        ("Q5_K_M", "attn_qkv"): _T.Q6_K,
        ("Q4_K_M", "attn_v"): _T.Q6_K if more else None,
        ("Q4_K_M", "ffn_down"): _T.Q6_K if more else None,
        ("Q4_K_M", "attn_qkv"): _T.Q5_K,
        ("Q4_K_S", "attn_v"): _T.Q5_K if index < 4 else None,
        ("Q4_K_S", "ffn_down"): _T.Q5_K if first_eighth else None,
        ("Q3_K_M", "attn_v"): _T.Q5_K if index < 2 else _T.Q4_K,
        ("Q3_K_M", "ffn_down"): _T.Q5_K if index < blocks // 16 else _T.Q4_K,
        ("Q3_K_M", "attn_output"): _T.Q4_K,
        ("Q3_K_M", "attn_qkv"): _T.Q4_K,
    }
    return rules.get((mix, role))
