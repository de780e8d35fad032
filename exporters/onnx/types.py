"""Weight types of ONNX models: integers have one scale per block of a row, and a zero code."""

from edgeprune.planning.grid import FILE_BLOCK
from edgeprune.planning.stored import dense, sparse
from edgeprune.planning.types import keeps_zeros, narrow

# How many weights share a scale is `artifact.block_size`, with fewer codes too.
TYPES = keeps_zeros("fp32", "fp16", "int8", "int4") | narrow("int8", "int4", scales=(FILE_BLOCK,))

# What the compiler chooses from, by runtime.
CHOICES = {
    "stock": dense("int8", "int4"),
    "edgeprune": (
        *dense("int8", "int4", "int4:3", "int4:2"),
        *sparse("int4", 0.5, "2:4"),
        *sparse("int4:2+mask", 0.5),
    ),
}
