"""Encode tensors as bytes: one thread pool works on parts of them, ahead of the writer."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edgeprune.planning.grid import Grid
from exporters.base import Model
from exporters.gguf.ggml import quantize
from exporters.gguf.grids import GRIDS, on_grid
from exporters.gguf.plan import PlannedTensor, in_file_order, read_rows

# Weights that one thread encodes at a time: few enough for a cache, by measurement.
_PART = 1 << 20
# Bytes for each thread that tensors may hold at once, where more than two of them are at work: a
# part and the next one. More would be memory that is touched for the first time, which is slow.
AHEAD = 16 << 20


def encode(
    pool: ThreadPoolExecutor, threads: int, model: Model, tensors: list[PlannedTensor]
) -> Iterator[np.ndarray]:
    """Encode every tensor, in order; work begins at once.

    A tensor is held from its start until the next one is requested. A new one starts while all of
    them hold at most `AHEAD` bytes per thread, or while at most one is held, so that the pool has
    work while that one is written.

    Args:
        pool: thread pool that does all work; no thread waits for another.
        threads: number of threads in the pool.
        model: model to read.
        tensors: planned tensors in file order.

    Returns:
        (rows, bytes) uint8 for each, or its values in float32 for F32.

    Raises:
        MachineError: a tensor's type needs llama-cpp-python, which is not installed.
    """
    coming, begun = deque(tensors), deque[tuple[int, np.ndarray, list[Future[None]]]]()

    def begin() -> None:
        while coming:
            size = _held(coming[0])
            if len(begun) > 1 and size + sum(other for other, *_ in begun) > threads * AHEAD:
                break
            begun.append((size, *_begin(pool, model, coming.popleft())))

    def results() -> Iterator[np.ndarray]:
        while begun:
            for part in begun[0][2]:
                part.result()
            yield begun[0][1]
            begun.popleft()
            begin()

    begin()
    return results()


def _held(tensor: PlannedTensor) -> int:
    """Bound the memory of a tensor: as stored, and as it will be in the file."""
    return 4 * math.prod(tensor.shape) + tensor.bytes


def _begin(
    pool: ThreadPoolExecutor, model: Model, tensor: PlannedTensor
) -> tuple[np.ndarray, list[Future[None]]]:
    """Allocate a tensor's bytes, and start the work on its parts."""
    values, encoded = read_rows(model, tensor), _encoder(model, tensor)
    if tensor.type == GGMLQuantizationType.F32:
        result = np.empty(tensor.shape, np.float32)
    else:
        block, block_bytes = GGML_QUANT_SIZES[tensor.type]
        rows, columns = tensor.shape
        result = np.empty((rows, columns // block * block_bytes), np.uint8)
    step = max(1, _PART * tensor.shape[0] // math.prod(tensor.shape))

    def work(start: int) -> None:
        part = slice(start, start + step)
        result[part] = encoded(values[part], part)

    return result, [pool.submit(work, start) for start in range(0, tensor.shape[0], step)]


def _encoder(model: Model, tensor: PlannedTensor) -> Callable[[np.ndarray, slice], np.ndarray]:
    """Encode some rows: on their grid if they are on one, else as ggml quantises."""
    found, alphabet = model.calibration, tensor.alphabet
    if (key := f"{tensor.source}.scales") in found and tensor.type.name in GRIDS:
        scales = in_file_order(found.read(key).float().numpy(), tensor)
        return lambda values, part: on_grid(values, scales[part], tensor.type, alphabet)
    importance = None
    if (key := f"{tensor.source}.importance") in found:
        importance = found.read(key).float().numpy()
    if alphabet:
        return lambda values, _: _nearest(values, tensor.type, alphabet, importance)
    return lambda values, _: quantize(values, tensor.type, importance)


def _nearest(
    values: np.ndarray, kind: GGMLQuantizationType, grid: Grid, importance: np.ndarray | None
) -> np.ndarray:
    """Round each weight by itself to an alphabet, with the scales that fit best."""
    import torch

    from edgeprune.quantization.scales import one_by_one

    weight = torch.from_numpy(values)
    each = torch.ones(values.shape[1]) if importance is None else torch.from_numpy(importance)
    rounded, scales = one_by_one(weight, each[:, None] * (weight != 0).T, grid)
    return on_grid(rounded.numpy(), scales.numpy(), kind, grid)
