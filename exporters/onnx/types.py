"""Weight types of ONNX models: integers have one scale per block of a row, and a zero code."""

from edgeprune.planning.types import keeps_zeros

TYPES = keeps_zeros("fp32", "fp16", "int8", "int4")
