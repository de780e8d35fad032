"""Matrices of the kernels' types, and what the kernels round."""

import numpy as np
from gguf import GGMLQuantizationType, quants

BLOCK, TILE = 32, 16


def matrix(kind, rows, cols, density, seed=0):
    """A GGUF tensor's bytes, (rows, bytes), and its values in float64."""
    chance = np.random.default_rng(seed)
    values = chance.standard_normal((rows, cols)).astype(np.float32)
    values[chance.random((rows, cols)) >= density] = 0
    data = quants.quantize(values, GGMLQuantizationType[kind])
    return data, quants.dequantize(data, GGMLQuantizationType[kind]).astype(np.float64)


def rounded(x):
    """Activations as they meet 8- and 4-bit weights: 8 bits, one half-precision scale per 32."""
    blocks = x.reshape(len(x), -1, BLOCK)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    codes = np.rint(blocks * (np.float32(127) / np.where(largest > 0, largest, 1)))
    scales = (largest / np.float32(127)).astype(np.float16)
    return (codes.astype(np.float64) * scales).reshape(x.shape)
