"""Names and shapes of a model's tensors, for planning; nothing is converted or downloaded."""

from pathlib import Path

from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.weights import Weights, weight_files
from edgeprune.models.checkpoint import locate
from edgeprune.models.hub import cached_folder
from edgeprune.support.errors import InputError
from edgeprune.support.extras import load


def inventory(model: str) -> dict[str, tuple[int, ...]]:
    """Read names and shapes of all tensors of a model, from headers only.

    Raises:
        InputError: a header can't be read, or the hub can't be reached.
    """
    kind, place = locate(model)
    if kind == "file":
        return {t.name: t.shape for t in open_gguf(Path(place)).tensors}
    if kind == "hub" and (cached := cached_folder(place)):
        kind, place = "folder", str(cached)
    if kind == "folder":
        weights = Weights(weight_files(Path(place)))
        return {name: weights.shape(name) for name in weights.names()}
    try:
        metadata = load("huggingface_hub").get_safetensors_metadata(place)
    except Exception as error:  # the hub client raises many unrelated types
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise InputError(f"The hub model '{place}' could not be looked up: {reason}") from None
    return {
        name: tuple(info.shape)
        for file in metadata.files_metadata.values()
        for name, info in file.tensors.items()
    }
