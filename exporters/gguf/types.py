"""ggml's weight types by name: which can hold an exact zero, and which mixes are made of them.

Symmetric types keep zeros; types with a minimum (scale × level − minimum) or a codebook do not:
docs/measured/gguf.md has the measurement.
"""

from edgeprune.planning.stored import dense, sparse
from edgeprune.planning.types import WeightType, keeps_zeros, narrow


def _lossy(instead: str, *names: str) -> dict[str, WeightType]:
    return {name: WeightType(name.upper(), keeps_zeros=False, instead=instead) for name in names}


# The `z` mixes follow llama.cpp's K mixes tensor by tensor, with the type of the same size that
# keeps zeros in place of each that doesn't: Q4_0 for Q4_K, Q5_0 for Q5_K.
TYPES: dict[str, WeightType] = {
    **keeps_zeros("f32", "f16", "bf16", "q8_0", "q6_k", "q5_0", "q4_0", "q3_k", "mxfp4", "nvfp4"),
    **keeps_zeros("tq2_0", "tq1_0"),
    **narrow("q4_0", "q8_0"),
    "z5_m": WeightType("Q5_0", keeps_zeros=True, mix="Q5_K_M"),
    "z4_m": WeightType("Q4_0", keeps_zeros=True, mix="Q4_K_M"),
    "z4_s": WeightType("Q4_0", keeps_zeros=True, mix="Q4_K_S"),
    "z3_m": WeightType("Q3_K", keeps_zeros=True, mix="Q3_K_M"),
    "mxfp4_m": WeightType("MXFP4", keeps_zeros=True, mix="Q4_K_M"),
    "q5_k_m": WeightType("Q5_K", keeps_zeros=False, instead="z5_m", mix="Q5_K_M"),
    "q4_k_m": WeightType("Q4_K", keeps_zeros=False, instead="z4_m", mix="Q4_K_M"),
    "q4_k_s": WeightType("Q4_K", keeps_zeros=False, instead="z4_s", mix="Q4_K_S"),
    "q3_k_m": WeightType("Q3_K", keeps_zeros=False, instead="z3_m", mix="Q3_K_M"),
    **_lossy("q5_0", "q5_1", "q5_k"),
    **_lossy("q4_0", "q4_1", "q4_k", "iq4_nl"),
    **_lossy("mxfp4", "iq4_xs"),
    **_lossy("q3_k", "q2_k", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s"),
}

# What the compiler chooses from, by runtime: stock llama.cpp reads plain types alone.
CHOICES = {
    "stock": dense("q8_0", "q5_0", "q4_0"),
    "edgeprune": (
        *dense("q8_0", "q5_0", "q4_0", "q4_0:3", "q4_0:3/64", "q4_0:2/64"),
        *sparse("q4_0", 0.5, "2:4"),
        *sparse("q4_0:3+mask/64", 0.5),
        *sparse("q4_0:2+mask/64", 0.33, 0.5, 0.6),
    ),
}
