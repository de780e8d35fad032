"""Open an ONNX artifact in transformers, by its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.formats.onnx.file import OnnxFile, OnnxTensor
from edgeprune.formats.weights import Weights
from edgeprune.models.checkpoint import Checkpoint
from edgeprune.models.loading import load_model
from exporters.base import Model

if TYPE_CHECKING:
    from torch import Tensor


class _Stored(Weights):
    """A model's weights, with matrices as an artifact stores them."""

    def __init__(self, model: Model, matrices: dict[str, OnnxTensor]):
        super().__init__(())
        self._model, self._matrices = model, matrices

    def names(self) -> list[str]:
        return self._model.weights.names()

    def read(self, name: str) -> "Tensor":
        import torch

        if name in self._matrices:
            return torch.from_numpy(self._matrices[name].values()).float()
        return self._model.weights.read(name)  # vectors stand in folded forms


def reopen(path: Path, model: Model) -> Any:
    """See `exporters.base.Exporter.reopen`."""
    import torch

    found = {one.name: one for one in OnnxFile(path).tensors if len(one.shape) > 1}
    checkpoint = Checkpoint("", str(path), model.folder, "")
    return load_model(checkpoint, torch.float32, _Stored(model, found))
