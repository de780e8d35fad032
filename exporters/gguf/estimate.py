"""Estimate a file's content for a model known only by names and shapes."""

from collections.abc import Iterable, Mapping

from gguf import TensorNameMap

from edgeprune.models.families import by_model_type
from edgeprune.planning.tensors import TensorPlan, block_of
from exporters.base import StorageRequest
from exporters.gguf.plan import PlannedTensor, arch_of, stored_as


def estimate(shapes: Mapping[str, tuple[int, ...]], wanted: StorageRequest) -> list[TensorPlan]:
    """Make rows for tensors by their names, in transformers' or GGUF's spelling.

    Only a configuration would tell whether a stored head is nevertheless tied.
    """
    blocks = 1 + max((block_of(name) or 0 for name in shapes), default=0)
    names = _names_in_file(shapes, blocks)
    tied = "output.weight" not in names.values()
    return [
        PlannedTensor(
            names[source], source, shape, *stored_as(names[source], shape, wanted, blocks, tied)
        ).row
        for source, shape in shapes.items()
    ]


def _names_in_file(sources: Iterable[str], blocks: int) -> dict[str, str]:
    """Map names by the architecture that fits most of them; others keep their own names."""
    known = {family.gguf.name: family for family in by_model_type().values() if family.gguf.name}
    best: dict[str, str] = {}
    for family in known.values():
        places = TensorNameMap(arch_of(family), blocks)
        found = {
            source: name
            for source in sources
            if (name := places.get_name(source, try_suffixes=(".weight", ".bias")))
        }
        best = max(best, found, key=len)
    return {source: best.get(source, source) for source in sources}
