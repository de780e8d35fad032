"""Weight types of ONNX models: integers have one scale for a block of a row, and a code of zero."""

from edgeprune.plan.types import keeps_zeros

TYPES = keeps_zeros("fp32", "fp16", "int8", "int4")
