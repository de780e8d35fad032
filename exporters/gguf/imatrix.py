"""Write importance matrices in llama.cpp's format, for task-aware quantisation elsewhere."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from edgeprune.support.files import atomic_path
from exporters.base import Model
from exporters.gguf.plan import PlannedTensor


def write_imatrix(
    path: Path, model: Model, tensors: list[PlannedTensor], data_sets: list[str]
) -> bool:
    """Write calibration statistics of each tensor's input, for `llama-quantize --imatrix`.

    llama.cpp divides the sum of squares by the count of tokens; calibration holds the mean, of both
    streams where both were joined, so the count is 1.

    Args:
        path: file to write.
        model: model with its calibration tensors.
        tensors: tensors of the exported file.
        data_sets: names of the calibration data.

    Returns:
        Whether there was anything to write.
    """
    seen = {
        tensor.name: model.calibration.read(key).float().numpy()
        for tensor in tensors
        if (key := f"{tensor.source}.importance") in model.calibration
    }
    if not seen:
        return False
    with atomic_path(path) as temporary:
        writer = GGUFWriter(temporary, "")
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", data_sets)
        writer.add_uint32("imatrix.chunk_count", 1)
        writer.add_uint32("imatrix.chunk_size", 1)
        for name, importance in seen.items():
            writer.add_tensor(f"{name}.in_sum2", importance[None])
            writer.add_tensor(f"{name}.counts", np.ones((1, 1), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return True
