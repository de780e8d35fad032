"""Diagonal Fisher information of a whole model: one pass over each stream before pruning starts."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from edgeprune.data.streams import Stream
from edgeprune.engine.device import on_device
from edgeprune.formats.weights import save_tensors
from edgeprune.support.distributed import add_up
from edgeprune.support.files import atomic_path
from edgeprune.support.progress import Progress


class Fisher:
    """Mean squared gradients of every block's matrices, kept on disk and read block by block."""

    def __init__(self, path: Path):
        self._path = path

    def read(self, stream: str, name: str) -> Tensor:
        """Read one parameter's values, in its shape, float32."""
        with safe_open(self._path, framework="pt") as file:
            return file.get_tensor(f"{stream}:{name}").float()


def gather_fisher(
    model: Any,
    blocks: nn.ModuleList,
    streams: dict[str, Stream],
    device: torch.device,
    dtype: torch.dtype,
    path: Path,
    progress: Progress,
) -> Fisher:
    """Average the squared gradients of the stream's loss over single sequences.

    The loss is the likelihood of answer tokens where a stream has them, else of all tokens. A
    gradient is squared, added and freed as soon as the backward pass has made it, so that no two
    whole gradients are ever held.

    Args:
        model: the dense model, on the CPU.
        blocks: its decoder blocks; nothing else is differentiated.
        streams: token streams by name.
        device: device that holds the model and a float32 sum for every weight.
        dtype: type of the matrix products.
        path: file for the result; reused if it exists.
        progress: receives progress by sequences.
    """
    if path.is_file():
        return Fisher(path)
    inside = {id(parameter) for parameter in blocks.parameters() if parameter.dim() > 1}
    parameters = {name: p for name, p in model.named_parameters() if id(p) in inside}
    tensors: dict[str, Tensor] = {}
    total = sum(len(stream.tokens) for stream in streams.values())
    with on_device(model, device), progress.stage("compute task gradients", total) as stage:
        for stream_name, stream in streams.items():
            sums = _squared_gradients(model, parameters, stream, device, dtype, stage)
            add_up(list(sums.values()))
            for name, total_square in sums.items():
                mean = total_square / total_square.mean().clamp_min(1e-30)
                tensors[f"{stream_name}:{name}"] = mean.bfloat16().cpu()
    with atomic_path(path) as temporary:
        save_tensors(temporary, tensors)
    return Fisher(path)


def _squared_gradients(
    model: Any,
    parameters: dict[str, nn.Parameter],
    stream: Stream,
    device: torch.device,
    dtype: torch.dtype,
    stage: Any,
) -> dict[str, Tensor]:
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    handles = []
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, parameter in parameters.items():

        def add(p: Tensor, name: str = name) -> None:
            sums[name] += p.grad.float().square()  # type: ignore[union-attr]
            p.grad = None

        handles.append(parameter.requires_grad_(True).register_post_accumulate_grad_hook(add))
    try:
        tokens, answered = stream.tokens.to(device), stream.answers.to(device)
        for ids, answers in zip(tokens.split(1), answered.split(1), strict=True):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            wanted = answers[0, 1:]
            if wanted.any():
                loss = nn.functional.cross_entropy(logits[wanted].float(), ids[0, 1:][wanted])
                loss.backward()
            stage.advance()
    finally:
        for handle in handles:
            handle.remove()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    return sums
